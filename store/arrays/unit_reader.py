"""`UnitReader`: units of one array, each compared with its checksums the first time."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError
from toptune.store.arrays.formats import ArrayFormat, format_of
from toptune.store.arrays.ledger import ArrayLedger
from toptune.store.arrays.ledger_entry import LedgerEntry
from toptune.store.arrays.spec import OF_ANOTHER_UNIT, ArraySpec
from toptune.store.files.place import check_inside
from toptune.store.files.reading import file_digest

Signature = tuple[int, int, int]


class UnitReader:
    """Units of one array of a cache; a unit whose checksums held once is not checked again.

    Attributes
    ----------
    spec : ArraySpec
    """

    def __init__(
        self,
        cache: Path,
        spec: ArraySpec,
        require_same: Callable[[], None],
        checked: dict[Path, Signature],
        ledger: ArrayLedger,
        entries: Mapping[int, LedgerEntry],
    ) -> None:
        self.spec = spec
        self._ledger = ledger
        # Entries as they were read when the blocks were opened, which spares a look at the ledger for each.
        self._entries = dict(entries)
        self._cache = cache
        self._array = cache / spec.name
        self._require_same = require_same
        self._checked = checked

    def unit(self, unit: int, out: npt.NDArray[np.number] | None = None) -> npt.NDArray[np.number]:
        """Read all rows of a unit, in the type of the array.

        Parameters
        ----------
        unit : int
        out : array (rows, dim), optional
            C-contiguous, in the array's type, to read into.

        Raises
        ------
        CorruptError
            If the file is gone, or differs from what was written; the error names the file.
        StoreNotFoundError
            If the cache was removed.
        """
        return self._read(
            unit,
            lambda path, check, checksum: self._format.read_unit(
                self.spec, path, unit, out=out, check=check, checksum=checksum
            ),
        )

    def rows(self, unit: int, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.number]:
        """Read some rows, counted within the unit, in the order given; errors are those of `unit`."""
        return self._read(
            unit,
            lambda path, check, checksum: self._format.read_unit_rows(
                self.spec, path, unit, rows, check=check, checksum=checksum
            ),
            is_whole=False,
        )

    @property
    def _format(self) -> ArrayFormat:
        # A format is a module, which cannot be pickled. Readers can, because they look it up.
        return format_of(self.spec.format)

    def _read(
        self,
        unit: int,
        read: Callable[[Path, bool, str | None], npt.NDArray[np.number]],
        *,
        is_whole: bool = True,
    ) -> npt.NDArray[np.number]:
        path = self._format.unit_path(self._array, unit)
        try:
            # The signature is taken before the content is read. If another file takes the name in between,
            # the signature does not match at the next read, and the checksums of that file are compared
            # too.
            signature = _signature(path)
            is_new = self._checked.get(path) != signature
            checksum = None
            try:
                if is_new:
                    check_inside(self._cache, path)
                    checksum = self._identify(unit, path)
                values = read(path, is_new, checksum)
            except CorruptError:
                # The unit may have been lost and computed again since its entry was read.
                if not is_new or self._entries.pop(unit, None) is None:
                    raise
                return self._read(unit, read, is_whole=is_whole)
            # A file that was hashed as a whole needs no second check.
            is_whole = is_whole or (is_new and checksum is None)
        except FileNotFoundError as error:
            # A cache that was removed is reported as removed. Only in a cache that is there, a file is
            # missing.
            self._require_same()
            raise gone(path) from error
        except CorruptError as error:
            self._require_same()
            raise CorruptError(
                f"array {self.spec.name}, unit {unit} is damaged: {path}: {error}; remove that file and run "
                "the same extract again",
                path,
            ) from error
        # The folder is still this cache's, so what was read by its path belonged to this cache too.
        self._require_same()
        # Single rows prove nothing about the rest of the unit, whose checksums are still to be compared.
        if is_whole and is_new:
            self._checked[path] = signature
        return values

    def _identify(self, unit: int, path: Path) -> str | None:
        """Return the checksum that the ledger names; without one, compare the file's digest here.

        Checksums within a file say that it is undamaged, and not that it is the file of this unit: two files
        may have changed places.
        """
        entry = self._entries.get(unit) or self._ledger.recorded(unit)
        if entry is None:
            raise CorruptError("the ledger names it no longer")
        if entry.checksum is None and file_digest(path) != entry.sha256:
            raise CorruptError(OF_ANOTHER_UNIT)
        return entry.checksum


def gone(path: Path) -> CorruptError:
    """Say that a unit's file has vanished."""
    return CorruptError(
        f"{path} is gone although the ledger names it; run the same extract again to restore it", path
    )


def _signature(path: Path) -> Signature:
    status = path.stat()
    return (status.st_ino, status.st_mtime_ns, status.st_size)
