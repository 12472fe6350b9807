"""The ledger of one array: which of its units are done.

While units are being written, each entry is a file, such as ``000042.json``. When the array is complete, the
entries are packed into one file, ``packed.jsonl``, with a line for each entry. Where a unit has both, the
unit's own file counts: it is newer than the line, because the unit was lost and computed again.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from toptune.errors import CorruptError, StoreError
from toptune.store.arrays.ledger_entry import PACKED_FILE, LedgerEntry, entry_name, read_packed, render_packed
from toptune.store.arrays.units import count_units
from toptune.store.files.local_place import HeldFolder
from toptune.store.files.place import check_inside, place_at
from toptune.store.files.publish import publish
from toptune.store.files.reading import MAX_LEDGER_BYTES, list_folder, read_file

logger = logging.getLogger(__name__)

Signature = tuple[int, int, int]


@dataclass(eq=False)
class ArrayLedger:
    """Entries of one array of a cache.

    Attributes
    ----------
    root, folder : Path
        Root folder of the store, and folder of this ledger.
    array : str
        Name of the array, ``<tap>.<pooling>``.
    unit_rows, n_rows : int
        Rows of a unit and of the data set.
    binding : str
        What tells the cache from caches of other recipes or images; see `FeatureCache.binding`.
    """

    root: Path
    folder: Path
    array: str
    unit_rows: int
    n_rows: int
    binding: str
    _singles: dict[int, tuple[Signature, LedgerEntry]] = field(default_factory=dict, repr=False)
    _packed: tuple[Signature, dict[int, LedgerEntry]] | None = field(default=None, repr=False)

    @property
    def n_units(self) -> int:
        """Number of units that cover the rows."""
        return count_units(self.n_rows, self.unit_rows)

    def entry_path(self, unit: int) -> Path:
        """Return the file of a unit's entry that is not packed."""
        return self.folder / entry_name(unit)

    @property
    def packed_path(self) -> Path:
        """The file of the packed entries."""
        return self.folder / PACKED_FILE

    def recorded(self, unit: int) -> LedgerEntry | None:
        """Return the valid entry of a unit, or None; damaged ones are logged and count as none."""
        # The order matters: an entry's own file is removed only after the packed file is there, so that a
        # reader who looks for the single file first never misses both.
        return self._single(unit) or self._read_packed().get(unit)

    def all_recorded(self) -> dict[int, LedgerEntry]:
        """Return every valid entry by unit."""
        units = self._single_units()
        # The single files were listed before the packed file is read: an entry that is packed in between is
        # found in the packed file.
        found = dict(self._read_packed())
        for unit in units:
            entry = self.recorded(unit)
            if entry is not None:
                found[unit] = entry
        return found

    def count(self) -> int:
        """Count the units that have an entry, without reading any."""
        names = {path.name for path in list_folder(self.folder)}
        if PACKED_FILE in names:
            return self.n_units  # A ledger is packed only when it is complete.
        return sum(entry_name(unit) in names for unit in range(self.n_units))

    def mark(
        self,
        entry: LedgerEntry,
        *,
        digest: Callable[[], str],
        held: HeldFolder | None = None,
        still: Callable[[], None] = lambda: None,
    ) -> None:
        """Write an entry unless a valid one that says the same is there, or says what now stands on disk.

        Parameters
        ----------
        entry : LedgerEntry
        digest : callable
            Gives the digest of the unit's file as it stands now.
        held : HeldFolder, optional
            The ledger's folder, through which the entry is written.
        still : callable, optional
            Raises if the ledger is no longer the caller's to write; see `publish`.
        """
        path = check_inside(self.root, self.entry_path(entry.unit))
        packed = self._read_packed().get(entry.unit)
        # The packed line says the same already; a file of its own would undo the packing.
        if packed is not None and packed.sha256 == entry.sha256:
            return

        def is_right(data: bytes) -> bool:
            try:
                there = LedgerEntry.from_bytes(data, path)
            except CorruptError:
                return False
            # Another digest belongs to a unit that was lost and computed again on another kind of machine, or
            # to that of another writer. The file that is there now says which entry describes it.
            return self.is_of(there, entry.unit) and there.sha256 in (entry.sha256, digest())

        publish(path, entry.to_bytes(), is_right, held=held, still=still)

    def pack(self, held: HeldFolder | None = None) -> bool:
        """Join the entries in one file if every unit has one; return whether the ledger is packed now.

        A kill between the two steps leaves the packed file and the entries, which say the same.
        """
        units = self._single_units()
        if not units:
            return self.packed_path.exists()
        if len(self._read_packed().keys() | units) < self.n_units:
            # Entries are counted, not read: every job of a large extraction asks, and there may be very many.
            return False
        entries = self.all_recorded()
        if len(entries) < self.n_units:
            return False
        data = render_packed(self.array, [entries[unit] for unit in range(self.n_units)])
        if len(data) > MAX_LEDGER_BYTES:
            return False  # Nobody would read a file of this size.
        path = check_inside(self.root, self.packed_path)
        # A packed file that is there may lack a unit that was computed again, so that equal content is not
        # taken for granted.
        publish(path, data, lambda found: found == data, held=held)
        for unit in units:
            # An entry that changed since it was packed is newer than its line, and stays.
            if self._single(unit) == entries[unit]:
                place_at(self.entry_path(unit), held).free()
        return True

    def unpack(self) -> None:
        """Give every sound packed entry a file of its own again, and remove the packed file."""
        path = self.packed_path
        if not path.exists():
            return
        for unit, entry in self._read_packed().items():
            # A sound entry with a file of its own is newer than the packed line and must not be replaced.
            if self._single(unit) is None:
                place_at(check_inside(self.root, self.entry_path(unit))).replace(entry.to_bytes())
        # The packed file goes last, so that a kill before this line loses no entry.
        place_at(path).free()
        self._packed = None

    def _single(self, unit: int) -> LedgerEntry | None:
        """Return the entry in a unit's own file; a file that did not change is not parsed again."""
        path = self.entry_path(unit)
        try:
            signature = _signature(path)
            known = self._singles.get(unit)
            if known and known[0] == signature:
                return known[1]
            entry = LedgerEntry.from_bytes(read_file(path), path)
        except FileNotFoundError:
            return None
        except CorruptError as error:
            logger.warning("unit %d of %s counts as missing: %s [TT201]", unit, self.array, error)
            return None
        if not self.is_of(entry, unit):
            logger.warning(
                "unit %d of %s counts as missing: %s is of another unit [TT201]", unit, self.array, path
            )
            return None
        self._singles[unit] = (signature, entry)
        return entry

    def foreign_entries(self) -> list[Path]:
        """List the entries with a file of their own that are of another cache; they count for nothing."""
        found = []
        for unit in self._single_units():
            path = self.entry_path(unit)
            try:
                if self.is_foreign(LedgerEntry.from_bytes(read_file(path), path)):
                    found.append(path)
            except (FileNotFoundError, StoreError):
                continue
        return found

    def is_foreign(self, entry: LedgerEntry) -> bool:
        """Whether an entry is of a cache of another recipe or of other images."""
        return entry.cache not in (None, self.binding)

    def is_of(self, entry: LedgerEntry, unit: int) -> bool:
        """Whether an entry names this array, this unit and the rows of the unit."""
        start, stop = unit * self.unit_rows, min((unit + 1) * self.unit_rows, self.n_rows)
        # A sound entry in a wrong place, for instance copied by hand, must not mark another unit as done.
        is_place = (entry.array, entry.unit, entry.start, entry.stop) == (self.array, unit, start, stop)
        return is_place and not self.is_foreign(entry)

    def _read_packed(self) -> dict[int, LedgerEntry]:
        try:
            signature = _signature(self.packed_path)
            if self._packed is None or self._packed[0] != signature:
                entries, damage = read_packed(read_file(self.packed_path), self.packed_path)
                for line in damage:
                    logger.warning("units of %s count as missing: %s [TT201]", self.array, line)
                sound = {entry.unit: entry for entry in entries if self.is_of(entry, entry.unit)}
                self._packed = (signature, sound)
        except FileNotFoundError:
            self._packed = None
        except CorruptError as error:
            logger.warning("units of %s count as missing: %s [TT201]", self.array, error)
            self._packed = None
        return {} if self._packed is None else self._packed[1]

    def _single_units(self) -> list[int]:
        stems = [path.stem for path in list_folder(self.folder) if path.suffix == ".json"]
        return sorted(int(stem) for stem in stems if stem.isdecimal() and int(stem) < self.n_units)


def recorded_units(folder: Path, n_units: int) -> Collection[int]:
    """Return the units that the ledger in a folder names; the entries are not read.

    A packed ledger names all units. Their numbers take no memory, because a damaged record may say billions.
    """
    names = {path.name for path in list_folder(folder)}
    if PACKED_FILE in names:
        return range(n_units)
    return {int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdecimal()}


def _signature(path: Path) -> Signature:
    status = path.stat()
    # Every commit makes a new file, so that a file with the same inode, time and size was not replaced.
    return (status.st_ino, status.st_mtime_ns, status.st_size)
