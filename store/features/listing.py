"""Descriptions of what a store holds: in rows to print, and in full."""

import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from toptune.errors import CorruptError, FormatVersionError, InputError, StoreNotFoundError
from toptune.options import choices
from toptune.store.datasets.dataset_records import base_of
from toptune.store.datasets.versions import DatasetVersion, read_dataset_version, version_numbers
from toptune.store.features.cache_records import split_folder
from toptune.store.features.feature_cache import FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import FeatureView
from toptune.store.files.names import plain_model_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CacheSummary:
    """One row of ``store ls``; JSON values only.

    Attributes
    ----------
    name : str
        ``<model>@<digest8>``.
    dataset : str
    version : int
        Latest version of the data set; the other fields describe this version.
    parts : int
        Parts that hold its images: 1 unless it has grown.
    n_rows : int
    arrays : tuple of str
        Feature arrays.
    n_bytes : int
        Bytes of the values in committed units; `measure` counts what the files take.
    is_complete : bool
        Whether every unit of every array has a ledger entry, in every part; `verify` is what checks them.
    who, when : str
        Who made the cache, UTC.
    """

    name: str
    dataset: str
    version: int
    parts: int
    n_rows: int
    arrays: tuple[str, ...]
    n_bytes: int
    is_complete: bool
    who: str
    when: str

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {**asdict(self), "arrays": list(self.arrays)}


def summarize(store: FeatureStore, *, dataset: str | None = None) -> list[CacheSummary]:
    """Return a row for each model and data set, sorted by both.

    Ledger entries are counted, not read, so that a store of many units lists quickly.
    """
    return [
        _summary(each) if isinstance(each, FeatureCache) else _view_summary(each)
        for each in stored_features(store, dataset=dataset)
    ]


def stored_features(store: FeatureStore, *, dataset: str | None = None) -> list[FeatureCache | FeatureView]:
    """List the caches of data sets that never grew, and views of the latest version of the others.

    Sorted by model name and data set; what is unreadable is logged and left out.
    """
    found: list[FeatureCache | FeatureView] = []
    latest: dict[str, DatasetVersion | None] = {}
    seen: set[tuple[str, str]] = set()
    for cache in store.caches():
        name = base_of(store.root, cache.dataset) or cache.dataset
        if dataset not in (None, name):
            continue
        if version_numbers(store.root, name)[-1] == 1:
            found.append(cache)
        elif (name, cache.digest) not in seen:
            seen.add((name, cache.digest))
            if name not in latest:
                latest[name] = _latest(store, name)
            version = latest[name]
            view = None if version is None else store.view(version, cache.digest)
            if view is not None:
                found.append(view)
    return found


def stored_models(store: FeatureStore, dataset: str) -> list[str]:
    """Return the models of which a data set has features for all images, by names that tell them apart.

    Raises
    ------
    StoreNotFoundError
        If there is no such data set, or none of its features are whole.
    InputError
        If `dataset` is a part of another.
    """
    store.manifest(dataset)  # An unknown name is refused with the names that there are.
    found = stored_features(store, dataset=dataset)
    whole = [each for each in found if any(each.is_complete([array.name]) for array in each.arrays())]
    for each in found:
        if each not in whole:
            logger.warning(
                "left out: %s lacks images of %s; the same extract goes on [TT202]", each.name, dataset
            )
    if not whole:
        raise StoreNotFoundError(
            f"the store {store.root} has no whole features over {dataset!r}; toptune extract adds some",
            option="dataset",
        )
    plain = Counter(each.model for each in whole)
    return [each.model if plain[each.model] == 1 else each.name for each in whole]


def _latest(store: FeatureStore, dataset: str) -> DatasetVersion | None:
    try:
        return read_dataset_version(store.root, dataset)
    except (CorruptError, FormatVersionError, StoreNotFoundError) as error:
        logger.warning("left out: %s [TT203]", error)
        return None


def only_features(
    store: FeatureStore, *, dataset: str | None = None, model: str | None = None
) -> tuple[str, str]:
    """Return the names of a data set and of a model over it, where one that is left out can only be one.

    Parameters
    ----------
    store : FeatureStore
    dataset, model : str, optional
        The names that are given, which are returned as they are.

    Raises
    ------
    InputError
        If a name is left out and the store holds several; lists them.
    StoreNotFoundError
        If the store holds no features that fit.
    """
    if dataset is not None and model is not None:
        return dataset, model
    if dataset is not None:
        store.manifest(dataset)  # An unknown name is refused with the names that there are.
    pairs = {
        (base_of(store.root, folder.name) or folder.name, folder.parent.name)
        for folder in store.cache_folders()
        if model is None or folder in store.find_folders(model, folder.name)
    }
    pairs = {(name, cache) for name, cache in pairs if dataset in (None, name)}
    if not pairs:
        of = f" of {plain_model_name(model)!r}" if model is not None else ""
        over = f" over {dataset!r}" if dataset is not None else ""
        models = sorted({split_folder(folder)[0] for folder in store.cache_folders()})
        hint = choices(model, models) if model is not None else "none are stored"
        raise StoreNotFoundError(
            f"the store {store.root} has no features{of}{over}; {hint}; toptune extract adds some",
            option="model",
        )
    name = _only_name(store, {name for name, _ in pairs})
    caches = sorted({cache for _, cache in pairs})
    if model is not None:
        return name, model
    plain = [cache.rpartition("@")[0] for cache in caches]
    if len(caches) > 1:
        # Caches of one model need their digests, which tell them apart.
        shown = plain if len(set(plain)) == len(plain) else caches
        raise InputError(
            f"the store {store.root} holds features of {len(caches)} models over {name!r}; choose one "
            f"with --model: {', '.join(shown)}"
        )
    return name, plain[0]


def only_dataset(store: FeatureStore) -> str:
    """Return the name of the only data set that has features.

    Raises
    ------
    InputError
        If there are several; lists them.
    StoreNotFoundError
        If there is none.
    """
    names = {base_of(store.root, folder.name) or folder.name for folder in store.cache_folders()}
    if not names:
        raise StoreNotFoundError(
            f"the store {store.root} has no features; toptune extract adds some", option="dataset"
        )
    return _only_name(store, names)


def _only_name(store: FeatureStore, names: Collection[str]) -> str:
    if len(names) > 1:
        raise InputError(
            f"the store {store.root} holds {len(names)} data sets; choose one with --dataset: "
            f"{', '.join(sorted(names))}"
        )
    return next(iter(names))


def describe(store: FeatureStore, features: FeatureCache | FeatureView) -> dict[str, Any]:
    """Return everything known of a cache, or of a view with its caches, as JSON values: ``store show``.

    ``others`` lists the caches of the same data set or model name, each with what differs from this one.
    """
    if isinstance(features, FeatureView):
        version = features.version
        return {
            **_view_summary(features).to_dict(),
            "digest": features.digest,
            "created": version.created,
            "failed_rows": {str(row): reason for row, reason in features.failed_rows().items()},
            "parts_in_detail": [
                {
                    "part": part,
                    "rows_of_this_version": len(version.rows_of(part)),
                    "cache": describe(store, features.caches[part]) if part in features.caches else None,
                }
                for part in version.parts
            ],
        }
    cache = features
    specs = cache.all_arrays()
    others = [
        other
        for other in store.caches()
        if other.path != cache.path
        and (other.model == cache.model or other.dataset == cache.dataset)
        # A cache of another part in the same recipe belongs to the same features.
        and not (other.digest == cache.digest and _base(store, other) == _base(store, cache))
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
        "arrays": [
            {
                **spec.to_dict(),
                "missing_units": cache.missing_units(spec.name),
                "measured": cache.measured(spec.name),
            }
            for spec in specs
        ],
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


def _base(store: FeatureStore, cache: FeatureCache) -> str:
    return base_of(store.root, cache.dataset) or cache.dataset


def _view_summary(view: FeatureView) -> CacheSummary:
    """Summarize a view: complete means that every row of the version is there in every array."""
    parts = [_summary(cache) for cache in view.caches.values()]
    arrays = sorted({name for part in parts for name in part.arrays})
    lacks = any(set(part.arrays) != set(arrays) for part in parts) or len(parts) < len(view.version.parts)
    return CacheSummary(
        name=view.name,
        dataset=view.dataset,
        version=view.dataset_version,
        parts=len(view.version.parts),
        n_rows=view.n_rows,
        arrays=tuple(arrays),
        n_bytes=sum(part.n_bytes for part in parts),
        is_complete=not lacks and (all(part.is_complete for part in parts) or _has_every_row(view)),
        who=parts[-1].who,
        when=parts[-1].when,
    )


def _has_every_row(view: FeatureView) -> bool:
    try:
        return view.is_complete()
    except (CorruptError, FormatVersionError):
        return False


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
        version=cache.dataset_version,
        parts=1,
        n_rows=cache.n_rows,
        arrays=tuple(spec.name for spec in specs if spec.is_feature),
        n_bytes=sum(
            spec.row_bytes * min(spec.unit_rows * count, spec.n_rows) for spec, count in counts.items()
        ),
        is_complete=is_complete,
        who=cache.created["who"],
        when=cache.created["when"],
    )
