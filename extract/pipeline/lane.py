"""`Lane`: the queue of one model in a pass over images, from units that are begun to computed ones."""

import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from toptune.costs.stages import timed
from toptune.errors import NumericalError
from toptune.extract.pipeline.forwarding import find_overflows, forward_pixels
from toptune.extract.pipeline.model_work import ModelWork, length
from toptune.extract.pipeline.reader import Batch
from toptune.extract.pipeline.streams import Streams, Timed
from toptune.extract.pipeline.transfers import BatchTransfer
from toptune.extract.pipeline.writer import UnitValues
from toptune.extract.request.finished import refuse_changed
from toptune.store.features.feature_cache import CONTENT_ARRAY, DIGEST_BYTES
from toptune.store.features.image_digests import GONE


@dataclass
class _OpenUnit:
    """A unit that is being computed: its number, its first row, and its values so far."""

    number: int
    start: int
    values: dict[str, npt.NDArray[np.float32]]
    failed: dict[int, str] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)
    seconds_compute: float = 0.0
    seconds_device: float = 0.0

    def place(self, batch: Batch) -> slice:
        return slice(batch.rows.start - self.start, batch.rows.stop - self.start)


class Lane:
    """The queue of one model's units.

    For each unit, in order: `begin`, `take` every batch, and, perhaps while the next unit is taken, `finish`.
    Batches are launched ahead of those whose results are fetched, so that no core waits, and a CUDA device
    has the next batch in its queue while the last results are put into their unit.

    Parameters
    ----------
    work : ModelWork
        Units and arrays that are to be computed.

    Attributes
    ----------
    n_failed : int
        Images so far that could not be used.
    seconds_compute : float
        Seconds of the forward passes so far, shared by their streams; on a CUDA device the seconds in which
        they were launched and waited for.
    seconds_device : float
        Seconds that a CUDA device took for the passes so far.
    """

    def __init__(self, work: ModelWork) -> None:
        self.work = work
        self.n_failed = 0
        self.seconds_compute, self.seconds_device = 0.0, 0.0
        self._open: deque[_OpenUnit] = deque()
        self._launched: deque[tuple[_OpenUnit, Batch, Future[Timed[BatchTransfer]]]] = deque()
        self._finished = 0.0

    def begin(self, unit: int) -> None:
        """Make room for a unit; the ones before it may still be computed."""
        work, rows = self.work, self.work.cache.unit_slice(unit)
        values = {
            array.name: np.empty((length(rows), array.dim), dtype=work.dtypes[array.name])
            for array in work.arrays
        }
        values[CONTENT_ARRAY] = np.empty((length(rows), DIGEST_BYTES), dtype=np.uint8)
        self._open.append(_OpenUnit(unit, rows.start, values))

    def take(self, batch: Batch, streams: Streams) -> None:
        """Compute a batch of the unit that was begun last.

        Raises
        ------
        ConflictError
            If the bytes of an image are not those that other features were extracted from.
        NumericalError
            If features of an image before leave the range of fp16, in which the network computes.
        """
        self._check_content(batch)
        unit, arrays = self._open[-1], self.work.arrays
        unit.values[CONTENT_ARRAY][unit.place(batch)] = batch.digests
        unit.failed |= batch.failed
        # Rows of images that the data set no longer has are marked like failures, but nothing went wrong with
        # them.
        self.n_failed += sum(reason != GONE for reason in batch.failed.values())
        if len(batch.failed) == length(batch.rows):
            # The forward pass is skipped: rows of failed images are stored as NaN, so any value will do.
            for array in arrays:
                unit.values[array.name][unit.place(batch)] = 0
        elif arrays:
            work = partial(
                forward_pixels,
                self.work.backbone,
                batch.pixels,
                arrays,
                dtypes=self.work.dtypes,
                profile=self.work.request.options.profile,
            )
            self._launched.append((unit, batch, streams.launch(work)))
        # One pass more is kept in flight: the streams stay busy while a result is copied into its unit, and
        # the memory of results that wait stays bounded.
        while len(self._launched) > streams.ahead:
            self._fetch()

    def is_computed(self) -> bool:
        """Say whether the results of all batches taken of the oldest open unit are fetched."""
        return not self._launched or self._launched[0][0] is not self._open[0]

    def finish(self) -> UnitValues:
        """Return the oldest open unit, all of whose batches were taken, once it is computed."""
        while not self.is_computed():
            self._fetch()
        unit, now = self._open.popleft(), time.perf_counter()
        # Units overlap in time: each is charged with the time since the unit before was done.
        seconds, self._finished = now - max(unit.began, self._finished), now
        missing = self.work.missing
        wanted = {name: array for name, array in unit.values.items() if unit.number in missing[name]}
        return UnitValues(
            unit.number,
            wanted,
            unit.failed,
            seconds=seconds,
            seconds_compute=unit.seconds_compute,
            seconds_device=unit.seconds_device,
        )

    def _fetch(self) -> None:
        unit, batch, future = self._launched.popleft()
        profile = self.work.request.options.profile
        if profile is not None:
            profile.ask("transfer", is_ready=future.done() and future.result()[0].is_done())
        transfer, seconds = future.result()
        start = time.perf_counter()
        # The wait for a device is no work of the main thread.
        transfer.wait()
        on_device = transfer.device_seconds()
        if profile is not None and on_device:
            profile.add("forward", on_device["forward"], length(batch.rows))
            profile.add("pool", on_device.get("pool", 0.0), length(batch.rows), within="forward")
        with timed(profile, "transfer", length(batch.rows)):
            outputs = transfer.result()
            self._check_range(batch, outputs)
            for name, output in outputs.items():
                # An overflow of float16 comes as float32, and the store then names the image.
                if output.dtype != unit.values[name].dtype:
                    unit.values[name] = unit.values[name].astype(output.dtype)
                unit.values[name][unit.place(batch)] = output
        seconds += time.perf_counter() - start
        unit.seconds_compute += seconds
        self.seconds_compute += seconds
        unit.seconds_device += on_device.get("forward", 0.0)
        self.seconds_device += on_device.get("forward", 0.0)

    def _check_range(self, batch: Batch, outputs: Mapping[str, npt.NDArray[np.floating]]) -> None:
        reason, places = find_overflows(self.work.backbone, outputs)
        for row in (places + batch.rows.start).tolist():
            if row not in batch.failed:
                image = self.work.request.manifest.image_id(row)
                raise NumericalError(
                    f"{self.work.request.name.given}: features of image {image!r} (row {row}) {reason}"
                )

    def _check_content(self, batch: Batch) -> None:
        # The size and time of a file do not prove that its bytes are those of other features of the data set.
        # The digests do, and they are compared before the batch is computed.
        digests, known = self.work.known.of(batch.rows)
        differs = known & (digests != batch.digests).any(axis=1)
        differs[[row - batch.rows.start for row, reason in batch.failed.items() if reason == GONE]] = False
        request = self.work.request
        refuse_changed(
            [request.manifest.image_id(batch.rows.start + int(place)) for place in np.flatnonzero(differs)],
            request.dataset,
        )
