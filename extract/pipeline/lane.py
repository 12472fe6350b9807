"""One model's share of a pass over images: its missing units, its forward passes, its failures."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.extract.backbone.backbone import Backbone
from toptune.extract.backbone.taps import TapArray
from toptune.extract.pipeline.forwarding import forward_pixels
from toptune.extract.pipeline.reader import DIGEST_BYTES, Batch
from toptune.extract.pipeline.streams import Streams, Timed
from toptune.extract.pipeline.transfers import Transfer
from toptune.extract.pipeline.writer import UnitValues
from toptune.extract.request.finished import refuse_changed
from toptune.extract.request.plan import ExtractPlan
from toptune.extract.request.request import ExtractRequest
from toptune.store.features.feature_cache import CONTENT_ARRAY, FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.image_digests import GONE, KnownDigests


@dataclass
class _OpenUnit:
    """A unit that is being computed: its number, its first row, what there is of it so far."""

    number: int
    start: int
    values: dict[str, npt.NDArray[Any]]
    failed: dict[int, str] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)
    seconds_compute: float = 0.0

    def place(self, batch: Batch) -> slice:
        return slice(batch.rows.start - self.start, batch.rows.stop - self.start)


class Lane:
    """The units of one cache that are still to be computed.

    For each of its units, in order: `begin`, `take` every batch, and, perhaps while the next unit is taken,
    `finish`. Batches are launched ahead of those whose results are fetched, so that no core waits, and a CUDA
    device goes on while the last results travel.

    Attributes
    ----------
    units : list of int
        To be computed, ascending; `wanted` is the set of them. If some are given they are looked at in place
        of the whole job's, and all of `arrays` are computed, because another process chose them.
    rows : int
        Images in them.
    """

    def __init__(
        self,
        request: ExtractRequest,
        backbone: Backbone,
        arrays: Sequence[TapArray],
        cache: FeatureCache,
        plan: ExtractPlan | None,
        units: Sequence[int] | None = None,
    ) -> None:
        self.request, self.backbone, self.cache, self.plan = request, backbone, cache, plan
        self.names = [array.name for array in arrays]
        self.shard = request.units(cache.n_units, cache.unit_rows) if units is None else list(units)
        self.missing = missing_units(cache, [*self.names, CONTENT_ARRAY], self.shard)
        self.units = sorted(set().union(*self.missing.values()))
        # The same set in every unit: what else is computed along must not depend on where one stopped.
        self.arrays = [array for array in arrays if units is not None or self.missing[array.name]]
        self.dtypes = {spec.name: spec.dtype for spec in cache.arrays()}
        self.wanted = frozenset(self.units)
        self.rows = sum(length(cache.unit_slice(unit)) for unit in self.units)
        self.seconds_compute = 0.0
        self.n_failed = 0
        self._known = _known_digests(request, cache)
        self._open: deque[_OpenUnit] = deque()
        self._launched: deque[tuple[_OpenUnit, Batch, Future[Timed[Transfer]]]] = deque()
        self._finished = 0.0

    @property
    def cut(self) -> tuple[int, int]:
        """Rows of a unit and of a batch: lanes of one cut can share what is read."""
        return self.cache.unit_rows, self.cache.batch_size

    def batches(self, unit: int) -> Iterator[slice]:
        """Cut a unit into batches; they start where the unit starts."""
        rows = self.cache.unit_slice(unit)
        for start in range(rows.start, rows.stop, self.cache.batch_size):
            yield slice(start, min(start + self.cache.batch_size, rows.stop))

    def begin(self, unit: int) -> None:
        """Make room for a unit; the ones before it may still be computed."""
        rows = self.cache.unit_slice(unit)
        values = {
            array.name: np.empty((length(rows), array.dim), dtype=self.dtypes[array.name])
            for array in self.arrays
        }
        values[CONTENT_ARRAY] = np.empty((length(rows), DIGEST_BYTES), dtype=np.uint8)
        self._open.append(_OpenUnit(unit, rows.start, values))

    def take(self, batch: Batch, streams: Streams) -> None:
        """Compute a batch of the unit that was begun last.

        Raises
        ------
        ConflictError
            If an image's bytes are not those that other features were extracted from.
        """
        self._check_content(batch)
        unit = self._open[-1]
        unit.values[CONTENT_ARRAY][unit.place(batch)] = batch.digests
        unit.failed |= batch.failed
        self.n_failed += sum(reason != GONE for reason in batch.failed.values())
        if len(batch.failed) == length(batch.rows):
            # Nothing to compute: values of images that failed are stored as NaN whatever they are.
            for array in self.arrays:
                unit.values[array.name][unit.place(batch)] = 0
        elif self.arrays:
            work = partial(forward_pixels, self.backbone, batch.pixels, self.arrays, dtypes=self.dtypes)
            self._launched.append((unit, batch, streams.launch(work)))
        while len(self._launched) > streams.n:
            self._fetch()

    def is_computed(self) -> bool:
        """Say whether all that was taken of the oldest unit at hand is there."""
        return not self._launched or self._launched[0][0] is not self._open[0]

    def finish(self) -> UnitValues:
        """Give the oldest unit at hand, all of whose batches were taken, once it is computed."""
        while not self.is_computed():
            self._fetch()
        unit, now = self._open.popleft(), time.perf_counter()
        # Units overlap: each has the time since the one before it was done.
        seconds, self._finished = now - max(unit.began, self._finished), now
        wanted = {name: array for name, array in unit.values.items() if unit.number in self.missing[name]}
        return UnitValues(
            unit.number, wanted, unit.failed, seconds=seconds, seconds_compute=unit.seconds_compute
        )

    def _fetch(self) -> None:
        unit, batch, future = self._launched.popleft()
        transfer, seconds = future.result()
        start = time.perf_counter()
        for name, output in transfer.result().items():
            if output.dtype != unit.values[name].dtype:
                unit.values[name] = unit.values[name].astype(output.dtype)
            unit.values[name][unit.place(batch)] = output
        seconds += time.perf_counter() - start
        unit.seconds_compute += seconds
        self.seconds_compute += seconds

    def _check_content(self, batch: Batch) -> None:
        digests, known = self._known.of(batch.rows)
        differs = known & (digests != batch.digests).any(axis=1)
        differs[[row - batch.rows.start for row, reason in batch.failed.items() if reason == GONE]] = False
        image = self.request.manifest.image_id
        refuse_changed(
            [image(batch.rows.start + int(place)) for place in np.flatnonzero(differs)],
            self.request.dataset,
        )


def missing_units(cache: FeatureCache, names: Sequence[str], shard: Sequence[int]) -> dict[str, list[int]]:
    """List for each array the units of a job that are not committed."""
    return {name: [unit for unit in shard if cache.entry(name, unit) is None] for name in names}


def length(rows: slice) -> int:
    """Count rows."""
    return int(rows.stop - rows.start)


def _known_digests(request: ExtractRequest, cache: FeatureCache) -> KnownDigests:
    """Look for the images' digests in this cache and the others of the data set."""
    caches = FeatureStore.open(request.root).caches(dataset=request.dataset)
    others = [other for other in caches if other.path != cache.path]
    return KnownDigests([cache, *others], needed=cache)
