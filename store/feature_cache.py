"""`FeatureCache`: the arrays of one recipe over one data set."""

import hashlib
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store import commit, zarr_arrays
from toptune.store.array_records import make_array, read_array, record_path, recorded_names
from toptune.store.blocks import row_numbers
from toptune.store.cache_blocks import CacheBlocks
from toptune.store.datasets import read_dataset
from toptune.store.errors import (
    ConflictError,
    CorruptError,
    IncompleteError,
    InputError,
    StoreNotFoundError,
)
from toptune.store.last_use import mark_used
from toptune.store.ledger import LedgerEntry, entry_name
from toptune.store.manifest import Manifest
from toptune.store.names import check_inside, check_name
from toptune.store.publish import publish
from toptune.store.reading import read_file
from toptune.store.recipe import Recipe
from toptune.store.requests import read_request, write_request
from toptune.store.unit_values import blank_rows, count_non_finite, to_stored
from toptune.store.units import choose_chunk_rows, count_units, format_units
from toptune.store.zarr_arrays import ArraySpec

logger = logging.getLogger(__name__)

CONTENT_ARRAY = "content.sha256"
_PARALLEL_WRITES = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureCache:
    """Arrays ``<tap>.<pooling>`` of one recipe over one data set, committed unit by unit.

    Made by `FeatureStore.create_cache` and `FeatureStore.cache`. A unit is done when its ledger entry is
    valid, never because a file exists; once done it does not change.

    Attributes
    ----------
    path : Path
        Its folder.
    model : str
        Plain model name.
    digest : str
        Full digest of the recipe.
    dataset : str
        Name of the data set.
    recipe : Recipe
        What decides the numbers.
    backbone : Mapping
        JSON values that load the backbone again.
    n_rows, unit_rows, batch_size : int
        Rows of the data set, of a unit, and of the forward passes in it.
    created : Mapping
        ``who``, ``when``, ``where`` and ``toptune``.
    identity : tuple of int
        Of the file ``cache.json`` when it was opened: tells this cache from one made anew in its place.
    """

    root: Path
    path: Path
    model: str
    digest: str
    dataset: str
    recipe: Recipe
    backbone: Mapping[str, Any]
    n_rows: int
    unit_rows: int
    batch_size: int
    created: Mapping[str, str]
    identity: tuple[int, int]
    _entries: dict[tuple[str, int], tuple[tuple[int, int, int], LedgerEntry]] = field(
        default_factory=dict, repr=False
    )

    @property
    def name(self) -> str:
        """``<model>@<digest8>``: what tells this cache from others of the same model name."""
        return f"{self.model}@{self.digest[:8]}"

    @cached_property
    def manifest(self) -> Manifest:
        """The data set's rows."""
        return read_dataset(self.root, self.dataset)

    @property
    def n_units(self) -> int:
        """Units that cover the rows."""
        return count_units(self.n_rows, self.unit_rows)

    def unit_slice(self, unit: int) -> slice:
        """Return the rows of a unit; the last one may be shorter."""
        if not 0 <= unit < self.n_units:
            raise InputError(f"unit {unit} does not exist; {self.name} has {self.n_units} units")
        return slice(unit * self.unit_rows, min((unit + 1) * self.unit_rows, self.n_rows))

    # Arrays

    def arrays(self) -> list[ArraySpec]:
        """List the feature arrays, sorted by name; those of ``content.*`` are not features."""
        return [spec for spec in self.all_arrays() if not _is_content(spec.name)]

    def all_arrays(self) -> list[ArraySpec]:
        """List every array, also ``content.*``."""
        return [self.array(name) for name in recorded_names(self.path)]

    def array(self, name: str) -> ArraySpec:
        """Return one array's spec.

        Raises
        ------
        IncompleteError
            If it was never extracted.
        CorruptError
            If its record or its ``zarr.json`` is damaged.
        """
        name = check_name(name, what="array")
        try:
            spec = read_array(self.path, name)
        except FileNotFoundError:
            known = ", ".join(n for n in recorded_names(self.path) if not _is_content(n)) or "none"
            raise IncompleteError(
                f"array {name!r} of {self.name} over {self.dataset} has not been extracted (there are: "
                f"{known}); run extract with --layers and --pooling that ask for it"
            ) from None
        if (spec.n_rows, spec.unit_rows) != (self.n_rows, self.unit_rows):
            raise CorruptError(f"{record_path(self.path, name)} belongs to another cache; was it moved?")
        return spec

    def ensure_array(self, name: str, *, dim: int, dtype: str) -> ArraySpec:
        """Make an array, or adopt the one that is there.

        Parameters
        ----------
        name : str
            ``<tap>.<pooling>``, or ``content.sha256``.
        dim : int
            Columns.
        dtype : str
            ``"float16"`` or ``"float32"`` (``"uint8"`` for ``content.*``). The type of an array that is
            there stays: look at the returned spec.

        Raises
        ------
        ConflictError
            If the array there has another number of columns.
        """
        name = check_name(name, what="array")
        if not record_path(self.path, name).exists():
            spec = ArraySpec(
                name=name,
                dim=dim,
                dtype=dtype,
                unit_rows=self.unit_rows,
                chunk_rows=choose_chunk_rows(self.unit_rows),
                n_rows=self.n_rows,
            )
            make_array(self.root, self.path, spec)
        spec = self.array(name)
        if spec.dim != dim:
            raise ConflictError(
                f"array {name!r} of {self.name} has {spec.dim} columns, now {dim} are offered, although the "
                "recipe is the same; the backbone's code may have changed: use another --store"
            )
        return spec

    # Ledger

    def entry(self, name: str, unit: int) -> LedgerEntry | None:
        """Return the valid ledger entry of a unit, or None if the unit is not done.

        Done means: the entry is there, matches its own digest, belongs to this unit, and the shard has the
        size it names.
        """
        entry = self._recorded(name, unit)
        if entry is None:
            return None
        try:
            n_bytes = self.shard_path(name, unit).stat().st_size
        except OSError:
            return None
        return entry if n_bytes == entry.n_bytes else None

    def _recorded(self, name: str, unit: int) -> LedgerEntry | None:
        """Return a unit's entry whatever its shard; entries seen before are not parsed again."""
        path = self.entry_path(name, unit)
        try:
            status = path.stat()
            signature = (status.st_ino, status.st_mtime_ns, status.st_size)
            known = self._entries.get((name, unit))
            if known and known[0] == signature:
                return known[1]
            entry = LedgerEntry.from_bytes(read_file(path), path)
        except FileNotFoundError:
            return None
        except CorruptError as error:
            logger.warning("unit %d of %s counts as missing: %s", unit, name, error)
            return None
        rows = self.unit_slice(unit)
        if (entry.array, entry.unit, entry.start, entry.stop) != (name, unit, rows.start, rows.stop):
            logger.warning("unit %d of %s counts as missing: %s is of another unit", unit, name, path)
            return None
        self._entries[(name, unit)] = (signature, entry)
        return entry

    def missing_units(self, name: str) -> list[int]:
        """List the units of an array that are not done; all of them if there is no such array."""
        return [unit for unit in range(self.n_units) if self.entry(name, unit) is None]

    def count_entries(self, name: str) -> int:
        """Count the ledger entries of an array without reading them."""
        names = {entry_name(unit) for unit in range(self.n_units)}
        folder = record_path(self.path, name).parent
        if not folder.is_dir():
            return 0
        with os.scandir(folder) as files:
            return sum(file.name in names for file in files)

    def is_complete(self, names: Sequence[str] | None = None) -> bool:
        """Whether every unit of the named arrays (default: all of them, and at least one) is done."""
        if names is None:
            names = [spec.name for spec in self.all_arrays()]
        return bool(names) and not any(self.missing_units(name) for name in names)

    def failed_rows(self, names: Sequence[str] | None = None) -> dict[int, str]:
        """Return row to reason for pictures that could not be used in the named arrays (default: all)."""
        if names is None:
            names = [spec.name for spec in self.all_arrays()]
        failed: dict[int, str] = {}
        for name in names:
            for unit in range(self.n_units):
                entry = self.entry(name, unit)
                if entry is not None:
                    failed = {**entry.failed, **failed} if entry.failed else failed
        return dict(sorted(failed.items()))

    # Writing

    def commit_unit(
        self,
        unit: int,
        values: Mapping[str, npt.NDArray[Any]],
        *,
        failed: Mapping[int, str] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Commit one unit of one or more arrays: all shards first, then their ledger entries.

        What another writer has committed in the meantime stays and is adopted.

        Parameters
        ----------
        unit : int
            Number of the unit.
        values : mapping of str to array (rows, dim)
            Name to the unit's values; float arrays are converted to the array's type on disk.
        failed : mapping of int to str, optional
            Row (of the data set) to reason; the features of these rows become NaN.
        seconds : float
            Time that computing took.

        Raises
        ------
        NumericalError
            If a finite value becomes infinite in the type on disk; names the picture and the array.
        InputError
            If shapes, rows or names do not fit.
        StoreError
            If the system refuses to write, or the cache was removed in the meantime.
        """
        rows = self.unit_slice(unit)
        failed = dict(failed or {})
        self._require_same()
        if any(not rows.start <= row < rows.stop for row in failed):
            raise InputError(f"failed rows {sorted(failed)} are not all in unit {unit}, rows {rows}")
        # Everything is checked and encoded before anything is written.
        specs = [self.array(name) for name in values]
        ready: list[tuple[ArraySpec, npt.NDArray[Any], bytes]] = []
        for spec in specs:
            if self.entry(spec.name, unit) is None:
                stored = to_stored(spec, values[spec.name], rows=rows, failed=failed, picture=self._picture)
                ready.append((spec, stored, zarr_arrays.encode_shard(spec, stored)))

        def write(item: tuple[ArraySpec, npt.NDArray[Any], bytes]) -> LedgerEntry:
            spec, stored, data = item
            return self._write_shard(spec, unit, stored, data, failed=failed, seconds=seconds)

        # At once, because the time goes into fsync, and file systems do several of them together.
        with ThreadPoolExecutor(_PARALLEL_WRITES) as pool:
            entries = list(pool.map(write, ready))
            self._require_same()
            list(pool.map(self._mark, entries))

    def _write_shard(
        self,
        spec: ArraySpec,
        unit: int,
        stored: npt.NDArray[Any],
        data: bytes,
        *,
        failed: Mapping[int, str],
        seconds: float,
    ) -> LedgerEntry:
        """Publish a shard and return the ledger entry of what then stands on disk."""
        rows = self.unit_slice(unit)
        path = check_inside(self.root, self.shard_path(spec.name, unit))
        found = publish(path, data, lambda content: _decodes(spec, content))
        if found != data and spec.is_feature:
            # By one who died before the ledger, perhaps with other pictures unreadable.
            stored = zarr_arrays.decode_shard(spec, found)[: rows.stop - rows.start]
            unknown = "NaN in what an interrupted writer left"
            failed = {row: failed.get(row, unknown) for row in blank_rows(stored, rows)}
        return LedgerEntry(
            array=spec.name,
            unit=unit,
            start=rows.start,
            stop=rows.stop,
            n_bytes=len(found),
            sha256=hashlib.sha256(found).hexdigest(),
            non_finite=count_non_finite(spec, stored, rows=rows, failed=failed, picture=self._picture),
            failed=failed,
            seconds=float(seconds),
            host=socket.gethostname(),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _mark(self, entry: LedgerEntry) -> None:
        """Write a ledger entry unless a valid one is there."""
        path = check_inside(self.root, self.entry_path(entry.array, entry.unit))
        data = entry.to_bytes()
        if commit.put_if_absent(path, data):
            return
        there = self.entry(entry.array, entry.unit)
        # The second: left by a shard that was lost, and computed again on another kind of machine.
        if there is None or there.sha256 != entry.sha256:
            commit.replace(path, data)

    def _picture(self, row: int) -> str:
        return self.manifest.picture_id(row)

    # Reading

    def blocks(self, names: Sequence[str], rows: npt.ArrayLike | None = None) -> CacheBlocks:
        """Return the columns of some arrays side by side, as float32 `Blocks`.

        Parameters
        ----------
        names : sequence of str
            Arrays, in the order of their columns.
        rows : array of int (m,), optional
            Rows of the data set, in any order; by default all of them.

        Raises
        ------
        IncompleteError
            If a unit that holds one of the rows is not done; names the units.
        CorruptError
            If a shard is gone or has another size than its ledger entry says; names the file. Checksums are
            checked while reading.
        """
        if isinstance(names, str) or not names or len(set(names)) != len(names):
            raise InputError(f"arrays {names!r} must be a list of different names")
        numbers = None if rows is None else row_numbers(rows, self.n_rows)
        specs = [self.array(name) for name in names]
        if numbers is None:
            units = list(range(self.n_units))
        else:
            units = np.unique(numbers // self.unit_rows).tolist()
        for spec in specs:
            self._require(spec, units)
        return CacheBlocks(specs, self._read_unit, numbers)

    def _require(self, spec: ArraySpec, units: Sequence[int]) -> None:
        missing = [unit for unit in units if self._recorded(spec.name, unit) is None]
        if missing:
            raise IncompleteError(
                f"array {spec.name} of {self.name} over {self.dataset} lacks {len(missing)} of "
                f"{self.n_units} units: {format_units(missing)}; run the same extract again, "
                "it computes only these"
            )
        for unit in units:
            path = self.shard_path(spec.name, unit)
            try:
                n_bytes = path.stat().st_size
            except FileNotFoundError as error:
                raise _gone(path) from error
            if n_bytes != spec.shard_bytes:
                raise CorruptError(
                    f"{path} has {n_bytes} bytes where {spec.shard_bytes} were written; run the same extract "
                    "again to restore it"
                )

    def _read_unit(self, spec: ArraySpec, unit: int) -> npt.NDArray[Any]:
        """Read and check one unit: only its rows, in the array's type."""
        path = check_inside(self.root, self.shard_path(spec.name, unit))
        try:
            data = read_file(path)
        except FileNotFoundError as error:
            self._require_same()
            raise _gone(path) from error
        self._require_same()
        try:
            values = zarr_arrays.decode_shard(spec, data)
        except CorruptError as error:
            raise CorruptError(
                f"array {spec.name}, unit {unit} is damaged: {path}: {error}; remove that file and run the "
                "same extract again"
            ) from error
        rows = self.unit_slice(unit)
        return values[: rows.stop - rows.start]

    def content_digests(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Return the SHA-256 of each picture's bytes as read for extraction.

        Returns
        -------
        digests : array (n, 32) of uint8
            Zeros where not known, or where the picture could not be read at all.
        known : array (n,) of bool
            Rows whose unit has been committed.
        """
        digests = np.zeros((self.n_rows, 32), dtype=np.uint8)
        known = np.zeros(self.n_rows, dtype=bool)
        if record_path(self.path, CONTENT_ARRAY).exists():
            spec = self.array(CONTENT_ARRAY)
            for unit in range(self.n_units):
                if self.entry(CONTENT_ARRAY, unit) is not None:
                    rows = self.unit_slice(unit)
                    digests[rows] = self._read_unit(spec, unit)
                    known[rows] = True
        return digests, known

    def _require_same(self) -> None:
        """Refuse to go on in a folder that was removed, or made anew for other pictures, since it was opened.

        Asked after a shard was read: what was read by its path before then belonged to this cache.
        """
        if read_identity(self.path) != self.identity:
            raise StoreNotFoundError(
                f"{self.path} was removed while it was in use; run extract again, or use another --store"
            )

    # Hints

    def mark_used(self) -> None:
        """Note that the cache is being used, for ``store gc``; on a read-only store this does nothing."""
        mark_used(self.root, self.path)

    def remember_request(self, key: str, arrays: Sequence[str]) -> None:
        """Note which arrays a command line asked for, so that repeating it needs no backbone.

        A hint: whether the arrays are complete is always read from the ledger. `key` must cover all that
        decides what is asked for, such as size and time of a weights file.
        """
        write_request(self.root, self.path, key, arrays)

    def recall_request(self, key: str) -> list[str] | None:
        """Return what `remember_request` noted under `key`, or None."""
        return read_request(self.path, key)

    # Paths

    def shard_path(self, name: str, unit: int) -> Path:
        """Return the file of one unit of an array."""
        return self.path / name / "c" / str(unit) / "0"

    def entry_path(self, name: str, unit: int) -> Path:
        """Return the file of one ledger entry."""
        return self.path / "ledger" / name / entry_name(unit)


def read_identity(cache: Path) -> tuple[int, int]:
    """Return what tells the ``cache.json`` in a folder from any other; zeros if there is none."""
    try:
        found = (cache / "cache.json").stat()
    except OSError:
        return (0, 0)
    return (found.st_ino, found.st_mtime_ns)


def _is_content(name: str) -> bool:
    return name.startswith("content.")


def _gone(path: Path) -> CorruptError:
    return CorruptError(
        f"{path} is gone although the ledger names it; run the same extract again to restore it"
    )


def _decodes(spec: ArraySpec, data: bytes) -> bool:
    try:
        zarr_arrays.decode_shard(spec, data)
    except CorruptError:
        return False
    return True
