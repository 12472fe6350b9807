"""`ModelWork`: the units that one model still lacks, looked up in the store before any image is read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from toptune.extract.backbone.backbone import Backbone
from toptune.extract.backbone.taps import TapArray
from toptune.extract.request.plan import ExtractPlan
from toptune.extract.request.request import ExtractRequest
from toptune.store.features.feature_cache import CONTENT_ARRAY, FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.image_digests import KnownDigests


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelWork:
    """The units of one cache that are still to be computed; made by `find_work`.

    Attributes
    ----------
    request : ExtractRequest
        The request of the call.
    backbone : Backbone
        The network.
    cache : FeatureCache
        The cache that units are committed to.
    plan : ExtractPlan, optional
        The plan, where this process made it.
    names : tuple of str
        All requested arrays.
    arrays : tuple of TapArray
        The arrays that are computed, the same in every unit: which other arrays are computed along must not
        depend on where an earlier call stopped.
    shard : tuple of int
        Units of this job.
    missing : mapping of str to list of int
        For each array, and for the digests of the images, the units of this job that are not committed.
    dtypes : mapping of str to str
        Type of each array on disk.
    known : KnownDigests
        Digests of the images, as this cache and the others of the data set know them.
    """

    request: ExtractRequest
    backbone: Backbone
    cache: FeatureCache
    plan: ExtractPlan | None
    names: tuple[str, ...]
    arrays: tuple[TapArray, ...]
    shard: tuple[int, ...]
    missing: Mapping[str, Sequence[int]]
    dtypes: Mapping[str, str]
    known: KnownDigests

    @cached_property
    def wanted(self) -> frozenset[int]:
        """Units that lack an array, or the digests of their images."""
        return frozenset(unit for units in self.missing.values() for unit in units)

    @cached_property
    def units(self) -> list[int]:
        """The units of `wanted`, ascending."""
        return sorted(self.wanted)

    @property
    def rows(self) -> int:
        """Images of the units."""
        return sum(length(self.cache.unit_slice(unit)) for unit in self.units)

    @property
    def sharing(self) -> tuple[str, int, int]:
        """Data set, rows of a unit and rows of a batch; models that agree in all three share a pass."""
        return self.request.dataset, self.cache.unit_rows, self.cache.batch_size

    def batches(self, unit: int) -> Iterator[slice]:
        """Divide a unit into batches; the first one starts where the unit starts."""
        # The last bits of a forward pass depend on which images share a batch. Batches that ran across units
        # would depend on where an earlier call stopped.
        rows = self.cache.unit_slice(unit)
        for start in range(rows.start, rows.stop, self.cache.batch_size):
            yield slice(start, min(start + self.cache.batch_size, rows.stop))


def find_work(
    request: ExtractRequest,
    backbone: Backbone,
    arrays: Sequence[TapArray],
    cache: FeatureCache,
    *,
    plan: ExtractPlan | None = None,
    units: Sequence[int] | None = None,
) -> ModelWork:
    """Look up in the store what a model's cache lacks.

    Parameters
    ----------
    request : ExtractRequest
        The request of the call.
    backbone : Backbone
        The network.
    arrays : sequence of TapArray
        Arrays that are to be stored.
    cache : FeatureCache
        The cache that stores the arrays.
    plan : ExtractPlan, optional
        The plan, for the summary.
    units : sequence of int, optional
        Units that are looked up instead of all units of the job. All `arrays` are then computed in these
        units, because another process chose the arrays.
    """
    names = [array.name for array in arrays]
    shard = request.units(cache.n_units, cache.unit_rows) if units is None else list(units)
    # The digests of the images are an array like the features: a unit without digests is read again.
    missing = missing_units(cache, [*names, CONTENT_ARRAY], shard)
    others = FeatureStore.open(request.root).caches(dataset=request.dataset)
    return ModelWork(
        request=request,
        backbone=backbone,
        cache=cache,
        plan=plan,
        names=tuple(names),
        arrays=tuple(array for array in arrays if units is not None or missing[array.name]),
        shard=tuple(shard),
        missing=missing,
        dtypes={spec.name: spec.dtype for spec in cache.arrays()},
        known=KnownDigests([cache, *(other for other in others if other.path != cache.path)], needed=cache),
    )


def missing_units(cache: FeatureCache, names: Sequence[str], shard: Sequence[int]) -> dict[str, list[int]]:
    """List for each array the units of a job that are not committed."""
    return {name: [unit for unit in shard if cache.entry(name, unit) is None] for name in names}


def length(rows: slice) -> int:
    """Count the rows of a slice."""
    return int(rows.stop - rows.start)
