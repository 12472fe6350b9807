"""`FeatureCache`: the arrays of one recipe over one data set."""

import contextlib
import hashlib
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store import commit, zarr_arrays
from toptune.store.blocks import row_numbers
from toptune.store.cache_blocks import CacheBlocks
from toptune.store.datasets import read_dataset
from toptune.store.errors import (
    ConflictError,
    CorruptError,
    IncompleteError,
    InputError,
    NumericalError,
    StoreError,
)
from toptune.store.ledger import LedgerEntry, entry_name
from toptune.store.manifest import Manifest
from toptune.store.names import check_inside, check_name
from toptune.store.recipe import Recipe
from toptune.store.sealed import seal, unseal
from toptune.store.units import choose_chunk_rows, count_units, format_units
from toptune.store.zarr_arrays import ArraySpec

logger = logging.getLogger(__name__)

CONTENT_ARRAY = "content.sha256"
CACHE_KIND = "toptune-cache"
ARRAY_KIND = "toptune-array"
REQUEST_KIND = "toptune-request"
_ATTEMPTS = 8


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
        return [spec for spec in self.all_arrays() if not spec.name.startswith("content.")]

    def all_arrays(self) -> list[ArraySpec]:
        """List every array, also ``content.*``."""
        ledger = self.path / "ledger"
        if not ledger.is_dir():
            return []
        names = sorted(folder.name for folder in ledger.iterdir() if (folder / "array.json").exists())
        return [self.array(name) for name in names]

    def array(self, name: str) -> ArraySpec:
        """Return one array's spec.

        Raises
        ------
        IncompleteError
            If it was never extracted.
        CorruptError
            If its record or its ``zarr.json`` is damaged.
        """
        path = self._array_record(name)
        try:
            values = unseal(ARRAY_KIND, path.read_bytes(), path)
        except FileNotFoundError:
            known = ", ".join(spec.name for spec in self.arrays()) or "none"
            raise IncompleteError(
                f"array {name!r} of {self.name} over {self.dataset} has not been extracted (there are: "
                f"{known}); run extract with --layers and --pooling that ask for it"
            ) from None
        try:
            spec = ArraySpec(**values["spec"])
        except (KeyError, TypeError, InputError) as error:
            raise CorruptError(f"{path} does not describe an array: {error}") from error
        if (spec.name, spec.n_rows, spec.unit_rows) != (name, self.n_rows, self.unit_rows):
            raise CorruptError(f"{path} belongs to another array or cache")
        metadata = self.path / name / "zarr.json"
        with _corrupt_if_missing(metadata):
            if hashlib.sha256(metadata.read_bytes()).hexdigest() != values["zarr_sha256"]:
                raise CorruptError(f"{metadata} differs from what was written; restore it from a copy")
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
        record = self._array_record(name)
        if not record.exists():
            self._make_array(name, dim, dtype)
        spec = self.array(name)
        if spec.dim != dim:
            raise ConflictError(
                f"array {name!r} of {self.name} has {spec.dim} columns, now {dim} are offered, although the "
                "recipe is the same; the backbone's code may have changed: use another --store"
            )
        return spec

    def _make_array(self, name: str, dim: int, dtype: str) -> None:
        spec = ArraySpec(
            name=name,
            dim=dim,
            dtype=dtype,
            unit_rows=self.unit_rows,
            chunk_rows=choose_chunk_rows(self.unit_rows),
            n_rows=self.n_rows,
        )
        metadata = self.path / name / "zarr.json"
        data = self._publish(
            metadata, zarr_arrays.array_metadata(spec), lambda found: zarr_arrays.is_same_array(found, spec)
        )
        sealed = seal(ARRAY_KIND, {"spec": spec.to_dict(), "zarr_sha256": hashlib.sha256(data).hexdigest()})
        commit.put_if_absent(check_inside(self.root, self._array_record(name)), sealed)

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
            entry = LedgerEntry.from_bytes(path.read_bytes(), path)
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
            If the system refuses to write.
        """
        rows = self.unit_slice(unit)
        failed = dict(failed or {})
        if any(not rows.start <= row < rows.stop for row in failed):
            raise InputError(f"failed rows {sorted(failed)} are not all in unit {unit}, rows {rows}")
        # Everything is checked and encoded before anything is written.
        specs = [self.array(name) for name in values]
        open_specs = [spec for spec in specs if self.entry(spec.name, unit) is None]
        shards = {
            spec: zarr_arrays.encode_shard(spec, self._stored(spec, rows, values[spec.name], failed))
            for spec in open_specs
        }
        entries = []
        for spec, data in shards.items():
            found = self._publish(
                self.shard_path(spec.name, unit), data, lambda found, spec=spec: _decodes(spec, found)
            )
            entries.append(self._describe(spec, unit, found, failed, seconds, is_ours=found == data))
        for entry in entries:
            self._mark(entry)

    def _stored(
        self, spec: ArraySpec, rows: slice, values: npt.NDArray[Any], failed: Mapping[int, str]
    ) -> npt.NDArray[Any]:
        """Convert a unit to the type on disk, failed rows NaN."""
        n = rows.stop - rows.start
        if values.shape != (n, spec.dim):
            raise InputError(
                f"values of {spec.name} have shape {values.shape}; unit {rows} needs {(n, spec.dim)}"
            )
        if not spec.is_feature:
            if values.dtype != np.uint8:
                raise InputError(f"values of {spec.name} are {values.dtype}; uint8 is needed")
            return values
        if values.dtype.kind != "f":
            raise InputError(f"values of {spec.name} are {values.dtype}; floating point is needed")
        with np.errstate(over="ignore", invalid="ignore"):
            stored = values.astype(spec.dtype)
        places = [row - rows.start for row in failed]
        stored[places] = np.nan
        overflow = np.isinf(stored) & np.isfinite(values)
        if overflow.any():
            row = int(np.flatnonzero(overflow.any(axis=1))[0])
            largest = float(np.abs(values[row][overflow[row]]).max())
            raise NumericalError(
                f"array {spec.name}: value {largest:g} of picture {self.manifest.ids[rows.start + row]!r} "
                f"(row {rows.start + row}) exceeds the largest {spec.dtype}, {np.finfo(spec.dtype).max:g}; "
                "store this array as float32, in another --store"
            )
        return stored

    def _publish(self, path: Path, data: bytes, is_sound: Any) -> bytes:
        """Publish a file and return what stands there: ours, or a sound one found instead."""
        check_inside(self.root, path)
        for _ in range(_ATTEMPTS):
            if commit.put_if_absent(path, data):
                return data
            try:
                status = path.stat()
                found = path.read_bytes()
            except FileNotFoundError:
                continue
            if found == data or is_sound(found):
                return found
            logger.warning("%s is damaged and not in the ledger: it is written again", path)
            commit.remove_damaged(path, status)
        raise StoreError(
            f"cannot write {path}: other processes keep putting damaged files there; stop them and try again"
        )

    def _describe(
        self,
        spec: ArraySpec,
        unit: int,
        data: bytes,
        failed: Mapping[int, str],
        seconds: float,
        *,
        is_ours: bool,
    ) -> LedgerEntry:
        """Make the ledger entry of the shard that stands on disk."""
        rows = self.unit_slice(unit)
        non_finite = 0
        if spec.is_feature:
            stored = zarr_arrays.decode_shard(spec, data)[: rows.stop - rows.start]
            if not is_ours:
                # Written by one who died before the ledger, perhaps with other pictures unreadable.
                blank = np.flatnonzero(np.isnan(stored).all(axis=1)) + rows.start
                failed = {
                    int(row): failed.get(int(row), "not recorded by an earlier writer") for row in blank
                }
            sound = np.ones(len(stored), dtype=bool)
            sound[[row - rows.start for row in failed]] = False
            odd = ~np.isfinite(stored) & sound[:, None]
            non_finite = int(odd.sum())
            if non_finite:
                first = rows.start + int(np.flatnonzero(odd.any(axis=1))[0])
                logger.warning(
                    "array %s, unit %d: %d values are not finite in %d rows, first in row %d (%s)",
                    *(
                        spec.name,
                        unit,
                        non_finite,
                        int(odd.any(axis=1).sum()),
                        first,
                        self.manifest.ids[first],
                    ),
                )
        return LedgerEntry(
            array=spec.name,
            unit=unit,
            start=rows.start,
            stop=rows.stop,
            n_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            non_finite=non_finite,
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
        if self.entry(entry.array, entry.unit) is None:
            commit.replace(path, data)

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
            with _corrupt_if_missing(path):
                n_bytes = path.stat().st_size
            if n_bytes != spec.shard_bytes:
                raise CorruptError(
                    f"{path} has {n_bytes} bytes where {spec.shard_bytes} were written; run the same extract "
                    "again to restore it"
                )

    def _read_unit(self, spec: ArraySpec, unit: int) -> npt.NDArray[Any]:
        """Read and check one unit: only its rows, in the array's type."""
        path = check_inside(self.root, self.shard_path(spec.name, unit))
        with _corrupt_if_missing(path):
            data = path.read_bytes()
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
        if self._array_record(CONTENT_ARRAY).exists():
            spec = self.array(CONTENT_ARRAY)
            for unit in range(self.n_units):
                if self.entry(CONTENT_ARRAY, unit) is not None:
                    rows = self.unit_slice(unit)
                    digests[rows] = self._read_unit(spec, unit)
                    known[rows] = True
        return digests, known

    # Hints

    def remember_request(self, key: str, arrays: Sequence[str]) -> None:
        """Note which arrays a command line asked for, so that repeating it needs no backbone.

        A hint: whether the arrays are complete is always read from the ledger. `key` must cover all that
        decides what is asked for, such as size and time of a weights file.
        """
        path = self.path / "requests" / f"{check_name(key, what='request')}.json"
        commit.replace(check_inside(self.root, path), seal(REQUEST_KIND, {"arrays": list(arrays)}))

    def recall_request(self, key: str) -> list[str] | None:
        """Return what `remember_request` noted under `key`, or None."""
        path = self.path / "requests" / f"{check_name(key, what='request')}.json"
        try:
            values = unseal(REQUEST_KIND, path.read_bytes(), path)
        except FileNotFoundError:
            return None
        except CorruptError as error:
            logger.warning("the request is not recognised: %s", error)
            return None
        return [str(name) for name in values["arrays"]]

    # Paths

    def shard_path(self, name: str, unit: int) -> Path:
        """Return the file of one unit of an array."""
        return self.path / name / "c" / str(unit) / "0"

    def entry_path(self, name: str, unit: int) -> Path:
        """Return the file of one ledger entry."""
        return self.path / "ledger" / name / entry_name(unit)

    def _array_record(self, name: str) -> Path:
        return self.path / "ledger" / check_name(name, what="array") / "array.json"


@contextlib.contextmanager
def _corrupt_if_missing(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CorruptError(
            f"{path} is gone although the ledger names it; run the same extract again to restore it"
        ) from error


def _decodes(spec: ArraySpec, data: bytes) -> bool:
    try:
        zarr_arrays.decode_shard(spec, data)
    except CorruptError:
        return False
    return True
