"""Columns of text, with a value for each row, from tables and lists of other programs."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from toptune.errors import InputError
from toptune.store.exchange.matrix_files import Matrix, open_arrays

TABLE_SUFFIXES = (".csv", ".parquet")


def read_column(path: Path) -> list[str | None]:
    """Read text, one value a row, from ``.txt`` (a line each), ``.npy``, or a one-column CSV or Parquet file.

    Empty values are None.

    Raises
    ------
    InputError
        If the file cannot be read as such a column.
    """
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        return [line or None for line in (lines[:-1] if lines[-1] == "" else lines)]
    if path.suffix.lower() in TABLE_SUFFIXES:
        columns = read_table(path)
        if len(columns) != 1:
            raise InputError(
                f"{path} has columns {', '.join(columns) or 'of no text'}; one is needed, or give --table"
            )
        return next(iter(columns.values()))
    if path.suffix.lower() != ".npy":
        raise InputError(
            f"{path} is no list of names: give .txt, .npy, .csv, .parquet, or a name in the files"
        )
    return as_text(next(iter(open_arrays(path).values())), str(path))


def read_table(path: Path) -> dict[str, list[str | None]]:
    """Read the columns of text and whole numbers of a CSV or Parquet file; empty cells are None.

    In a CSV everything is text as it is written: an id ``007`` stays so, and a label ``NA`` is a label.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
        return {name: table[name].cast(pa.string()).to_pylist() for name in table.column_names}
    except (pa.ArrowException, OSError, ValueError, KeyError, csv.Error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as a table: {reason}") from error


def as_text(values: Matrix, what: str) -> list[str | None]:
    """Return a one-dimensional array of text or whole numbers as text, empty values as None.

    Raises
    ------
    InputError
        If the array is something else.
    """
    shape, kind = tuple(values.shape), np.dtype(values.dtype)
    if len(shape) != 1 or kind.kind not in "iuSUO":
        raise InputError(f"{what} has shape {shape} and type {kind}; a list of names is needed")
    array = np.asarray(values[: shape[0]])
    try:
        texts = [value.decode() if isinstance(value, bytes) else value for value in array.tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is not text in UTF-8: {error}") from error
    return [None if text is None or text == "" else str(text) for text in texts]


def _read_csv(path: Path) -> pa.Table:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        header = next(csv.reader(lines), [])
    options = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(header, pa.string()),
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )
    # In a table of one column an empty line is an empty cell and must not be skipped.
    parse = pa.csv.ParseOptions(ignore_empty_lines=len(header) != 1)
    return pa.csv.read_csv(
        path,
        convert_options=options,
        parse_options=parse,
        read_options=pa.csv.ReadOptions(use_threads=False),
    )


def _read_parquet(path: Path) -> pa.Table:
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = [field.name for field in schema if _is_text(field.type)]
        return file.read(columns=names, use_threads=False)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind))
