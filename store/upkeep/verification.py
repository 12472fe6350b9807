"""Verify a store or a cache against its digests."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from toptune.errors import StoreError, StoreNotFoundError
from toptune.store.arrays.array_records import read_array, record_path, recorded_names
from toptune.store.arrays.formats import format_of
from toptune.store.arrays.ledger_entry import LedgerEntry, read_packed
from toptune.store.arrays.spec import OF_ANOTHER_UNIT, ArraySpec
from toptune.store.arrays.units import format_units
from toptune.store.datasets import dataset_records
from toptune.store.features.cache_records import open_cache
from toptune.store.features.feature_cache import FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.hints import REQUEST_KIND, USE_FILE, USE_KIND
from toptune.store.files.descriptor import DESCRIPTOR, STORE_FILE
from toptune.store.files.names import is_temporary, stray_depth
from toptune.store.files.place import check_inside, place_at
from toptune.store.files.reading import (
    MAX_RECORD_BYTES,
    file_digest,
    leave_alone,
    list_entries,
    list_folder,
    not_regular,
    read_file,
    regular_size,
)
from toptune.store.files.sealed import unseal
from toptune.store.files.system_errors import is_refusal, not_readable
from toptune.store.upkeep.dataset_checks import dataset_damage, dataset_files, rows_needed

Content = TypeVar("Content")


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What `verify` found; JSON values only.

    Attributes
    ----------
    damaged : tuple of (path, reason)
        Files that are gone or differ from what was committed.
    missing : dict of str to list of int
        ``<model>@<digest8>/<dataset>/<array>`` to the units that are not done.
    missing_before : dict of str to list of int
        The same for units with images of older versions only, where a data set has grown: the images may
        be gone by now.
    leftovers : tuple of str
        Files that nothing names, such as those of interrupted writers; harmless. What a file that cannot be
        read may name is not among them.
    n_files, n_bytes : int
        Files looked at and their size.
    deep : bool
        Whether every byte was read.
    unreadable : tuple of (path, reason)
        Files and folders that the system refuses to read, which is no proof of damage.
    """

    damaged: tuple[tuple[str, str], ...]
    missing: dict[str, list[int]]
    leftovers: tuple[str, ...]
    n_files: int
    n_bytes: int
    deep: bool
    missing_before: dict[str, list[int]] = field(default_factory=dict)
    unreadable: tuple[tuple[str, str], ...] = ()

    @property
    def exit_code(self) -> int:
        """0 complete and clean, 1 damaged or not readable, 3 incomplete."""
        if self.damaged or self.unreadable:
            return 1
        return 3 if self.missing else 0

    def __str__(self) -> str:
        lines = [f"damaged: {path}: {reason}" for path, reason in self.damaged]
        lines += [f"not readable: {path}: {reason}" for path, reason in self.unreadable]
        lines += [f"missing: {name}: {format_units(units)}" for name, units in self.missing.items()]
        lines += [
            f"missing, for older versions only: {name}: {format_units(units)}"
            for name, units in self.missing_before.items()
        ]
        lines += [f"left over: {path}" for path in self.leftovers]
        bad = "damaged" if self.damaged else "not readable"
        verdict = {0: "complete and clean", 1: bad, 3: "incomplete"}[self.exit_code]
        read = "every byte read" if self.deep else "sizes and records read; --deep reads every byte"
        return "\n".join([*lines, f"{verdict}: {self.n_files} files, {self.n_bytes} bytes ({read})"])

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return {
            **asdict(self),
            "damaged": [list(pair) for pair in self.damaged],
            "unreadable": [list(pair) for pair in self.unreadable],
            "leftovers": list(self.leftovers),
        }


def verify(target: FeatureStore | FeatureCache, *, deep: bool = False) -> VerifyReport:
    """Check every file of a store, or of one cache.

    Parameters
    ----------
    target : FeatureStore or FeatureCache
        What to check.
    deep : bool
        Read every byte of the units and compare digests; otherwise only sizes, and the checksums by which the
        ledger tells units apart. All other files are compared with their digests in any case.

    Returns
    -------
    VerifyReport
        The damage found; damage is never raised.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from toptune.store import FeatureStore, import_features, verify
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = FeatureStore.create(folder)
    ...     cache = import_features(store, {"last": np.eye(3)}, dataset="pets", model="mine")
    ...     sound = verify(store, deep=True)
    ...     cache.shard_path("last.imported", 0).unlink()
    ...     damaged = verify(store)
    >>> sound.exit_code, sound.damaged
    (0, ())
    >>> damaged.exit_code, [reason for _, reason in damaged.damaged]
    (1, ['is gone although the ledger names it'])
    """
    walk = _Walk(target.root, deep=deep)
    if isinstance(target, FeatureCache):
        walk.cache(target.path)
        return walk.report(target.path)
    walk.descriptor()
    for name in dataset_records.dataset_names(target.root):
        with walk.beyond_refusals(dataset_records.dataset_folder(target.root, name)):
            walk.dataset(name)
    for folder in target.cache_folders():
        with walk.beyond_refusals(folder):
            walk.cache(folder)
    return walk.report(target.root)


class _Walk:
    """One pass over the files, collecting what is found."""

    def __init__(self, root: Path, *, deep: bool) -> None:
        self.root = root
        self.deep = deep
        self.damaged: dict[str, str] = {}
        self.unreadable: dict[str, str] = {}
        self.missing: dict[str, list[int]] = {}
        self.missing_before: dict[str, list[int]] = {}
        self.needed: dict[str, npt.NDArray[np.intp] | None] = {}
        self.named: set[str] = set()
        # What files name that the system refuses to read: nothing says that it is left over.
        self.covered: set[str] = set()

    def report(self, top: Path) -> VerifyReport:
        n_files = n_bytes = 0
        leftovers: list[str] = []
        prefix = f"{top}/"
        above, datasets = top.relative_to(self.root).parts, set(dataset_records.dataset_names(self.root))
        for parts, size in place_at(top).walk_files(lambda error: self.blame(error.path or top, error)):
            path = prefix + "/".join(parts)
            if (depth := stray_depth((*above, *parts), datasets)) is not None:
                leave_alone(self.root.joinpath(*(*above, *parts)[: depth + 1]))
                continue
            if path in self.named:
                n_files += 1
                n_bytes += size
            elif any(map(is_temporary, parts)) or not self.is_covered(path):
                leftovers.append(path)
        return VerifyReport(
            damaged=tuple(sorted(self.damaged.items())),
            unreadable=tuple(sorted(self.unreadable.items())),
            missing=self.missing,
            leftovers=tuple(sorted(leftovers)),
            n_files=n_files,
            n_bytes=n_bytes,
            deep=self.deep,
            missing_before=self.missing_before,
        )

    def is_covered(self, path: str) -> bool:
        return any(path == each or path.startswith(f"{each}/") for each in self.covered)

    def blame(self, path: Path, reason: object, covers: Sequence[Path] = ()) -> None:
        """Note what is wrong with a file, which names the files and folders that it `covers`."""
        # What the system refuses to read may be sound: permissions and disks can be mended.
        is_refused = is_refusal(reason)
        if is_refused:
            self.covered.update(map(str, covers))
        kind = self.unreadable if is_refused else self.damaged
        # The first reason is kept, because later ones mostly follow from it.
        if str(path) not in self.damaged and str(path) not in self.unreadable:
            kind[str(path)] = str(reason)

    @contextlib.contextmanager
    def beyond_refusals(self, *folders: Path) -> Iterator[None]:
        """Go on with other folders where the system refuses to say what is in these."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            refused = error
            if not isinstance(refused, StoreError):
                refused = not_readable(Path(error.filename or folders[0]), error)
            if not is_refusal(refused):
                raise
            self.blame(refused.path or folders[0], refused, folders)

    def read(self, path: Path, covers: Sequence[Path] = (), *, max_bytes: int | None = None) -> bytes:
        """Read a small file that must be there."""
        return self.take(lambda: read_file(path, max_bytes=max_bytes), path, covers) or b""

    def take(self, get: Callable[[], Content], path: Path, covers: Sequence[Path]) -> Content | None:
        """Get something of a file that must be there."""
        self.named.add(str(path))
        try:
            return get()
        except FileNotFoundError:
            self.blame(path, "is gone")
        except StoreError as error:
            self.blame(path, error, covers)
        return None

    def descriptor(self) -> None:
        path = self.root / STORE_FILE
        if self.read(path) != DESCRIPTOR:
            self.blame(path, f"differs from {DESCRIPTOR.decode().strip()}")

    def dataset(self, name: str) -> None:
        folder = dataset_records.dataset_folder(self.root, name)
        for path in dataset_files(self.root, name):
            # The tables are taken into memory only where they are compared with their digests.
            if path.suffix == ".json":
                self.read(path, [folder])
            else:
                self.take(partial(file_digest, path), path, [folder])
        for path, reason in dataset_damage(self.root, name):
            self.blame(path, reason, [folder])

    def note_missing(self, key: str, cache: FeatureCache, units: list[int]) -> None:
        if cache.dataset not in self.needed:
            self.needed[cache.dataset] = rows_needed(self.root, cache.dataset)
        rows = self.needed[cache.dataset]
        needed = set(units if rows is None else (rows // cache.unit_rows).tolist())
        now = [unit for unit in units if unit in needed]
        before = [unit for unit in units if unit not in needed]
        if now:
            self.missing[key] = now
        if before:
            self.missing_before[key] = before

    def cache(self, folder: Path) -> None:
        for part in ("recipe.json", "cache.json"):
            self.read(folder / part, [folder])
        try:
            cache = open_cache(self.root, folder)
        except StoreNotFoundError as error:
            self.blame(folder, error)
            return
        except StoreError as error:
            if error.path is not None and error.path.is_relative_to(self.root / "datasets"):
                # The walk over the data sets blames the record.
                self.covered.update([str(folder)] if is_refusal(error) else [])
                return
            recipe = folder / "recipe.json"
            self.blame(recipe if error.path == recipe else folder / "cache.json", error, [folder])
            return
        self.requests(folder)
        if (folder / USE_FILE).exists():
            self.sealed(USE_KIND, folder / USE_FILE)
        for array in list_entries(folder / "ledger"):
            if array.is_dir():
                with self.beyond_refusals(array, cache.path / array.name):
                    self.array(cache, array)
            else:
                leave_alone(array)
        if not recorded_names(folder):
            # The writer of this cache stopped before its first array.
            self.note_missing(f"{cache.name}/{cache.dataset}", cache, list(range(cache.n_units)))

    def requests(self, folder: Path) -> None:
        for path in list_entries(folder / "requests"):
            if path.suffix == ".json":
                self.sealed(REQUEST_KIND, path)

    def sealed(self, kind: str, path: Path) -> None:
        try:
            unseal(kind, self.read(path), path)
        except StoreError as error:
            self.blame(path, error)

    def array(self, cache: FeatureCache, ledger: Path) -> None:
        name = ledger.name
        record, packed = record_path(cache.path, name), cache.ledger(name).packed_path
        covers = [ledger, cache.path / name]
        singles = {p.name for p in list_folder(ledger) if p.suffix == ".json" and p.stem.isdigit()}
        if not record.exists():
            if singles or packed.exists():
                self.blame(record, "is gone although the ledger has entries")
            return
        self.read(record, covers)
        metadata = cache.path / name / format_of(cache.format).METADATA
        self.read(metadata, covers, max_bytes=MAX_RECORD_BYTES)
        try:
            spec = read_array(cache.path, name)
        except StoreError as error:
            self.blame(metadata if error.path == metadata else record, error, covers)
            return
        entries = self.packed(cache, name, packed) if packed.exists() else {}
        for unit in range(cache.n_units):
            path = cache.entry_path(name, unit)
            if path.name in singles:
                self.single(cache, name, unit, entries)
        known = {
            unit
            for unit in range(cache.n_units)
            if cache.entry_path(name, unit).name in singles
            and str(cache.entry_path(name, unit)) in self.named
        }
        for unit, entry in entries.items():
            expected = format_of(spec.format).unit_bytes(spec, unit)
            if expected is not None and entry.n_bytes != expected:
                guilty = cache.entry_path(name, unit) if unit in known else packed
                self.blame(guilty, f"names {entry.n_bytes} bytes where a shard has {expected}")
            else:
                self.shard(cache, spec, entry)
        missing = [unit for unit in range(cache.n_units) if unit not in entries and unit not in known]
        # A packed ledger that cannot be read has entries all the same.
        if missing and str(packed) not in self.unreadable:
            self.note_missing(f"{cache.name}/{cache.dataset}/{name}", cache, missing)

    def packed(self, cache: FeatureCache, name: str, path: Path) -> dict[int, LedgerEntry]:
        """Read the packed entries of an array; a damaged file is blamed, its sound lines are believed."""
        try:
            covers = [cache.path / name]
            found, damage = read_packed(self.read(path, covers), path)
        except StoreError as error:
            self.blame(path, error)
            return {}
        if damage:
            self.blame(path, "; ".join(damage[:3]))
        entries = {}
        for entry in found:
            if cache.ledger(name).is_of(entry, entry.unit):
                entries[entry.unit] = entry
            else:
                self.blame(path, f"has an entry of unit {entry.unit} of {entry.array}")
        if len(entries) < cache.n_units:
            self.blame(path, f"has {len(entries)} sound entries for {cache.n_units} units")
        return entries

    def single(self, cache: FeatureCache, name: str, unit: int, entries: dict[int, LedgerEntry]) -> None:
        """Read the entry in a unit's own file, which counts more than a packed one."""
        path = cache.entry_path(name, unit)
        try:
            entry = LedgerEntry.from_bytes(self.read(path, [cache.shard_path(name, unit)]), path)
        except StoreError as error:
            self.blame(path, error)
            entries.pop(unit, None)
            return
        if cache.ledger(name).is_foreign(entry):
            self.named.discard(str(path))  # An entry of another cache counts for nothing; it is left over.
            return
        entries.pop(unit, None)
        if cache.ledger(name).is_of(entry, unit):
            entries[unit] = entry
        else:
            self.blame(path, f"is the entry of unit {entry.unit} of {entry.array}")

    def shard(self, cache: FeatureCache, spec: ArraySpec, entry: LedgerEntry) -> None:
        path = cache.shard_path(entry.array, entry.unit)
        self.named.add(str(path))
        try:
            n_bytes = regular_size(path)
            check_inside(cache.path, path)
            if n_bytes is None:
                # The name may be free, or taken by a pipe, a folder, or a link out of the store.
                read_file(path)
                raise not_regular(path)
            if n_bytes != entry.n_bytes:
                self.blame(path, f"has {n_bytes} bytes where the ledger says {entry.n_bytes}")
            elif self.deep:
                if file_digest(path) != entry.sha256:
                    self.blame(path, "does not match the checksum in the ledger")
            elif entry.checksum not in (None, format_of(spec.format).read_checksum(spec, path)):
                self.blame(path, OF_ANOTHER_UNIT)
        except FileNotFoundError:
            self.blame(path, "is gone although the ledger names it")
        except StoreError as error:
            self.blame(path, error)
