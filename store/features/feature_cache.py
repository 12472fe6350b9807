"""`FeatureCache`: the arrays of one recipe over one data set."""

import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from toptune.errors import (
    ConflictError,
    CorruptError,
    IncompleteError,
    InputError,
    StoreError,
    StoreNotFoundError,
)
from toptune.store.arrays.array_records import (
    make_array,
    read_array,
    read_measured,
    record_path,
    recorded_names,
)
from toptune.store.arrays.formats import ArrayFormat, format_of
from toptune.store.arrays.held_arrays import hold_arrays
from toptune.store.arrays.ledger import ArrayLedger
from toptune.store.arrays.ledger_entry import LedgerEntry
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.unit_commit import UnitCommit, in_parallel
from toptune.store.arrays.unit_reader import UnitReader, gone
from toptune.store.arrays.units import choose_chunk_rows, count_units, format_units
from toptune.store.datasets.dataset_records import read_dataset
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.blocks import row_numbers
from toptune.store.features.cache_blocks import CacheBlocks
from toptune.store.features.feature_identity import FeatureIdentity
from toptune.store.features.hints import mark_used, read_request, write_request
from toptune.store.files.names import check_name
from toptune.store.files.place import place_at
from toptune.store.files.reading import MAX_RECORD_BYTES, read_file, regular_size
from toptune.store.files.system_errors import not_readable

CONTENT_ARRAY = "content.sha256"
# Bytes of one SHA-256 digest, which is one row of `CONTENT_ARRAY`.
DIGEST_BYTES = 32
_NO_ENTRIES: Mapping[int, LedgerEntry] = MappingProxyType({})
# How far the values of two machines may lie apart, as a part of a row's largest value: rounding to float16
# moves a value by 0.0005, arithmetic in bf16 most features by 0.002 to 0.02, in fp16 by an eighth of that.
_TOLERANCE = {"fp32": 0.002, "bf16": 0.05, "fp16": 0.01}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FeatureCache(FeatureIdentity):
    """Arrays ``<tap>.<pooling>`` of one recipe over one data set, committed unit by unit.

    `FeatureStore.create_cache` and `FeatureStore.cache` make one. A unit is done when its ledger entry is
    valid, never because a file exists. A unit that is done never changes again.

    Attributes
    ----------
    root, path : Path
        Root folder of the store, and folder of the cache.
    images_sha256 : str
        Digest over the ids and sizes of the images.
    model, digest, recipe, backbone
        See `FeatureIdentity`.
    dataset : str
        Name of the data set.
    n_rows, unit_rows, batch_size : int
        Rows of the data set, of a unit, and of the forward passes in it.
    created : Mapping
        ``who``, ``when``, ``where`` and ``toptune``.
    identity : tuple of int
        Inode and time of ``cache.json`` when the cache was opened; a cache made in its place differs.
    format : str
        ``"zarr"`` or ``"hdf5"``: how its arrays are stored.
    """

    root: Path
    path: Path
    images_sha256: str
    dataset: str
    n_rows: int
    unit_rows: int
    batch_size: int
    created: Mapping[str, str]
    identity: tuple[int, int]
    format: str = "zarr"
    _ledgers: dict[str, ArrayLedger] = field(default_factory=dict, repr=False)
    # Files of units whose checksums were compared, with the signature of each file at that time.
    _checked: dict[Path, tuple[int, int, int]] = field(default_factory=dict, repr=False)

    @cached_property
    def manifest(self) -> Manifest:
        """The data set's rows."""
        return read_dataset(self.root, self.dataset)

    def __getstate__(self) -> dict[str, object]:
        """Leave out the data set's rows: readers travel to workers with their cache, and need no names."""
        return {name: value for name, value in vars(self).items() if name != "manifest"}

    @property
    def dataset_version(self) -> int:
        """Version of the data set: a cache alone holds the first one."""
        return 1

    @property
    def n_units(self) -> int:
        """Number of units that cover the rows."""
        return count_units(self.n_rows, self.unit_rows)

    @cached_property
    def binding(self) -> str:
        """What tells this cache from those of other recipes or images; its ledger entries carry it."""
        return hashlib.sha256(f"{self.digest} {self.images_sha256}".encode()).hexdigest()[:32]

    def moved_to(self, path: Path) -> "FeatureCache":
        """Return this cache as it is seen in the folder to which it was moved."""
        return replace(self, path=path, _ledgers={}, _checked={})

    def unit_slice(self, unit: int) -> slice:
        """Return the rows of a unit; the last one may be shorter."""
        if not 0 <= unit < self.n_units:
            raise InputError(f"unit {unit} does not exist; {self.name} has {self.n_units} units")
        return slice(unit * self.unit_rows, min((unit + 1) * self.unit_rows, self.n_rows))

    # Arrays

    def arrays(self) -> list[ArraySpec]:
        """List the feature arrays, sorted by name; arrays ``content.*`` are not features."""
        return [spec for spec in self.all_arrays() if not _is_content(spec.name)]

    def all_arrays(self) -> list[ArraySpec]:
        """List every array, also ``content.*``."""
        return [self.array(name) for name in recorded_names(self.path)]

    def array(self, name: str) -> ArraySpec:
        """Return one array's spec.

        Raises
        ------
        IncompleteError
            If the array was never extracted.
        CorruptError
            If the array's record or its metadata file is damaged.
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
        # All arrays of a cache are cut alike, so that one unit number means the same rows in each array.
        if (spec.n_rows, spec.unit_rows, spec.format) != (self.n_rows, self.unit_rows, self.format):
            record = record_path(self.path, name)
            raise CorruptError(f"{record} belongs to another cache; was it moved?", record)
        return spec

    def measured(self, name: str) -> dict[str, float]:
        """Return the measurements that were made with an array, such as the deviation from float32."""
        return read_measured(self.path, self.array(name).name)

    def ensure_array(
        self, name: str, *, dim: int, dtype: str, measured: Mapping[str, float] | None = None
    ) -> ArraySpec:
        """Make an array, or adopt the array that is there.

        Parameters
        ----------
        name : str
            ``<tap>.<pooling>``, or ``content.sha256``.
        dim : int
            Columns.
        dtype : str
            ``"float16"`` or ``"float32"`` (``"uint8"`` for ``content.*``). An array that is there keeps its
            type; the returned spec says which.
        measured : mapping of str to float, optional
            Measurements that are kept beside a new array; see `measured`.

        Raises
        ------
        ConflictError
            If the array there has another number of columns.
        """
        name = check_name(name, what="array")
        # The record decides, not the metadata file, because the record is written last.
        if not record_path(self.path, name).exists():
            spec = ArraySpec(
                name=name,
                dim=dim,
                dtype=dtype,
                unit_rows=self.unit_rows,
                chunk_rows=choose_chunk_rows(self.unit_rows),
                n_rows=self.n_rows,
                format=self.format,
            )
            with hold_arrays(self.path, (), self._require_same) as held:
                make_array(self.root, self.path, spec, measured, held=held.cache)
        spec = self.array(name)
        if spec.dim != dim:
            raise ConflictError(
                f"array {name!r} of {self.name} has {spec.dim} columns, now {dim} are offered, although the "
                "recipe is the same; the backbone's code may have changed: use another --store"
            )
        return spec

    # Ledger

    def ledger(self, name: str) -> ArrayLedger:
        """Return the ledger of an array, which may be empty."""
        if name not in self._ledgers:
            folder = record_path(self.path, check_name(name, what="array")).parent
            self._ledgers[name] = ArrayLedger(
                self.root, folder, name, self.unit_rows, self.n_rows, self.binding
            )
        return self._ledgers[name]

    def entry(self, name: str, unit: int) -> LedgerEntry | None:
        """Return the valid ledger entry of a unit, or None if the unit is not done.

        A unit is done if its entry is there, matches its own digest and belongs to this unit, and the unit's
        file has the size that the entry names.
        """
        return self._if_stored(self.ledger(name).recorded(unit))

    def _if_stored(self, entry: LedgerEntry | None) -> LedgerEntry | None:
        if entry is None:
            return None
        n_bytes = regular_size(self.shard_path(entry.array, entry.unit))
        # The size is compared with every look, the digest only by `verify`: reading every byte would take
        # as long as training.
        return entry if n_bytes == entry.n_bytes else None

    def entries(self, name: str) -> dict[int, LedgerEntry]:
        """Return the valid ledger entries of all units of an array that are done."""
        recorded = self.ledger(name).all_recorded()
        paths = {unit: self.shard_path(name, unit) for unit in recorded}
        sizes = place_at(self.path / name).sizes(paths.values())
        return {unit: entry for unit, entry in recorded.items() if sizes.get(paths[unit]) == entry.n_bytes}

    def missing_units(self, name: str) -> list[int]:
        """List the units of an array that are not done; every unit if there is no such array."""
        done = self.entries(name)
        return [unit for unit in range(self.n_units) if unit not in done]

    def count_entries(self, name: str) -> int:
        """Count the ledger entries of an array without reading any entry."""
        return self.ledger(name).count()

    def pack_ledgers(self, names: Sequence[str]) -> None:
        """Join the ledger entries of each named array that is complete in one file, for quick opening."""
        with hold_arrays(self.path, list(names), self._require_same) as held:
            for name in names:
                self.ledger(name).pack(held.ledger(name))

    def is_complete(self, names: Sequence[str] | None = None) -> bool:
        """Whether every unit of the named arrays is done; by default of all arrays, at least one."""
        if names is None:
            names = [spec.name for spec in self.all_arrays()]
        return bool(names) and not any(self.missing_units(name) for name in names)

    def failed_rows(
        self, names: Sequence[str] | None = None, *, units: Iterable[int] | None = None
    ) -> dict[int, str]:
        """Return row to reason for images that could not be used.

        Parameters
        ----------
        names : sequence of str, optional
            In these arrays; by default all.
        units : iterable of int, optional
            In these units; by default all. A job of many looks at its own.
        """
        if names is None:
            names = [spec.name for spec in self.all_arrays()]
        units = None if units is None else list(units)
        failed: dict[int, str] = {}
        for name in names:
            found = self.entries(name).values() if units is None else (self.entry(name, u) for u in units)
            for entry in found:
                for row, reason in entry.failed.items() if entry is not None else ():
                    failed.setdefault(row, reason)
        return dict(sorted(failed.items()))

    # Writing

    def commit_unit(
        self,
        unit: int,
        values: Mapping[str, npt.NDArray[np.number]],
        *,
        failed: Mapping[int, str] | None = None,
        seconds: float = 0.0,
        costs: Mapping[str, float] | None = None,
    ) -> None:
        """Commit one unit of one or more arrays: all shards first, then their ledger entries.

        What another writer has committed in the meantime stays and is adopted.

        Parameters
        ----------
        unit : int
            Number of the unit.
        values : mapping of str to array (rows, dim)
            Name of an array to the unit's values; features are converted to the array's type on disk.
        failed : mapping of int to str, optional
            Row (of the data set) to reason; the features of these rows become NaN.
        seconds : float
            Time that computing took.
        costs : mapping, optional
            Other costs of the values; see `LedgerEntry`.

        Raises
        ------
        NumericalError
            If a finite value becomes infinite in the type on disk; names the image and the array.
        InputError
            If shapes, rows or names do not fit.
        StoreError
            If the system refuses to write, or the cache was removed in the meantime.
        """
        rows = self.unit_slice(unit)
        failed = dict(failed or {})
        # A failed row outside the unit is an error of the caller and would be lost silently.
        if any(not rows.start <= row < rows.stop for row in failed):
            raise InputError(f"failed rows {sorted(failed)} are not all in unit {unit}, rows {rows}")
        with hold_arrays(self.path, list(values), self._require_same) as held:
            job = UnitCommit(
                root=self.root,
                cache=self.path,
                held=held,
                image_id=lambda row: self.manifest.image_id(row),
                unit=unit,
                rows=rows,
                failed=failed,
                seconds=seconds,
                costs=costs,
                tolerance=_TOLERANCE.get(self.recipe.precision, _TOLERANCE["fp32"]),
                has_same_content=self._has_same_content(unit, values.get(CONTENT_ARRAY)),
            )
            # Units that another writer has finished are not written again, because a committed unit does not
            # change.
            specs = [self.array(name) for name in values if self.entry(name, unit) is None]
            # The widest array takes longest to write. It comes first, so that the others are written
            # meanwhile.
            specs.sort(key=lambda spec: -spec.dim)
            # All arrays are checked before any is written, so that a value that cannot be stored leaves no
            # half of a unit behind.
            stored = dict(in_parallel(lambda spec: (spec.name, job.check(spec, values[spec.name])), specs))
            job.commit(
                specs,
                lambda spec: job.publish(spec, stored[spec.name], self.ledger(spec.name)),
                self.ledger,
            )

    def put_unit(self, spec: ArraySpec, data: bytes, entry: LedgerEntry) -> None:
        """Commit a unit that is encoded already, with what `entry` of another store knows of it.

        Parameters
        ----------
        spec : ArraySpec
        data : bytes
            The unit's file.
        entry : LedgerEntry
            Entry of the same unit of the same recipe and images.

        Raises
        ------
        StoreError
            If the system refuses to write, or the cache was removed in the meantime.
        """
        with hold_arrays(self.path, [spec.name], self._require_same) as held:
            rows = self.unit_slice(entry.unit)
            job = UnitCommit(root=self.root, cache=self.path, held=held, unit=entry.unit, rows=rows)
            here = replace(
                entry,
                n_bytes=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                checksum=self._format.checksum(spec, data),
                cache=self.binding,
            )

            def publish(spec: ArraySpec) -> LedgerEntry:
                # An interrupted copy left the same bytes. A file with other bytes is no copy of this unit,
                # even if it decodes, and is written again.
                job.put(spec, data, lambda found: found == data)
                return here

            job.commit([spec], publish, self.ledger)

    def _has_same_content(self, unit: int, own: npt.NDArray[np.number] | None) -> bool:
        """Whether the digests of a unit's images in the store, committed or not, are `own`."""
        if own is None or not record_path(self.path, CONTENT_ARRAY).exists():
            return True
        try:
            # Digests as they are, and room for what a format adds.
            data = read_file(
                self.shard_path(CONTENT_ARRAY, unit), max_bytes=2 * own.nbytes + MAX_RECORD_BYTES
            )
            found = self._format.decode_unit(self.array(CONTENT_ARRAY), data, unit)
        except FileNotFoundError:
            return True
        except CorruptError:
            return False
        return bool(np.array_equal(found, own))

    # Reading

    def blocks(self, names: Sequence[str], rows: npt.ArrayLike | None = None) -> CacheBlocks:
        """Return the columns of some arrays side by side, as `Blocks`.

        Parameters
        ----------
        names : sequence of str
            Arrays, in the order of their columns.
        rows : array of int (m,), optional
            Rows of the data set, in any order; by default all of them.

        Raises
        ------
        IncompleteError
            If a unit that holds one of the rows is not done; the message names the units.
        CorruptError
            If a unit's file is gone or has another size than its ledger entry says. Checksums are compared
            while reading.
        """
        if isinstance(names, str) or not names or len(set(names)) != len(names):
            raise InputError(f"arrays {names!r} must be a list of different names")
        numbers = None if rows is None else row_numbers(rows, self.n_rows)
        specs = [self.array(name) for name in names]
        if numbers is None:
            units = list(range(self.n_units))
        else:
            units = np.unique(numbers // self.unit_rows).tolist()
        # Missing units are an error before the first block is read, and not hours into a pass.
        recorded = [self._require(spec, units) for spec in specs]
        readers = [self._reader(spec, entries) for spec, entries in zip(specs, recorded, strict=True)]
        return CacheBlocks(readers, numbers)

    def _require(self, spec: ArraySpec, units: Sequence[int]) -> Mapping[int, LedgerEntry]:
        """Return the ledger entries of an array after making sure that all units are there."""
        recorded = self.ledger(spec.name).all_recorded()
        missing = [unit for unit in units if unit not in recorded]
        if missing:
            raise IncompleteError(
                f"array {spec.name} of {self.name} over {self.dataset} lacks {len(missing)} of "
                f"{self.n_units} units: {format_units(missing)}; run the same extract again, "
                "it computes only these"
            )
        for unit in units:
            path = self.shard_path(spec.name, unit)
            n_bytes = regular_size(path)
            if n_bytes is None:
                try:
                    read_file(path)  # This tells a file that is gone from one that is no file of the store.
                except FileNotFoundError as error:
                    raise gone(path) from error
            if n_bytes != recorded[unit].n_bytes:
                raise CorruptError(
                    f"{path} has {n_bytes} bytes where {recorded[unit].n_bytes} were written; run the same "
                    "extract again to restore it",
                    path,
                )
        return recorded

    def content_digests(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Return the SHA-256 of each image's bytes as read for extraction.

        Returns
        -------
        digests : array (n, 32) of uint8
            Zeros where not known, or where the image could not be read at all.
        known : array (n,) of bool
            Rows whose unit has been committed.
        """
        digests = np.zeros((self.n_rows, DIGEST_BYTES), dtype=np.uint8)
        known = np.zeros(self.n_rows, dtype=bool)
        if record_path(self.path, CONTENT_ARRAY).exists():
            reader = self._reader(self.array(CONTENT_ARRAY))
            for unit in self.entries(CONTENT_ARRAY):
                rows = self.unit_slice(unit)
                digests[rows] = reader.unit(unit)
                known[rows] = True
        return digests, known

    def unit_digests(self, unit: int) -> npt.NDArray[np.uint8] | None:
        """Return the digests of one unit, ``(rows, 32)``; None if the unit is not committed."""
        if self.entry(CONTENT_ARRAY, unit) is None:
            return None
        return self._reader(self.array(CONTENT_ARRAY)).unit(unit).astype(np.uint8, copy=False)

    def _reader(self, spec: ArraySpec, entries: Mapping[int, LedgerEntry] = _NO_ENTRIES) -> UnitReader:
        ledger = self.ledger(spec.name)
        return UnitReader(self.path, spec, self._require_same, self._checked, ledger, entries)

    def _require_same(self) -> None:
        """Refuse to go on in a folder that was removed, or made anew for other images, since it was opened.

        After a file was read by its path, this tells that the file belonged to this cache.
        """
        if read_identity(self.path) != self.identity:
            raise StoreNotFoundError(
                f"{self.path} was removed while it was in use; extract it again, or use another --store"
            )

    # Hints

    def mark_used(self) -> None:
        """Note for ``store gc`` that the cache is being used; nothing happens on a read-only store."""
        with contextlib.suppress(StoreError), hold_arrays(self.path, (), self._require_same) as held:
            mark_used(self.root, self.path, held.cache)

    def remember_request(self, key: str, arrays: Sequence[str]) -> None:
        """Note which arrays a command line asked for, so that repeating it needs no backbone.

        The note is a hint: only the ledger says whether the arrays are complete. `key` must cover all that
        decides the request, such as size and time of a weights file.
        """
        with hold_arrays(self.path, (), self._require_same) as held:
            write_request(self.root, self.path, key, arrays, held.cache)

    def recall_request(self, key: str) -> list[str] | None:
        """Return what `remember_request` noted under `key`, or None."""
        return read_request(self.path, key)

    # Paths

    def shard_path(self, name: str, unit: int) -> Path:
        """Return the file of one unit of an array."""
        return self._format.unit_path(self.path / name, unit)

    def entry_path(self, name: str, unit: int) -> Path:
        """Return the file of one ledger entry, as long as it is not packed."""
        return self.ledger(name).entry_path(unit)

    @property
    def _format(self) -> ArrayFormat:
        return format_of(self.format)


def read_identity(cache: Path) -> tuple[int, int]:
    """Return inode and time of the ``cache.json`` in a folder; zeros if there is none."""
    try:
        found = (cache / "cache.json").stat()
    except (FileNotFoundError, NotADirectoryError):
        # A removed cache equals no cache that was opened, so that its users are refused.
        return (0, 0)
    except StoreError:
        raise
    except OSError as error:
        raise not_readable(cache / "cache.json", error) from error
    return (found.st_ino, found.st_mtime_ns)


def _is_content(name: str) -> bool:
    return name.startswith("content.")
