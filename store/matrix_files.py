"""Matrices and columns of text in files of other programs; nothing in them is ever executed."""

import zipfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from toptune.store.errors import InputError

MATRIX_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".safetensors", ".parquet")
# A member of an archive that unpacks to more than this is not read into memory.
MAX_MEMBER_BYTES = 8 * 2**30


class Matrix(Protocol):
    """Rows x features, read in slices of rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, rows: slice) -> Any: ...


def open_arrays(path: Path) -> dict[str, Any]:
    """Open every array of a file, by name; ``.npy`` has one, called like the file.

    ``.npy`` is memory-mapped and ``.h5`` read in slices; the others are read into memory.

    Raises
    ------
    InputError
        If the file is of no known kind, damaged, holds Python objects, or unpacks to too much.
    """
    suffix = path.suffix.lower()
    if suffix not in MATRIX_SUFFIXES:
        raise InputError(f"{path} is of no known kind; give one of {', '.join(MATRIX_SUFFIXES)}, or .pt")
    if not path.is_file():
        raise InputError(f"{path} is no file on this machine; check the path")
    try:
        if suffix == ".npy":
            return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
        if suffix == ".npz":
            return _npz(path)
        if suffix == ".safetensors":
            from safetensors.numpy import load_file

            return dict(load_file(path))
        if suffix == ".parquet":
            return _parquet(path)
        return _hdf5(path)
    except InputError:
        raise
    except Exception as error:  # every library has its own
        raise InputError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def read_column(path: Path) -> list[str | None]:
    """Read text, one value a row, from ``.txt`` (a line each), ``.npy``, or a one-column CSV or Parquet file.

    Raises
    ------
    InputError
        If it cannot be read so.
    """
    if path.suffix.lower() == ".txt":
        try:
            return list(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
    if path.suffix.lower() in (".csv", ".parquet"):
        columns = read_table(path)
        if len(columns) != 1:
            raise InputError(f"{path} has columns {', '.join(columns)}; one is needed, or give --table")
        return next(iter(columns.values()))
    return as_text(next(iter(open_arrays(path).values())), str(path))


def read_table(path: Path) -> dict[str, list[str | None]]:
    """Read a CSV or Parquet file as columns of text, empty cells as None.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                table = file.read(use_threads=False)
        else:
            table = pyarrow.csv.read_csv(
                path,
                read_options=pyarrow.csv.ReadOptions(use_threads=False),
                convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True),
            )
        return {name: table[name].cast(pa.string()).to_pylist() for name in table.column_names}
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error


def as_text(values: Any, what: str) -> list[str | None]:
    """Return a one-dimensional array of text or whole numbers as text."""
    array = np.asarray(values[:])
    if array.ndim != 1 or array.dtype.kind not in "iuSUO":
        raise InputError(f"{what} has shape {array.shape} and type {array.dtype}; a list of names is needed")
    return [value.decode() if isinstance(value, bytes) else str(value) for value in array.tolist()]


def _npz(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > MAX_MEMBER_BYTES:
                raise InputError(
                    f"{path}: {member.filename} unpacks to {member.file_size} bytes, above the limit of "
                    f"{MAX_MEMBER_BYTES}; store it as .npy"
                )
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _parquet(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with pq.ParquetFile(path) as file:
        table = file.read(use_threads=False)
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            values = column.flatten().to_numpy(zero_copy_only=False)
            found[name] = values.reshape(len(column), column.type.list_size)
        elif pa.types.is_string(column.type):
            found[name] = np.array(column.to_pylist(), dtype=object)
    return found


def _hdf5(path: Path) -> dict[str, Any]:
    import h5py

    file = h5py.File(path, "r", locking=False)
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external:
                raise InputError(f"{path}: {name} keeps its values in another file; that is not followed")
            found[name] = item

    file.visititems(visit)
    return found
