"""Copy one cache to another store: records, units and hints, all of them checked."""

import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from toptune.errors import ConflictError, CorruptError, StoreError
from toptune.store.arrays.array_records import recorded_names
from toptune.store.arrays.formats import format_of
from toptune.store.arrays.ledger import recorded_units
from toptune.store.arrays.ledger_entry import LedgerEntry
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.unit_reader import gone
from toptune.store.arrays.units import format_units
from toptune.store.features.cache_records import CACHE_KIND, CacheRecord, open_cache
from toptune.store.features.feature_cache import FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.hints import read_request, request_path
from toptune.store.files.json_records import record_to_json
from toptune.store.files.place import check_inside, place_at
from toptune.store.files.reading import list_entries, read_file
from toptune.store.files.sealed import seal, unseal_record

Report = Callable[[int, int], None]


class CacheCopier:
    """Copies caches and counts the units; holds at most one unit, or two copies where the format changes.

    Attributes
    ----------
    copied, already : int
        Units written, and units that were there.
    n_bytes : int
        Bytes written, without bookkeeping.
    """

    def __init__(self, progress: Report | None, n_units: int) -> None:
        self._progress = progress
        self._n_units = n_units
        self.copied = self.already = self.n_bytes = 0

    def copy(
        self, cache: FeatureCache, target: FeatureStore, names: list[str], array_format: str
    ) -> FeatureCache:
        """Copy arrays of a cache; return the copy, not yet verified."""
        copied = _make_cache(cache, target, array_format)
        for name in names:
            spec = cache.array(name)
            ours = copied.ensure_array(name, dim=spec.dim, dtype=spec.dtype, measured=cache.measured(name))
            if ours.dtype != spec.dtype:
                raise ConflictError(f"{name} of {copied.path} is {ours.dtype}, of the source {spec.dtype}")
            for _, entry in sorted(sound_entries(cache, name).items()):
                self._unit(cache, copied, spec, ours, entry)
                if self._progress is not None:
                    self._progress(self.copied + self.already, self._n_units)
        copied.pack_ledgers(names)
        _copy_requests(cache, copied, names)
        return copied

    def _unit(
        self, cache: FeatureCache, copied: FeatureCache, spec: ArraySpec, ours: ArraySpec, entry: LedgerEntry
    ) -> None:
        there = copied.entry(spec.name, entry.unit)
        if there is not None:
            if not _is_same(cache, copied, spec, ours, entry, there):
                raise ConflictError(
                    f"unit {entry.unit} of {spec.name} in {copied.path} was computed by {there.host} at "
                    f"{there.when} to other values than in {cache.path} ({entry.host}, {entry.when}); "
                    "remove that cache first, or copy to another store"
                )
            self.already += 1
            return
        # The bytes are compared with the ledger of the source, so that a copy never spreads damage.
        data = _read(cache, entry)
        if spec.format != ours.format:
            values = format_of(spec.format).decode_unit(spec, data, entry.unit)
            data = format_of(ours.format).encode_unit(ours, values)
        copied.put_unit(ours, data, entry)
        self.copied += 1
        self.n_bytes += len(data)


def sound_entries(cache: FeatureCache, name: str) -> dict[int, LedgerEntry]:
    """Return the ledger entries of an array after making sure that none is damaged.

    Raises
    ------
    CorruptError
        If the ledger names units whose entries are damaged.
    """
    ledger = cache.ledger(name)
    entries = ledger.all_recorded()
    damaged = set(recorded_units(ledger.folder, cache.n_units)) - entries.keys()
    if damaged:
        raise CorruptError(
            f"the ledger in {ledger.folder} is damaged for units {format_units(damaged)}; store repair takes "
            "them out, and the same extract computes them again",
            ledger.folder,
        )
    return entries


def require_covered(cache: FeatureCache, copied: FeatureCache) -> None:
    """Refuse to go on unless the copy holds every unit that the source holds now.

    Raises
    ------
    StoreError
        If the source grew after it was copied, or both are one and the same.
    """
    # One file system may be mounted at two places. Removing the source would then remove the copy.
    if cache.identity == copied.identity:
        raise StoreError(
            f"{copied.path} is {cache.path} itself, seen by another way; nothing was removed", copied.path
        )
    for name in recorded_names(cache.path):
        missing = sound_entries(cache, name).keys() - copied.entries(name).keys()
        if missing:
            raise StoreError(
                f"{name} of {cache.path} gained units {format_units(missing)} while it was copied; nothing "
                "of it was removed: run the same copy again",
                cache.path,
            )


def _make_cache(cache: FeatureCache, target: FeatureStore, array_format: str) -> FeatureCache:
    """Make or adopt the records of the copy, which differ from the source in the format at most."""
    folder = check_inside(target.root, target.root / cache.path.relative_to(cache.root))
    files = {part: read_file(cache.path / part) for part in ("recipe.json", "cache.json")}
    if array_format != cache.format:
        record = unseal_record(CACHE_KIND, CacheRecord, files["cache.json"], cache.path / "cache.json")
        converted = dataclasses.replace(record, format_of_arrays=array_format)
        files["cache.json"] = seal(CACHE_KIND, record_to_json(converted))
    place_at(folder).put_folder_if_absent(files)
    copied = open_cache(target.root, folder)
    same = (cache.digest, cache.unit_rows, cache.batch_size, array_format)
    if (copied.digest, copied.unit_rows, copied.batch_size, copied.format) != same:
        raise ConflictError(
            f"{folder} is cut or stored otherwise (units of {copied.unit_rows} rows, batches of "
            f"{copied.batch_size}, {copied.format}) than the copy would be ({cache.unit_rows}, "
            f"{cache.batch_size}, {array_format}); copy to another store, or remove that cache first"
        )
    return copied


def _copy_requests(cache: FeatureCache, copied: FeatureCache, names: list[str]) -> None:
    """Copy the hints that hold for the copy, among them other names of the model."""
    for path in list_entries(cache.path / "requests"):
        if path.suffix != ".json" or request_path(copied.path, path.stem).exists():
            continue
        arrays = read_request(cache.path, path.stem)
        if arrays is not None and set(arrays) <= set(names):
            copied.remember_request(path.stem, arrays)


def _is_same(
    cache: FeatureCache,
    copied: FeatureCache,
    spec: ArraySpec,
    ours: ArraySpec,
    entry: LedgerEntry,
    there: LedgerEntry,
) -> bool:
    """Whether a unit that is there holds the same values; equal formats are compared by checksum."""
    if spec.format == ours.format:
        return there.sha256 == entry.sha256
    return _decoded(spec, _read(cache, entry), entry).tobytes() == (
        _decoded(ours, _read(copied, there), there).tobytes()
    )


def _decoded(spec: ArraySpec, data: bytes, entry: LedgerEntry) -> npt.NDArray[np.number]:
    values: npt.NDArray[np.number] = format_of(spec.format).decode_unit(spec, data, entry.unit)
    return values


def _read(cache: FeatureCache, entry: LedgerEntry) -> bytes:
    """Read a unit's file, compared with the checksum in the ledger."""
    path = cache.shard_path(entry.array, entry.unit)
    try:
        data = read_file(path, max_bytes=entry.n_bytes)
    except FileNotFoundError as error:
        raise gone(path) from error
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise CorruptError(f"{path} does not match the checksum in the ledger; run store repair", path)
    return data
