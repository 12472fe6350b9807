"""One pass over the images for all lanes that share them."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from toptune.costs.meter import CostMeter
from toptune.errors import InterruptedRunError
from toptune.extract.pipeline.accounts import ModelDone, UnitsDone, share_costs
from toptune.extract.pipeline.dask_units import Workers
from toptune.extract.pipeline.lane import Lane, length
from toptune.extract.pipeline.reader import BatchReader, open_reader
from toptune.extract.pipeline.streams import Streams, count_streams
from toptune.extract.pipeline.writer import UnitWriter
from toptune.extract.request.finished import finished_summary
from toptune.extract.request.plan import ExtractSummary
from toptune.store.files.json_values import canonical_json


class Pass:
    """Units of one data set, read once for all lanes that lack them."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes = lanes
        self.units = sorted(set().union(*(lane.units for lane in lanes)))
        self._slices = lanes[0].cache.unit_slice
        self.rows = sum(length(self._slices(unit)) for unit in self.units)
        self.writers = {lane: UnitWriter(lane.cache) for lane in lanes}
        self.seconds, self.seconds_read = 0.0, 0.0

    @property
    def n_failed(self) -> int:
        return max(lane.n_failed for lane in self.lanes)

    def run(self, *, before: int, total: int, failed: int, workers: Workers | None = None) -> None:
        """Read, compute and commit, with progress as of `total` rows, `before` of which others have done."""
        if not self.units:
            return
        start, watch = time.perf_counter(), self.lanes[0].request.watch
        if workers is not None:
            progress = self.lanes[0].request.progress or (lambda *_: None)
            self._adopt(
                workers.compute(
                    self.lanes, self.units, lambda rows, new: progress(before + rows, total, failed + new)
                )
            )
            self.seconds = time.perf_counter() - start
            return
        # One geometry for all models that see the same pixels.
        keys = {lane: canonical_json(lane.backbone.transform.geometry) for lane in self.lanes}
        geometries = {key: lane.backbone for lane, key in keys.items()}
        places = {lane: list(geometries).index(key) for lane, key in keys.items()}
        try:
            with ExitStack() as stack:
                reader = stack.enter_context(open_reader(self.lanes[0].request, list(geometries.values())))
                streams = stack.enter_context(
                    Streams(min(count_streams(lane.backbone) for lane in self.lanes))
                )
                for writer in self.writers.values():
                    stack.enter_context(writer)
                watch.begin_job(lambda: self._clocks(reader))
                self._compute(reader, streams, places, before=before, total=total, failed=failed)
        except KeyboardInterrupt:
            raise self._interrupted("stopped") from None
        if watch.reason is not None:
            raise self._interrupted(watch.reason)
        self.seconds, self.seconds_read = time.perf_counter() - start, reader.seconds

    def done(self) -> UnitsDone:
        """Say what it took."""
        return UnitsDone(
            seconds_read=self.seconds_read,
            models=tuple(
                ModelDone(
                    n_failed=lane.n_failed,
                    seconds_compute=lane.seconds_compute,
                    seconds_write=self.writers[lane].seconds,
                )
                for lane in self.lanes
            ),
        )

    def _adopt(self, done: UnitsDone) -> None:
        """Take what workers did for one's own."""
        self.seconds_read = done.seconds_read
        for lane, model in zip(self.lanes, done.models, strict=True):
            lane.n_failed, lane.seconds_compute = model.n_failed, model.seconds_compute
            self.writers[lane].seconds = model.seconds_write

    def _clocks(self, reader: BatchReader) -> tuple[float, float, float]:
        """Seconds of reading, computing and committing so far."""
        return (
            reader.seconds,
            sum(lane.seconds_compute for lane in self.lanes),
            sum(writer.seconds for writer in self.writers.values()),
        )

    def _interrupted(self, reason: str) -> InterruptedRunError:
        n_units = sum(len(lane.shard) for lane in self.lanes)
        done = n_units + sum(self.writers[lane].units_written - len(lane.units) for lane in self.lanes)
        return InterruptedRunError(
            f"{reason} with {done} of {n_units} units stored; the same command resumes"
        )

    def _compute(
        self,
        reader: BatchReader,
        streams: Streams,
        places: Mapping[Lane, int],
        *,
        before: int,
        total: int,
        failed: int,
    ) -> None:
        batches = reader.batches(rows for unit in self.units for rows in self.lanes[0].batches(unit))
        progress, watch = self.lanes[0].request.progress, self.lanes[0].request.watch
        done, meter = before, CostMeter()
        taken: deque[list[Lane]] = deque()  # for each unit all of whose batches were taken, who wants it

        def commit(wanting: list[Lane]) -> None:
            nonlocal meter
            finished = share_costs([lane.finish() for lane in wanting], meter.to_dict())
            meter = CostMeter()
            for lane, values in zip(wanting, finished, strict=True):
                self.writers[lane].write(values)

        def take(unit: int) -> bool:
            nonlocal done
            wanting = [lane for lane in self.lanes if unit in lane.wanted]
            for lane in wanting:
                lane.begin(unit)
            for rows in self.lanes[0].batches(unit):
                if not watch.may_go_on(self._slices(unit).stop - rows.start):
                    return False
                by_geometry = next(batches)
                for lane in wanting:
                    lane.take(by_geometry[places[lane]], streams)
                while taken and all(lane.is_computed() for lane in taken[0]):
                    commit(taken.popleft())
                done += length(by_geometry[0].rows)
                if progress is not None:
                    progress(done, total, failed + self.n_failed)
            taken.append(wanting)
            return True

        for unit in self.units:
            if not (watch.may_begin(length(self._slices(unit))) and take(unit)):
                break
        while taken:
            commit(taken.popleft())

    def summary(self, lane: Lane) -> ExtractSummary:
        """Summarise what was done for one of the lanes."""
        if not lane.units:
            return finished_summary(lane.cache, lane.names, lane.request, nothing_to_do=True, plan=lane.plan)
        row_bytes = {spec.name: spec.dim * np.dtype(spec.dtype).itemsize for spec in lane.cache.arrays()}
        return finished_summary(
            lane.cache,
            lane.names,
            lane.request,
            units_done=len(lane.units),
            images_per_second=lane.rows / self.seconds,
            seconds_read=self.seconds_read,
            seconds_compute=lane.seconds_compute,
            seconds_write=self.writers[lane].seconds,
            bytes_written=sum(
                row_bytes[name] * length(self._slices(unit))
                for name in lane.names
                for unit in lane.missing[name]
            ),
            plan=lane.plan,
        )
