"""What a store holds, in rows to print and in full."""

from dataclasses import asdict, dataclass
from typing import Any

from toptune.store.errors import CorruptError, FormatVersionError
from toptune.store.feature_cache import FeatureCache
from toptune.store.feature_store import FeatureStore


@dataclass(frozen=True, kw_only=True)
class CacheSummary:
    """One row of ``store ls``; JSON values only.

    Attributes
    ----------
    name : str
        ``<model>@<digest8>``.
    dataset : str
    n_rows : int
    arrays : tuple of str
        Feature arrays.
    n_bytes : int
        Bytes of the values in committed units; `measure` counts what the files take.
    is_complete : bool
        Whether every unit of every array has a ledger entry; `verify` is what checks them.
    who, when : str
        Who made the cache, UTC.
    """

    name: str
    dataset: str
    n_rows: int
    arrays: tuple[str, ...]
    n_bytes: int
    is_complete: bool
    who: str
    when: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "arrays": list(self.arrays)}


def summarize(store: FeatureStore, *, dataset: str | None = None) -> list[CacheSummary]:
    """Return one row a cache, sorted by model name and data set.

    Ledger entries are counted, not read, so that a store of many units lists quickly.
    """
    return [_summary(cache) for cache in store.caches(dataset=dataset)]


def describe(store: FeatureStore, cache: FeatureCache) -> dict[str, Any]:
    """Return everything known of a cache as JSON values: ``store show``.

    ``others`` lists the caches of the same data set or model name, each with what differs from this one.
    """
    specs = cache.all_arrays()
    others = [
        other
        for other in store.caches()
        if other.path != cache.path and (other.model == cache.model or other.dataset == cache.dataset)
    ]
    return {
        **_summary(cache).to_dict(),
        "digest": cache.digest,
        "path": str(cache.path),
        "recipe": asdict(cache.recipe),
        "backbone": dict(cache.backbone),
        "created": dict(cache.created),
        "unit_rows": cache.unit_rows,
        "batch_size": cache.batch_size,
        "n_units": cache.n_units,
        "arrays": [{**spec.to_dict(), "missing_units": cache.missing_units(spec.name)} for spec in specs],
        "failed_rows": {str(row): reason for row, reason in cache.failed_rows().items()},
        "others": [
            {
                "name": other.name,
                "dataset": other.dataset,
                "differences": cache.recipe.differences(other.recipe)
                + (
                    []
                    if cache.dataset == other.dataset
                    else [f"dataset {cache.dataset} against {other.dataset}"]
                ),
            }
            for other in others
        ],
    }


def _summary(cache: FeatureCache) -> CacheSummary:
    try:
        specs = cache.all_arrays()
        counts = {spec: cache.count_entries(spec.name) for spec in specs}
        is_complete = bool(specs) and all(count == cache.n_units for count in counts.values())
    except (CorruptError, FormatVersionError):
        specs, counts, is_complete = [], {}, False  # `verify` names the damage
    return CacheSummary(
        name=cache.name,
        dataset=cache.dataset,
        n_rows=cache.n_rows,
        arrays=tuple(spec.name for spec in specs if spec.is_feature),
        n_bytes=sum(
            spec.row_bytes * min(spec.unit_rows * count, spec.n_rows) for spec, count in counts.items()
        ),
        is_complete=is_complete,
        who=cache.created["who"],
        when=cache.created["when"],
    )
