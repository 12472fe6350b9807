"""Commit one unit of one or more arrays: values on disk first, then their ledger entries."""

import hashlib
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError
from toptune.store.arrays.formats import format_of
from toptune.store.arrays.ledger import ArrayLedger
from toptune.store.arrays.ledger_entry import LedgerEntry
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.unit_values import StoredUnit, all_finite, blank_rows, count_non_finite, to_stored
from toptune.store.files.place import check_inside
from toptune.store.files.publish import publish

PARALLEL_WRITES = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class UnitCommit:
    """One unit on its way to disk.

    Attributes
    ----------
    root, cache : Path
        Root folder of the store, and folder of the cache.
    image_id : callable
        Gives the id of the image in a row of the data set, for messages.
    unit : int
        Number of the unit.
    rows : slice
        Rows of the unit, counted in the data set.
    failed : mapping of int to str
        Row to reason of images that could not be used.
    seconds : float
        Time that computing the values took.
    costs : mapping, optional
        Other costs of the values; see `LedgerEntry`.
    """

    root: Path
    cache: Path
    image_id: Callable[[int], str]
    unit: int
    rows: slice
    failed: Mapping[int, str]
    seconds: float
    costs: Mapping[str, float] | None = None

    def check(self, spec: ArraySpec, values: npt.NDArray[np.number]) -> StoredUnit:
        """Convert values to the array's type, and refuse values that cannot be stored.

        Raises
        ------
        NumericalError
            If a finite value becomes infinite in the type on disk.
        InputError
            If shape or type do not fit.
        """
        return to_stored(spec, values, rows=self.rows, failed=self.failed, image=self.image_id)

    def publish(self, spec: ArraySpec, stored: StoredUnit) -> LedgerEntry:
        """Publish one array's unit and return the ledger entry of what then stands on disk.

        A sound file that another writer left under the same name is adopted.

        Raises
        ------
        StoreError
            If the system refuses.
        """
        made = format_of(spec.format)
        # The unit is encoded whole in memory, so that one commit protocol serves every format and no file
        # is ever open for writing under its final name.
        data = made.encode_unit(spec, stored.values)
        path = check_inside(self.root, made.unit_path(self.cache / spec.name, self.unit))
        # A sound file that is there stays, although its values may differ in the last bits if another kind
        # of machine computed them. The entry then describes what stands on disk.
        found = publish(path, data, lambda content: _decodes(spec, content, self.unit))
        failed = self.failed
        if found is not data and found != data and spec.is_feature:
            # The file is by a writer who died before the ledger entry, perhaps with other images
            # unreadable, so that its failed rows are told from its values and not from ours.
            values = made.decode_unit(spec, found, self.unit)
            stored = StoredUnit(values, all_finite(values))
            unknown = "NaN in what an interrupted writer left"
            failed = {row: failed.get(row, unknown) for row in blank_rows(values, self.rows)}
        return LedgerEntry(
            array=spec.name,
            unit=self.unit,
            start=self.rows.start,
            stop=self.rows.stop,
            n_bytes=len(found),
            # The digest ties the entry to these very bytes: a file that decodes may still belong to another
            # unit.
            sha256=hashlib.sha256(found).hexdigest(),
            non_finite=count_non_finite(spec, stored, rows=self.rows, failed=failed, image=self.image_id),
            failed=failed,
            seconds=float(self.seconds),
            host=socket.gethostname(),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            costs=self.costs,
        )


def in_parallel(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    """Apply a function to several items at once.

    The time of a commit goes into fsync, and file systems do several of them together.
    """
    if len(items) < 2:
        return [function(item) for item in items]
    # Threads suffice, because fsync and the write calls release Python's lock.
    with ThreadPoolExecutor(PARALLEL_WRITES) as pool:
        return list(pool.map(function, items))


def mark_all(ledgers: Mapping[str, ArrayLedger], entries: list[LedgerEntry]) -> None:
    """Write the ledger entries: from here on the unit is done."""
    # Entries come last. A kill before this line leaves files that nothing names, which the next writer
    # adopts; a kill after it leaves a finished unit.
    in_parallel(lambda entry: ledgers[entry.array].mark(entry), entries)


def _decodes(spec: ArraySpec, data: bytes, unit: int) -> bool:
    try:
        format_of(spec.format).decode_unit(spec, data, unit)
    except CorruptError:
        return False
    return True
