"""One pass over the images, shared by all models that lack features of the same units."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from toptune.costs.meter import CostMeter
from toptune.errors import InterruptedRunError
from toptune.extract.images.narrow import NarrowImages
from toptune.extract.pipeline.accounts import ModelDone, UnitsDone, share_costs
from toptune.extract.pipeline.lane import Lane
from toptune.extract.pipeline.model_work import ModelWork, length
from toptune.extract.pipeline.reader import BatchReader, open_reader
from toptune.extract.pipeline.streams import Streams, count_ahead, count_streams
from toptune.extract.pipeline.writer import UnitWriter
from toptune.extract.request.finished import finished_summary
from toptune.extract.request.options import Progress
from toptune.extract.request.plan import ExtractSummary
from toptune.store.files.json_values import canonical_json

# Function that is called with the rows done and the images failed so far.
Report = Callable[[int, int], None]
# Function that computes and commits units of the models in other processes, and returns the time they took.
Compute = Callable[[Sequence[ModelWork], Sequence[int], Report], UnitsDone]


class Tally:
    """Rows done and images failed over all passes of a call, as the progress callback receives them.

    Parameters
    ----------
    progress : callable, optional
        Called with ``(done_rows, rows, failed)``.
    total : int
        Rows of all passes.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total = progress, total
        self._rows, self._failed = 0, 0

    def tell(self, rows: int, failed: int) -> None:
        """Report the rows done and images failed of the current pass, beside those of the passes before."""
        if self._progress is not None:
            self._progress(self._rows + rows, self._total, self._failed + failed)

    def end_pass(self, rows: int, failed: int) -> None:
        """Add the rows and failures of a pass that has ended to those of the passes before."""
        self._rows, self._failed = self._rows + rows, self._failed + failed


class Pass:
    """Units of one data set whose images are read once for all models that lack these units.

    Parameters
    ----------
    works : sequence of ModelWork
        Models whose caches have the same units and batches.
    """

    def __init__(self, works: Sequence[ModelWork]) -> None:
        self.works = works
        self.lanes = [Lane(work) for work in works]
        self.units = sorted(set().union(*(work.wanted for work in works)))
        self._slices = works[0].cache.unit_slice
        self.rows = sum(length(self._slices(unit)) for unit in self.units)
        profile = works[0].request.options.profile
        self.writers = {lane: UnitWriter(lane.work.cache, profile) for lane in self.lanes}
        self.seconds, self.seconds_read = 0.0, 0.0
        self.narrow = NarrowImages()

    @property
    def n_failed(self) -> int:
        """Images that could not be used; models may differ, and the largest number counts."""
        return max(lane.n_failed for lane in self.lanes)

    def run(self, tally: Tally, *, compute: Compute | None = None) -> None:
        """Read the images, compute and commit the units.

        Parameters
        ----------
        tally : Tally
            Receives rows and failures as the work goes on.
        compute : callable, optional
            Computes the units in other processes; by default this process computes them.

        Raises
        ------
        InterruptedRunError
            If the work was stopped before its last unit.
        """
        if not self.units:
            return
        start = time.perf_counter()
        if compute is not None:
            self._adopt(compute(self.works, self.units, tally.tell))
        else:
            self._run_here(tally)
        self.seconds = time.perf_counter() - start
        tally.end_pass(self.rows, self.n_failed)

    def done(self) -> UnitsDone:
        """Return the failures and seconds of the pass."""
        return UnitsDone(
            seconds_read=self.seconds_read,
            models=tuple(
                ModelDone(
                    n_failed=lane.n_failed,
                    seconds_compute=lane.seconds_compute,
                    seconds_device=lane.seconds_device,
                    seconds_write=self.writers[lane].seconds,
                )
                for lane in self.lanes
            ),
            narrow=self.narrow,
        )

    def summaries(self) -> list[ExtractSummary]:
        """Summarize what was done for each model, in the order of `works`."""
        return [self._summary(lane) for lane in self.lanes]

    def _run_here(self, tally: Tally) -> None:
        request = self.works[0].request
        # One geometry serves all models that see the same pixels. Mean and standard deviation are no part of
        # the geometry, because the device normalizes.
        keys = {lane: canonical_json(lane.work.backbone.transform.geometry) for lane in self.lanes}
        geometries = {key: lane.work.backbone for lane, key in keys.items()}
        places = {lane: list(geometries).index(key) for lane, key in keys.items()}
        try:
            with ExitStack() as stack:
                # The stack closes in reverse order: after an error the writers stop first, then passes are
                # abandoned, then reading ends.
                reader = stack.enter_context(open_reader(request, list(geometries.values())))
                n, ahead = (
                    min(count(work.backbone) for work in self.works) for count in (count_streams, count_ahead)
                )
                streams = stack.enter_context(Streams(n, ahead))
                if request.options.profile is not None:
                    n_workers = {
                        "reading threads": request.options.n_workers,
                        "forward passes": streams.n,
                        "committing threads": len(self.writers),
                    }
                    stack.enter_context(request.options.profile.running(n_workers))
                for writer in self.writers.values():
                    stack.enter_context(writer)
                request.watch.begin_job(
                    lambda: self._clocks(reader), lambda: sum(lane.seconds_device for lane in self.lanes)
                )
                loop = _UnitLoop(self.writers, places, reader, streams, tally)
                loop.run(self.units)
        except KeyboardInterrupt:
            raise self._interrupted("stopped") from None
        if request.watch.reason is not None:
            raise self._interrupted(request.watch.reason)
        self.seconds_read, self.narrow = reader.seconds, loop.narrow

    def _adopt(self, done: UnitsDone) -> None:
        """Take over the failures and seconds that other processes report."""
        self.seconds_read, self.narrow = done.seconds_read, done.narrow
        for lane, model in zip(self.lanes, done.models, strict=True):
            lane.n_failed, lane.seconds_compute = model.n_failed, model.seconds_compute
            lane.seconds_device = model.seconds_device
            self.writers[lane].seconds = model.seconds_write

    def _clocks(self, reader: BatchReader) -> tuple[float, float, float]:
        """Return the seconds of reading, computing and committing so far."""
        return (
            reader.seconds,
            sum(lane.seconds_compute for lane in self.lanes),
            sum(writer.seconds for writer in self.writers.values()),
        )

    def _interrupted(self, reason: str) -> InterruptedRunError:
        n_units = sum(len(work.shard) for work in self.works)
        done = n_units + sum(
            writer.units_written - len(lane.work.units) for lane, writer in self.writers.items()
        )
        return InterruptedRunError(
            f"{reason} with {done} of {n_units} units stored; the same command resumes"
        )

    def _summary(self, lane: Lane) -> ExtractSummary:
        work = lane.work
        summary = finished_summary(
            work.cache, work.names, work.request, plan=work.plan, units_done=len(work.units)
        )
        if not work.units:
            return summary
        row_bytes = {spec.name: spec.dim * np.dtype(spec.dtype).itemsize for spec in work.cache.arrays()}
        return replace(
            summary,
            images_per_second=work.rows / self.seconds,
            seconds_read=self.seconds_read,
            seconds_compute=lane.seconds_compute,
            seconds_device=lane.seconds_device,
            seconds_write=self.writers[lane].seconds,
            bytes_written=sum(
                row_bytes[name] * length(self._slices(unit))
                for name in work.names
                for unit in work.missing[name]
            ),
        )


class _UnitLoop:
    """Takes unit after unit through the lanes, and commits those that are computed.

    Each unit is charged with what the process used since the unit before was committed, reading ahead
    included.

    Attributes
    ----------
    narrow : NarrowImages
        Images so far that use little of the range that their files declare.
    """

    def __init__(
        self,
        writers: Mapping[Lane, UnitWriter],
        places: Mapping[Lane, int],
        reader: BatchReader,
        streams: Streams,
        tally: Tally,
    ) -> None:
        self._writers, self._places = writers, places
        self._reader, self._streams, self._tally = reader, streams, tally
        self._lanes = list(writers)
        self._work = self._lanes[0].work
        # One entry for each unit whose batches were all taken: the lanes that want the unit.
        self._taken: deque[list[Lane]] = deque()
        self._meter = CostMeter()
        self._rows = 0
        self.narrow = NarrowImages()

    def run(self, units: Sequence[int]) -> None:
        """Compute units in order, until the last or until the watch ends the work, and commit them."""
        slices, watch = self._work.cache.unit_slice, self._work.request.watch
        self._batches = self._reader.batches(rows for unit in units for rows in self._work.batches(unit))
        for unit in units:
            if not (watch.may_begin(length(slices(unit))) and self._take(unit)):
                break
        while self._taken:
            self._commit(self._taken.popleft())

    def _take(self, unit: int) -> bool:
        """Take all batches of a unit; False if the watch ended the work before the last one."""
        stop, watch = self._work.cache.unit_slice(unit).stop, self._work.request.watch
        wanting = [lane for lane in self._lanes if unit in lane.work.wanted]
        for lane in wanting:
            lane.begin(unit)
        for rows in self._work.batches(unit):
            if not watch.may_go_on(stop - rows.start):
                return False
            by_geometry = next(self._batches)
            image_id = self._work.request.manifest.image_id
            self.narrow = self.narrow.with_rows(by_geometry[0].narrow, image_id)
            for lane in wanting:
                lane.take(by_geometry[self._places[lane]], self._streams)
            # Results of a unit's last batches arrive while the next unit is taken. Units are committed in
            # order all the same: a dask client takes the first unit without a commit for the unit that killed
            # the worker.
            while self._taken and all(lane.is_computed() for lane in self._taken[0]):
                self._commit(self._taken.popleft())
            self._rows += length(by_geometry[0].rows)
            self._tally.tell(self._rows, max(lane.n_failed for lane in self._lanes))
        self._taken.append(wanting)
        return True

    def _commit(self, wanting: Sequence[Lane]) -> None:
        # The meter begins anew with each unit, so that the costs of all units add up to those of the process.
        finished = share_costs([lane.finish() for lane in wanting], self._meter.to_dict())
        self._meter = CostMeter()
        for lane, values in zip(wanting, finished, strict=True):
            self._writers[lane].write(values)
