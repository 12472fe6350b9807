"""Copy data sets and caches from store to store, between places and formats, verified."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from toptune.errors import CorruptError, InputError, StoreError, StoreNotFoundError
from toptune.options import check_choice, choices
from toptune.store.arrays.spec import FORMATS
from toptune.store.datasets import dataset_records as datasets
from toptune.store.exchange.cache_copy import CacheCopier, Report, require_covered
from toptune.store.exchange.dataset_copy import copy_dataset
from toptune.store.features.cache_records import open_cache, split_folder
from toptune.store.features.feature_cache import CONTENT_ARRAY, FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.place import place_at, place_of
from toptune.store.upkeep.removal import Removal, folder_bytes, remove
from toptune.store.upkeep.verification import verify
from toptune.text import counted


@dataclass(frozen=True, kw_only=True)
class CopyReport:
    """Result of `copy_store`; JSON values only.

    Attributes
    ----------
    datasets, caches : tuple of str
        Data sets and caches (``<model>@<digest8>/<dataset>``) that were copied or found there already.
    units_copied, units_already : int
        Units of arrays written now, and units that were there.
    n_bytes : int
        Bytes written now, without bookkeeping.
    incomplete : tuple of str
        Caches that lack units in the source, and so in the copy.
    moved : bool
        Whether the source was removed.
    """

    datasets: tuple[str, ...]
    caches: tuple[str, ...]
    units_copied: int
    units_already: int
    n_bytes: int
    incomplete: tuple[str, ...]
    moved: bool

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    def __str__(self) -> str:
        done = "moved" if self.moved else "copied"
        lines = [
            f"{done}: {counted(len(self.datasets), 'data set')}, {counted(len(self.caches), 'cache')}, "
            f"{counted(self.units_copied, 'unit')} "
            f"({self.n_bytes} bytes){f', {self.units_already} were there' if self.units_already else ''}; "
            "every byte of the copy was read and checked"
        ]
        return "\n".join([*lines, *(f"incomplete, as in the source: {name}" for name in self.incomplete)])


def copy_store(
    source: FeatureStore,
    target: FeatureStore | str | os.PathLike[str],
    *,
    dataset: str | None = None,
    model: str | None = None,
    layers: Sequence[str] | None = None,
    format: str | None = None,  # noqa: A002
    move: bool = False,
    progress: Report | None = None,
) -> CopyReport:
    """Copy caches with their data sets; after an interruption the same call goes on where it stopped.

    Every unit is compared with its checksum in the source and published as extraction does. The copy is read
    again in full before this returns. Where the format stays the same, so do the bytes.

    Parameters
    ----------
    source : FeatureStore
    target : FeatureStore or path
        Store to copy to; a path without a store is made one.
    dataset, model : optional
        Only this data set, and only the caches of this model: its cache of the data set, or those of all
        data sets that have one. By default everything.
    layers : sequence of str, optional
        Only these arrays: names of arrays or taps, or globs.
    format : {"zarr", "hdf5"}, optional
        Format of the copies; by default each cache keeps its own.
    move : bool
        Remove the source's caches once all copies are verified, and data sets that have none left.
    progress : callable, optional
        Called with ``(units_done, units)``.

    Raises
    ------
    InputError
        If options contradict each other, nothing matches, or one store lies within the other.
    CorruptError
        If the source is damaged; the message names the file. A damaged unit never counts as missing.
    ConflictError
        If the target holds something else under the same name; says what differs.
    StoreError
        If the target cannot be written, or the source grew while it was to be moved.
    """
    _check_options(source, dataset=dataset, layers=layers, array_format=format, move=move)
    _check_places(source.root, target.root if isinstance(target, FeatureStore) else place_of(target))
    names = [dataset] if dataset else _datasets_of(source, model)
    # Caches are opened one by one, because a cache that cannot be read is an error here.
    parts = {name: datasets.part_names(source.root, name) for name in names}
    folders = [folder for name in names for part in parts[name] for folder in source.cache_folders(part)]
    if model and not dataset:
        folders = [
            each for name in names for part in parts[name] for each in source.find_folders(model, part)
        ]
    if model and dataset:
        digest = source.features(model, dataset).digest
        folders = [folder for folder in folders if split_folder(folder)[1] == digest[:8]]
    caches = [open_cache(source.root, folder) for folder in folders]
    chosen = [_names(cache, layers) for cache in caches]
    # The target is made when all names are known to be there.
    if not isinstance(target, FeatureStore):
        target = FeatureStore.create(target)
    for name in names:
        # Data sets come before caches, because a cache cannot be opened without its data set.
        copy_dataset(source, target, name)
    copier = CacheCopier(
        progress, sum(len(each) * cache.n_units for cache, each in zip(caches, chosen, strict=True))
    )
    copies = [
        copier.copy(cache, target, each, format or cache.format)
        for cache, each in zip(caches, chosen, strict=True)
    ]
    for name in names:
        target.manifest(name)  # This reads the manifest again and compares its digest.
    # Every byte of the copy is read again before the source may go: only what was read back is known to be
    # on disk.
    for copied in copies:
        report = verify(copied, deep=True)
        stays = "nothing of the source was removed"
        for where, reason in report.damaged:
            raise CorruptError(f"the copy is damaged: {where}: {reason}; {stays}", place_of(where))
        for where, reason in report.unreadable:
            raise StoreError(f"the copy cannot be read back: {where}: {reason}; {stays}", place_of(where))
    if move:
        for cache, copied in zip(caches, copies, strict=True):
            # An extraction may have added units while the copy was verified. Each cache is compared again
            # right before its source goes.
            require_covered(cache, copied)
            # A writer may still stand between this comparison and the removal, so that what is removed is
            # compared once more when no writer can reach it.
            _remove(
                source,
                cache.dataset,
                caches=(cache.name,),
                check=lambda hidden, cache=cache, copied=copied: require_covered(  # type: ignore[misc]
                    cache.moved_to(hidden), copied
                ),
            )
        for name in names:
            if not any(any(source.cache_folders(part)) for part in parts[name]):
                _remove(source, name, caches=(), parts=tuple(parts[name][1:]))
    return CopyReport(
        datasets=tuple(names),
        caches=tuple(f"{cache.name}/{cache.dataset}" for cache in caches),
        units_copied=copier.copied,
        units_already=copier.already,
        n_bytes=copier.n_bytes,
        incomplete=tuple(f"{cache.name}/{cache.dataset}" for cache in copies if not cache.is_complete()),
        moved=move,
    )


def _datasets_of(source: FeatureStore, model: str | None) -> list[str]:
    """List the data sets of a store, or those over which a model has features."""
    names = source.datasets()
    if model is None:
        return names
    parts = {name: datasets.part_names(source.root, name) for name in names}
    found = [name for name in names if any(any(source.find_folders(model, part)) for part in parts[name])]
    if not found:
        there = sorted({split_folder(folder)[0] for folder in source.cache_folders()})
        raise StoreNotFoundError(
            f"the store {source.root} has no features of model {model!r}; {choices(model, there)}",
            option="model",
        )
    return found


def _check_options(
    source: FeatureStore,
    *,
    dataset: str | None,
    layers: Sequence[str] | None,
    array_format: str | None,
    move: bool,
) -> None:
    if array_format is not None:
        check_choice(array_format, FORMATS, option="format")
    if move and layers is not None:
        raise InputError("--move takes whole caches; copy the layers, then store rm --layers")
    if dataset:
        datasets.read_record(source.root, dataset)


def _check_places(source: Path, target: Path) -> None:
    """Refuse a target that is the source by another name, or lies within or around the source."""
    if place_at(source).is_same(place_at(target)):
        raise InputError(f"{source} cannot be copied to itself ({target}); give another place")
    # The slash keeps /a/store and /a/store-2 apart.
    here, there = (f"{place_at(path).real().rstrip('/')}/" for path in (source, target))
    if here.startswith(there) or there.startswith(here):
        raise InputError(
            f"one of {here[:-1]} and {there[:-1]} lies within the other; give a place beside the source"
        )


def _names(cache: FeatureCache, layers: Sequence[str] | None) -> list[str]:
    features = [spec.name for spec in cache.arrays()]
    chosen = features
    if layers is not None:
        chosen = [
            name
            for name in features
            if any(fnmatchcase(name, word) or fnmatchcase(name.rpartition(".")[0], word) for word in layers)
        ]
        if not chosen:
            raise InputError(
                f"no stored array of {cache.name} matches {', '.join(layers)}; "
                f"{choices(layers[0] if layers else '', features)}",
                option="layers",
            )
    digests = [spec.name for spec in cache.all_arrays() if spec.name == CONTENT_ARRAY]
    return [*chosen, *digests]


def _remove(
    store: FeatureStore,
    dataset: str,
    *,
    caches: tuple[str, ...],
    parts: tuple[str, ...] = (),
    check: Callable[[Path], None] | None = None,
) -> None:
    folders = [datasets.dataset_folder(store.root, part) for part in (dataset, *parts)]
    try:
        remove(
            store,
            Removal(
                dataset=dataset,
                caches=caches,
                arrays=(),
                is_whole=not caches,
                n_bytes=0 if caches else sum(map(folder_bytes, folders)),
                parts=parts,
            ),
            check=check,
        )
    except StoreError as error:
        raise StoreError(
            f"the copy is complete, but the source could not be removed: {error}", error.path
        ) from error
