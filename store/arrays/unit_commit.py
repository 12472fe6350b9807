"""Commit one unit of one or more arrays: values on disk first, then their ledger entries."""

import hashlib
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError, StoreError
from toptune.store.arrays.formats import format_of
from toptune.store.arrays.held_arrays import HeldArrays
from toptune.store.arrays.ledger import ArrayLedger
from toptune.store.arrays.ledger_entry import LedgerEntry
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.unit_values import StoredUnit, agree, count_non_finite, to_stored
from toptune.store.files.place import check_inside, place_at
from toptune.store.files.publish import publish

PARALLEL_WRITES = 4
# Each attempt is lost only to a collection that took a file which was milliseconds old.
_ATTEMPTS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class UnitCommit:
    """One unit on its way to disk.

    Attributes
    ----------
    root, cache : Path
        Root folder of the store, and folder of the cache.
    held : HeldArrays
        The arrays' folders.
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
    tolerance : float
        How far values of another machine may lie apart; see `agree`.
    has_same_content : bool
        Whether the digests of the unit's images that are in the store, if any, are those of our images.
    """

    root: Path
    cache: Path
    held: HeldArrays
    unit: int
    rows: slice
    image_id: Callable[[int], str] = str
    failed: Mapping[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    costs: Mapping[str, float] | None = None
    tolerance: float = 0.0
    has_same_content: bool = True

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

    def publish(self, spec: ArraySpec, stored: StoredUnit, ledger: ArrayLedger) -> LedgerEntry:
        """Publish one array's unit and return the ledger entry of what then stands on disk.

        A file that another writer left under the same name is adopted if it holds our values, or if the
        ledger names it; any other is written again.

        Raises
        ------
        StoreError
            If the system refuses.
        """
        made = format_of(spec.format)
        # The unit is encoded whole in memory, so that one commit protocol serves every format and no file
        # is ever open for writing under its final name.
        data = made.encode_unit(spec, stored.values)

        def is_ours(found: bytes) -> bool:
            # A file that decodes may be of other images, left by a writer who stood still meanwhile.
            named = ledger.recorded(self.unit)
            if named is not None and named.sha256 == hashlib.sha256(found).hexdigest():
                return True
            try:
                values = made.decode_unit(spec, found, self.unit)
            except CorruptError:
                return False
            # Another kind of machine computes other last bits. Its file stays, so that two writers at work
            # do not take each other's away, and the entry describes what stands on disk.
            return self.has_same_content and agree(values, stored.values, self.tolerance)

        found = self.put(spec, data, is_ours)
        return LedgerEntry(
            array=spec.name,
            unit=self.unit,
            start=self.rows.start,
            stop=self.rows.stop,
            n_bytes=len(found),
            # The digest ties the entry to these very bytes: a file that decodes may still belong to another
            # unit.
            sha256=hashlib.sha256(found).hexdigest(),
            checksum=made.checksum(spec, found),
            cache=ledger.binding,
            non_finite=count_non_finite(
                spec, stored, rows=self.rows, failed=self.failed, image=self.image_id
            ),
            failed=self.failed,
            seconds=float(self.seconds),
            host=socket.gethostname(),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            costs=self.costs,
        )

    def put(self, spec: ArraySpec, data: bytes, is_ours: Callable[[bytes], bool]) -> bytes:
        """Publish one array's encoded unit and return what then stands on disk; see `publish`."""
        path = self.path(spec)
        return publish(path, data, is_ours, held=self.held.array(spec.name), still=self.held.check)

    def mark(self, spec: ArraySpec, entry: LedgerEntry, ledger: ArrayLedger) -> None:
        """Write the ledger entry of one array: from here on the unit is done."""
        place = place_at(self.path(spec), self.held.array(spec.name))

        def digest() -> str:
            try:
                return hashlib.sha256(place.read()).hexdigest()
            except (FileNotFoundError, CorruptError):
                return ""

        ledger.mark(entry, digest=digest, held=self.held.ledger(spec.name), still=self.held.check)

    def commit(
        self,
        specs: Sequence[ArraySpec],
        publish: Callable[[ArraySpec], LedgerEntry],
        ledger: Callable[[str], ArrayLedger],
    ) -> None:
        """Publish a unit of several arrays, and then mark the unit as done in their ledgers.

        Parameters
        ----------
        specs : sequence of ArraySpec
        publish : callable
            Publishes one array's unit, such as `publish` with the values of that array.
        ledger : callable
            Gives the ledger of an array by its name.

        Raises
        ------
        StoreError
            If the system refuses, the cache was removed meanwhile, or the files are taken away again and
            again.
        """
        left = list(specs)
        for _ in range(_ATTEMPTS):
            done = in_parallel(lambda spec: (spec, publish(spec)), left)
            self.held.check_arrays()
            # Entries come last: from here on the unit is done. A kill before this line leaves files that
            # nothing names, which the next writer adopts or replaces; a kill after it leaves a finished unit.
            in_parallel(lambda item: self.mark(*item, ledger(item[0].name)), done)
            # A removal in the meantime took the unit with it, which the caller must know.
            self.held.check_arrays()
            # A collection that spares nothing young may have taken a file before its entry stood. A later
            # one finds the entry, and leaves the file.
            left = [spec for spec in left if not self.is_there(spec)]
            if not left:
                return
        raise StoreError(
            f"{self.path(left[0])} was taken away each time that it was written; let store gc spare what is "
            "young (--grace 1h) while others write"
        )

    def is_there(self, spec: ArraySpec) -> bool:
        """Whether the unit of one array has a file."""
        try:
            place_at(self.path(spec), self.held.array(spec.name)).status()
        except FileNotFoundError:
            return False
        return True

    def path(self, spec: ArraySpec) -> Path:
        """Return the file of the unit in one array."""
        return check_inside(self.root, format_of(spec.format).unit_path(self.cache / spec.name, self.unit))


def in_parallel(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    """Apply a function to several items at once.

    The time of a commit goes into fsync, and file systems do several of them together.
    """
    if len(items) < 2:
        return [function(item) for item in items]
    # Threads suffice, because fsync and the write calls release Python's lock.
    with ThreadPoolExecutor(PARALLEL_WRITES) as pool:
        return list(pool.map(function, items))
