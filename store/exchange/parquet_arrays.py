"""Columns of Parquet files, read forwards in slices of rows and never held whole."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from toptune.errors import InputError
from toptune.store.datasets.outside_text import column_names
from toptune.store.datasets.parquet_tables import read_parquet
from toptune.store.exchange.unpacked import check_unpacked

_BATCH_BYTES = 2 * 2**20
# Without these options Parquet buffers whole row groups, which may be as large as the file.
_STREAMED = {"pre_buffer": False, "buffer_size": 2**20}


class ParquetArray:
    """A column of lists of one length; slices in the order of the rows cost one pass.

    Batches of 2 MiB are held, and about 4 MiB more for decoding them.

    Raises
    ------
    InputError
        If a row is empty, or the lists have different lengths.
    """

    def __init__(self, path: Path, column: str, n_rows: int) -> None:
        self._path, self._column = path, column
        self._batches: Iterator[npt.NDArray[np.generic]] | None = None
        self._held: npt.NDArray[np.generic] = np.empty((0, 0))
        self._row = 0
        with pq.ParquetFile(path, **_STREAMED) as file:
            first = next(file.iter_batches(batch_size=1, columns=[column], use_threads=False))
        row = self._matrix(first.column(0), 0, None)
        self.shape, self.dtype = (n_rows, row.shape[1]), row.dtype
        check_unpacked(path, column, n_rows * row.nbytes)

    def __getitem__(self, rows: slice) -> npt.NDArray[np.generic]:
        start, stop, _ = rows.indices(self.shape[0])
        if self._batches is None or start < self._row:
            self._batches, self._held, self._row = self._read(), np.empty((0, self.shape[1]), self.dtype), 0
        out = np.empty((stop - start, self.shape[1]), self.dtype)
        done = 0
        while done < len(out):
            if not len(self._held):
                self._held = next(self._batches)
            skipped = min(len(self._held), max(0, start - self._row))
            taken = min(len(self._held) - skipped, len(out) - done)
            out[done : done + taken] = self._held[skipped : skipped + taken]
            self._held = self._held[skipped + taken :]
            self._row += skipped + taken
            done += taken
        return out

    def _read(self) -> Iterator[npt.NDArray[np.generic]]:
        batch_rows = max(1, _BATCH_BYTES // max(1, self.shape[1] * self.dtype.itemsize))
        row = 0
        with pq.ParquetFile(self._path, **_STREAMED) as file:
            for batch in file.iter_batches(batch_rows, columns=[self._column], use_threads=False):
                values = self._matrix(batch.column(0), row, self.shape[1])
                row += len(values)
                yield values
        if row != self.shape[0]:
            raise InputError(f"{self._path}: {self._column} has {row} rows where {self.shape[0]} are needed")

    def _matrix(self, column: pa.Array, first_row: int, dim: int | None) -> npt.NDArray[np.generic]:
        where = f"{self._path}: {self._column}"
        if column.null_count:
            row = first_row + column.is_null().to_pylist().index(True)
            raise InputError(f"{where} is empty in row {row}; every row needs its features")
        if not pa.types.is_fixed_size_list(column.type):
            lengths = set(column.value_lengths().to_pylist())
            if len(lengths) > 1:
                raise InputError(f"{where} has lists of different lengths, {sorted(lengths)[:3]}")
        values = column.flatten()
        found = len(values) // max(1, len(column))
        if found == 0 or dim not in (None, found):
            raise InputError(f"{where} has lists of {found} values after lists of {dim}, in row {first_row}")
        matrix = values.to_numpy(zero_copy_only=False).reshape(len(column), found)
        return np.asarray(matrix)


def all_columns(path: Path) -> list[str]:
    """Return the names of all columns of a Parquet file, also of those that `open_parquet` does not open."""
    with pq.ParquetFile(path) as file:
        return list(file.schema_arrow.names)


def open_parquet(path: Path) -> Mapping[str, ParquetArray | npt.NDArray[np.object_]]:
    """Open the columns of a Parquet file: lists of numbers as matrices, text and whole numbers as arrays."""
    with pq.ParquetFile(path) as file:
        schema, n_rows = file.schema_arrow, file.metadata.num_rows
        column_names(schema.names, str(path))
    texts = [field.name for field in schema if _is_text(field.type)]
    table = read_parquet(path, columns=texts)
    found: dict[str, ParquetArray | npt.NDArray[np.object_]] = {
        name: np.array(table[name].to_pylist(), dtype=object) for name in table.column_names
    }
    lists = [field.name for field in schema if _is_numbers(field.type)] if n_rows else []
    return found | {name: ParquetArray(path, name, n_rows) for name in lists}


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def _is_numbers(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
