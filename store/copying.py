"""Copy data sets and caches from store to store, between places and formats, verified."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from toptune.store import commit, datasets
from toptune.store.array_formats import format_of
from toptune.store.array_spec import FORMATS, ArraySpec
from toptune.store.cache_record import CACHE_KIND, open_cache
from toptune.store.dataset_copy import copy_dataset
from toptune.store.errors import ConflictError, CorruptError, InputError, StoreError
from toptune.store.feature_cache import CONTENT_ARRAY, FeatureCache
from toptune.store.feature_store import FeatureStore
from toptune.store.ledger import LedgerEntry
from toptune.store.names import check_inside
from toptune.store.publish import publish
from toptune.store.reading import read_file
from toptune.store.removal import Removal, folder_bytes, remove
from toptune.store.sealed import seal, unseal
from toptune.store.verification import verify

Report = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class CopyReport:
    """What `copy_store` did; JSON values only.

    Attributes
    ----------
    datasets, caches : tuple of str
        Copied or found there already: data sets, and ``<model>@<digest8>/<dataset>``.
    units_copied, units_already : int
        Units of arrays written now, and those that were there.
    n_bytes : int
        Written now, without bookkeeping.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    def __str__(self) -> str:
        done = "moved" if self.moved else "copied"
        lines = [
            f"{done}: {len(self.datasets)} data sets, {len(self.caches)} caches, {self.units_copied} units "
            f"({self.n_bytes} bytes){f', {self.units_already} were there' if self.units_already else ''}; "
            "every byte of the copy was read and checked"
        ]
        return "\n".join([*lines, *(f"incomplete, as in the source: {name}" for name in self.incomplete)])


def copy_store(
    source: FeatureStore,
    target: FeatureStore,
    *,
    dataset: str | None = None,
    model: str | None = None,
    layers: Sequence[str] | None = None,
    format: str | None = None,  # noqa: A002
    move: bool = False,
    progress: Report | None = None,
) -> CopyReport:
    """Copy caches with their data sets; interrupted and called again, it goes on where it stopped.

    Every unit is checked against its checksum in the source, published as extraction does, and the copy is
    read again in full before this returns. Where the format stays, the bytes do.

    Parameters
    ----------
    source, target : FeatureStore
    dataset, model : optional
        Only this data set, only this model's cache of it; by default everything.
    layers : sequence of str, optional
        Only these arrays: names of arrays or taps, or globs.
    format : {"zarr", "hdf5"}, optional
        Of the copies; by default each cache's own.
    move : bool
        Remove the source's caches once the copy is verified, and data sets that have none left.
    progress : callable, optional
        Called with ``(units_done, units)``.

    Raises
    ------
    InputError
        If options contradict each other, or nothing matches.
    CorruptError
        If the source is damaged; names the file.
    ConflictError
        If the target holds something else under the same name.
    """
    _check_options(source, target, dataset=dataset, model=model, layers=layers, form=format, move=move)
    names = [dataset] if dataset else source.datasets()
    parts = {name: datasets.part_names(source.root, name) for name in names}
    caches = [cache for name in names for part in parts[name] for cache in source.caches(dataset=part)]
    if model and dataset:
        digest = source.features(model, dataset).digest
        caches = [cache for cache in caches if cache.digest == digest]
    for name in names:
        copy_dataset(source, target, name)
    job = _Copy(progress, sum(len(_names(cache, layers)) * cache.n_units for cache in caches))
    copies = [job.cache(cache, target, _names(cache, layers), format or cache.format) for cache in caches]
    for copied in copies:
        report = verify(copied, deep=True)
        if report.damaged:
            where, reason = report.damaged[0]
            raise CorruptError(f"the copy is damaged: {where}: {reason}; nothing of the source was removed")
    if move:
        for cache in caches:
            _remove(source, cache.dataset, caches=(cache.name,))
        for name in names:
            if not any(any(source.cache_folders(part)) for part in parts[name]):
                _remove(source, name, caches=(), parts=tuple(parts[name][1:]))
    return CopyReport(
        datasets=tuple(names),
        caches=tuple(f"{cache.name}/{cache.dataset}" for cache in caches),
        units_copied=job.copied,
        units_already=job.already,
        n_bytes=job.n_bytes,
        incomplete=tuple(f"{cache.name}/{cache.dataset}" for cache in copies if not cache.is_complete()),
        moved=move,
    )


def _check_options(
    source: FeatureStore,
    target: FeatureStore,
    *,
    dataset: str | None,
    model: str | None,
    layers: Sequence[str] | None,
    form: str | None,
    move: bool,
) -> None:
    if source.root == target.root:
        raise InputError(f"{source.root} cannot be copied to itself; give another place")
    if form not in (None, *FORMATS):
        raise InputError(f"format {form!r} is none of {', '.join(FORMATS)}")
    if model and not dataset:
        raise InputError("--model needs --dataset: say over which data set")
    if move and layers is not None:
        raise InputError("--move takes whole caches; copy the layers, then store rm --layers")
    if dataset:
        datasets.read_record(source.root, dataset)


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
                f"there are: {', '.join(features)}"
            )
    digests = [spec.name for spec in cache.all_arrays() if spec.name == CONTENT_ARRAY]
    return [*chosen, *digests]


class _Copy:
    """Counts of one copy."""

    def __init__(self, progress: Report | None, n_units: int) -> None:
        self._progress = progress
        self._n_units = n_units
        self.copied = self.already = self.n_bytes = 0

    def cache(self, cache: FeatureCache, target: FeatureStore, names: list[str], form: str) -> FeatureCache:
        copied = _make_cache(cache, target, form)
        for name in names:
            spec = cache.array(name)
            ours = copied.ensure_array(name, dim=spec.dim, dtype=spec.dtype)
            if ours.dtype != spec.dtype:
                raise ConflictError(f"{name} of {copied.path} is {ours.dtype}, of the source {spec.dtype}")
            for unit, entry in sorted(cache.entries(name).items()):
                self.unit(cache, copied, spec, ours, entry)
                if self._progress is not None:
                    self._progress(self.copied + self.already, self._n_units)
                assert unit == entry.unit
        copied.pack_ledgers(names)
        return copied

    def unit(
        self, cache: FeatureCache, copied: FeatureCache, spec: ArraySpec, ours: ArraySpec, entry: LedgerEntry
    ) -> None:
        there = copied.entry(spec.name, entry.unit)
        if there is not None:
            if spec.format == ours.format and there.sha256 != entry.sha256:
                raise ConflictError(
                    f"unit {entry.unit} of {spec.name} in {copied.path} was computed elsewhere, to other "
                    "bytes; remove that cache first, or copy to another store"
                )
            self.already += 1
            return
        path = cache.shard_path(spec.name, entry.unit)
        data = read_file(path)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise CorruptError(f"{path} does not match the checksum in the ledger; run store repair")
        if spec.format != ours.format:
            values = format_of(spec.format).decode_unit(spec, data, entry.unit)
            data = format_of(ours.format).encode_unit(ours, values)
        place = check_inside(copied.root, copied.shard_path(spec.name, entry.unit))
        # What an interrupted copy left is the same bytes; anything else is no copy of this.
        publish(place, data, lambda found: found == data)
        copied.ledger(spec.name).mark(
            dataclasses.replace(entry, n_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        )
        self.copied += 1
        self.n_bytes += len(data)


def _make_cache(cache: FeatureCache, target: FeatureStore, form: str) -> FeatureCache:
    """Make the copy's records, those of the source but for the format, or adopt those there."""
    folder = check_inside(target.root, target.root / cache.path.relative_to(cache.root))
    record = unseal(CACHE_KIND, read_file(cache.path / "cache.json"), cache.path / "cache.json")
    values = {key: value for key, value in record.items() if key not in ("format", "version")}
    files = {
        "recipe.json": read_file(cache.path / "recipe.json"),
        "cache.json": seal(CACHE_KIND, values | {"format_of_arrays": form}),
    }
    commit.put_folder_if_absent(folder, files)
    copied = open_cache(target.root, folder)
    same = (cache.digest, cache.unit_rows, cache.batch_size, form)
    if (copied.digest, copied.unit_rows, copied.batch_size, copied.format) != same:
        raise ConflictError(
            f"{folder} is cut or stored otherwise (units of {copied.unit_rows} rows, batches of "
            f"{copied.batch_size}, {copied.format}) than the copy would be ({cache.unit_rows}, "
            f"{cache.batch_size}, {form}); copy to another store, or remove that cache first"
        )
    return copied


def _remove(
    store: FeatureStore, dataset: str, *, caches: tuple[str, ...], parts: tuple[str, ...] = ()
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
        )
    except StoreError as error:
        raise StoreError(f"the copy is complete, but the source could not be removed: {error}") from error
