"""Garbage of a store: leftovers of writers that died, and caches that nobody has used for long."""

import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from toptune.errors import InputError, StoreError
from toptune.store.arrays.array_records import read_array, recorded_names
from toptune.store.arrays.formats import format_of, holds_array
from toptune.store.arrays.ledger import recorded_units
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.units import count_units
from toptune.store.datasets.dataset_records import base_of, dataset_names
from toptune.store.datasets.versions import version_numbers, version_path, version_record
from toptune.store.features.cache_records import open_cache, split_folder
from toptune.store.features.feature_cache import FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.hints import last_use, read_request
from toptune.store.files.place import place_at, place_of
from toptune.store.files.reading import leave_alone, list_entries, may_exist
from toptune.store.upkeep.removal import Removal, folder_bytes, remove

GRACE = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """One thing that `collect_garbage` takes away; JSON values only.

    Attributes
    ----------
    path : str
        File or folder.
    reason : str
        Why nobody needs it.
    n_bytes : int
        Size of the file or folder.
    cache : str
        ``<model>@<digest8>`` where a whole cache is evicted, otherwise empty.
    changed : float
        When it was last written, in seconds.
    """

    path: str
    reason: str
    n_bytes: int
    cache: str = ""
    changed: float = 0.0

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return asdict(self)


def find_garbage(
    store: FeatureStore,
    *,
    grace: timedelta = GRACE,
    older_than: timedelta | None = None,
    keep: int | None = None,
    now: datetime | None = None,
) -> list[Garbage]:
    """List what can go, changing nothing.

    Leftovers are temporary files and folders, arrays without a record and shards without a ledger
    entry, hints about arrays that are gone, and empty folders.

    Parameters
    ----------
    store : FeatureStore
    grace : timedelta
        Age below which leftovers are spared, because they may belong to a writer at work.
    older_than : timedelta, optional
        Evict caches whose last use is longer ago.
    keep : int, optional
        Never evict the `keep` caches used last; without `older_than`, evict all others. The caches of the
        parts of a data set that grew count as one.
    now : datetime, optional
        The present; by default by the clock that stamps the store's files, which may be a server's.

    Returns
    -------
    list of Garbage
        Sorted by path.

    Raises
    ------
    InputError
        If a number is negative.
    """
    if keep is not None and keep < 0:
        raise InputError(f"keep is {keep}; it must be at least 0")
    if grace < timedelta(0) or (older_than is not None and older_than < timedelta(0)):
        raise InputError("an age cannot be negative; give one such as 1h or 30d")
    # By a clock that runs ahead of the one that stamps files, what was written just now would seem old.
    now = now or datetime.fromtimestamp(place_at(store.root).clock(), UTC)
    evicted = {item.path: item for item in _evictions(store, older_than=older_than, keep=keep, now=now)}
    found = dict(evicted)
    for path, reason in _leftovers(store):
        if any(str(each) in found for each in (path, *path.parents)):
            continue
        # A writer at work has files that no ledger entry names yet; an hour is far more than a commit
        # takes.
        # It is asked once: what is written after this answer is not taken.
        changed = _changed(path)
        if now.timestamp() - changed >= grace.total_seconds() - _ROUNDING:
            try:
                n_bytes = folder_bytes(path) if path.is_dir() else path.lstat().st_size
            except FileNotFoundError:
                continue  # A writer at work has taken its temporary file away.
            found[str(path)] = Garbage(path=str(path), reason=reason, n_bytes=n_bytes, changed=changed)
    return [found[path] for path in sorted(found)]


def collect_garbage(store: FeatureStore, items: list[Garbage]) -> None:
    """Take away what `find_garbage` listed.

    Raises
    ------
    StoreError
        If the system refuses.
    """
    for item in items:
        path = place_of(item.path)
        if item.cache:
            remove(
                store,
                Removal(
                    dataset=path.name, caches=(item.cache,), arrays=(), is_whole=False, n_bytes=item.n_bytes
                ),
            )
        elif item.reason == _EMPTY:
            place_at(path).remove_if_empty()
        else:
            # A writer may have come upon the file meanwhile, and is about to name it.
            is_named = partial(_is_named, store, path) if item.reason == _UNNAMED else bool
            place_at(path).free_unless_changed(item.changed, is_named)


_EMPTY = "empty folder"
_UNNAMED = "shard without a ledger entry"
# A date holds microseconds, the time of a file nanoseconds.
_ROUNDING = 0.001
_ROWS = re.compile(r"[0-9a-f]{64}\.parquet")


def _evictions(
    store: FeatureStore, *, older_than: timedelta | None, keep: int | None, now: datetime
) -> Iterator[Garbage]:
    if older_than is None and keep is None:
        return
    # The caches of the parts of a data set that grew are used together, and go together.
    families: dict[tuple[str, str], list[FeatureCache]] = {}
    for cache in store.caches():
        # Imported features are never evicted, because no command can make them again.
        if not cache.recipe.is_imported:
            base = base_of(store.root, cache.dataset) or cache.dataset
            families.setdefault((base, cache.digest), []).append(cache)
    uses = [(max(last_use(each.path) for each in caches), caches) for caches in families.values()]
    uses.sort(key=lambda use: use[0], reverse=True)
    for when, caches in uses[keep or 0 :]:
        if older_than is None or now - when > older_than:
            for cache in caches:
                yield Garbage(
                    path=str(cache.path),
                    reason=f"cache last used {when.isoformat(timespec='seconds')}",
                    n_bytes=folder_bytes(cache.path),
                    cache=cache.name,
                )


def _leftovers(store: FeatureStore) -> Iterator[tuple[Path, str]]:
    """Yield files and folders that nothing names, outer folders before what is in them."""
    for path, is_empty in place_at(store.root).leftovers():
        yield path, _EMPTY if is_empty else "left by an interrupted writer"
    for name in dataset_names(store.root):
        yield from _unnamed_rows(store.root, name)
    for folder in store.cache_folders():
        yield from _cache_leftovers(store, folder)


def _unnamed_rows(root: Path, dataset: str) -> Iterator[tuple[Path, str]]:
    """Yield rows that a grower left without the record of a version."""
    try:
        records = [version_record(root, dataset, number) for number in version_numbers(root, dataset)[1:]]
    except StoreError:
        return  # A damaged record must be repaired first, for which these rows may be needed.
    named = {record.rows_sha256 for record in records}
    for path in list_entries(version_path(root, dataset, 2).parent):
        if _ROWS.fullmatch(path.name) and path.stem not in named:
            yield path, "rows of no version"


def _foreign_entries(store: FeatureStore, folder: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Yield ledger entries of another cache: in a bucket, a writer who stood still may leave some."""
    try:
        ledger = open_cache(store.root, folder).ledger(name)
    except (StoreError, FileNotFoundError):
        return  # A damaged record must be repaired first.
    yield from ((path, "ledger entry of another cache") for path in ledger.foreign_entries())


def _cache_leftovers(store: FeatureStore, folder: Path) -> Iterator[tuple[Path, str]]:
    records = recorded_names(folder)
    is_made = may_exist(folder / "cache.json")
    # On a disk folders go in one step, so that a missing record is damage and no garbage. In a bucket a
    # removal takes the record first, and what is left is garbage.
    is_damaged = place_at(folder).has_whole_folders and (records or (folder / "recipe.json").exists())
    if not is_made and not is_damaged:
        yield folder, f"remains of {split_folder(folder)[0]}, which was removed"
        return
    known = {"ledger", "requests", "cache.json", "recipe.json", "used.json", *records}
    for array in list_entries(folder):
        if array.name not in known:
            if holds_array(array):
                yield array, "array without a ledger"
            else:
                leave_alone(array)
    for name in records:
        yield from _unnamed_units(folder, name)
        yield from _foreign_entries(store, folder, name)
    for path in list_entries(folder / "requests"):
        arrays = read_request(folder, path.stem) if path.suffix == ".json" else None
        if arrays is not None and not set(arrays) <= set(records):
            yield path, "hint about arrays that are gone"


def _unnamed_units(folder: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Yield the files of an array that look like units and have no ledger entry."""
    try:
        spec = read_array(folder, name)
    except (StoreError, FileNotFoundError):
        return  # A damaged array must be repaired first.
    units = _named_units(folder, spec)
    for path in sorted((folder / name).rglob("*")):
        unit = format_of(spec.format).unit_of(path.relative_to(folder / name).parts)
        if unit is not None and unit not in units:
            yield path, _UNNAMED


def _named_units(folder: Path, spec: ArraySpec) -> Collection[int]:
    return recorded_units(folder / "ledger" / spec.name, count_units(spec.n_rows, spec.unit_rows))


def _is_named(store: FeatureStore, path: Path) -> bool:
    """Whether a file that `_unnamed_units` gave has a ledger entry by now."""
    top, cache, dataset, name, *inner = path.relative_to(store.root).parts
    folder = store.root / top / cache / dataset
    try:
        spec = read_array(folder, name)
    except FileNotFoundError:
        return False  # The array was removed.
    except StoreError:
        return True  # A damaged array must be repaired first.
    return format_of(spec.format).unit_of(tuple(inner)) in _named_units(folder, spec)


def _changed(path: Path) -> float:
    """Return when a file, or anything in a folder, was last changed or renamed, in seconds."""
    times = []
    for each in [path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else [])]:
        try:
            status = each.lstat()
        except FileNotFoundError:
            continue
        # A rename changes st_ctime alone, and a folder that was just moved aside must be spared.
        times.append(max(status.st_mtime, status.st_ctime))
    return max(times, default=0.0)
