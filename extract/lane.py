"""One model's share of a pass over pictures: its missing units, its forward passes, its failures."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from toptune.extract.backbone import Backbone
from toptune.extract.extract_request import ExtractRequest
from toptune.extract.finished import refuse_changed
from toptune.extract.plan import ExtractPlan
from toptune.extract.reading import DIGEST_BYTES, Batch
from toptune.extract.taps import TapArray
from toptune.extract.transfers import Transfer, start_transfer, to_device
from toptune.extract.writing import UnitValues
from toptune.store import CONTENT_ARRAY, GONE, FeatureCache, FeatureStore, KnownDigests

logger = logging.getLogger(__name__)


class Lane:
    """The units of one cache that are still to be computed.

    For each of its units: `begin`, `take` every batch, `finish`. Batches are launched one ahead of those
    whose results are fetched, so that a CUDA device goes on while the last results travel.

    Attributes
    ----------
    units : list of int
        To be computed, ascending; `wanted` is the set of them. If some are given they are looked at in place
        of the whole job's, and all of `arrays` are computed, because another process chose them.
    rows : int
        Pictures in them.
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
        self._launched: tuple[Batch, Transfer] | None = None

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
        """Make room for a unit."""
        self._unit, self._rows, self._start = unit, self.cache.unit_slice(unit), time.perf_counter()
        self._computed_before = self.seconds_compute
        n = length(self._rows)
        self._values: dict[str, npt.NDArray[Any]] = {
            array.name: np.empty((n, array.dim), dtype=self.dtypes[array.name]) for array in self.arrays
        }
        self._values[CONTENT_ARRAY] = np.empty((n, DIGEST_BYTES), dtype=np.uint8)
        self._failed: dict[int, str] = {}

    def take(self, batch: Batch) -> None:
        """Compute a batch of the unit.

        Raises
        ------
        ConflictError
            If a picture's bytes are not those that other features were extracted from.
        """
        self._check_content(batch)
        self._values[CONTENT_ARRAY][self._place(batch)] = batch.digests
        self._failed |= batch.failed
        self.n_failed += sum(reason != GONE for reason in batch.failed.values())
        start = time.perf_counter()
        launched = None
        if len(batch.failed) == length(batch.rows):
            # Nothing to compute: values of pictures that failed are stored as NaN whatever they are.
            for array in self.arrays:
                self._values[array.name][self._place(batch)] = 0
        elif self.arrays:
            launched = (
                batch,
                forward_pixels(self.backbone, batch.pixels, self.arrays, dtypes=self.dtypes),
            )
        self._fetch()
        self._launched = launched
        self.seconds_compute += time.perf_counter() - start

    def finish(self) -> UnitValues:
        """Give the unit, computed."""
        self._fetch()
        wanted = {name: array for name, array in self._values.items() if self._unit in self.missing[name]}
        return UnitValues(
            self._unit,
            wanted,
            self._failed,
            seconds=time.perf_counter() - self._start,
            seconds_compute=self.seconds_compute - self._computed_before,
        )

    def _fetch(self) -> None:
        if self._launched is None:
            return
        batch, transfer = self._launched
        self._launched = None
        for name, output in transfer.result().items():
            if output.dtype != self._values[name].dtype:
                self._values[name] = self._values[name].astype(output.dtype)
            self._values[name][self._place(batch)] = output

    def _place(self, batch: Batch) -> slice:
        return slice(batch.rows.start - self._rows.start, batch.rows.stop - self._rows.start)

    def _check_content(self, batch: Batch) -> None:
        digests, known = self._known.of(batch.rows)
        differs = known & (digests != batch.digests).any(axis=1)
        differs[[row - batch.rows.start for row, reason in batch.failed.items() if reason == GONE]] = False
        picture = self.request.manifest.picture_id
        refuse_changed(
            [picture(batch.rows.start + int(place)) for place in np.flatnonzero(differs)],
            self.request.dataset,
        )


def forward_pixels(
    backbone: Backbone,
    pixels: npt.NDArray[np.uint8],
    arrays: Sequence[TapArray],
    *,
    dtypes: Mapping[str, str] | None = None,
) -> Transfer:
    """Compute arrays of a batch of pixels ``(b, h, w, 3)``.

    A batch that does not fit a CUDA device's memory is cut in halves, and said to be.

    Parameters
    ----------
    dtypes : mapping of str to str, optional
        Arrays that are to be float16 are converted before they leave the device. By default all are
        float32.
    """
    with torch.inference_mode():
        outputs = _forward(backbone, to_device(pixels, backbone.device), arrays)
        return start_transfer(outputs, dtypes or {})


def _forward(backbone: Backbone, pixels: torch.Tensor, arrays: Sequence[TapArray]) -> dict[str, torch.Tensor]:
    try:
        return backbone.forward(backbone.transform.normalize(pixels), arrays)
    except torch.OutOfMemoryError:
        if len(pixels) == 1:
            raise
    logger.warning("%d pictures at once do not fit the device's memory; computing halves", len(pixels))
    torch.cuda.empty_cache()
    halves = [_forward(backbone, half, arrays) for half in pixels.chunk(2)]
    return {name: torch.cat([half[name] for half in halves]) for name in halves[0]}


def missing_units(cache: FeatureCache, names: Sequence[str], shard: Sequence[int]) -> dict[str, list[int]]:
    """List for each array the units of a job that are not committed."""
    return {name: [unit for unit in shard if cache.entry(name, unit) is None] for name in names}


def length(rows: slice) -> int:
    """Count rows."""
    return int(rows.stop - rows.start)


def _known_digests(request: ExtractRequest, cache: FeatureCache) -> KnownDigests:
    """Look for the pictures' digests in this cache and the others of the data set."""
    caches = FeatureStore.open(request.root).caches(dataset=request.dataset)
    others = [other for other in caches if other.path != cache.path]
    return KnownDigests([cache, *others], needed=cache)
