"""Columns of text, with a value for each row, from tables and lists of other programs."""

from pathlib import Path

import numpy as np

from toptune.errors import InputError
from toptune.store.datasets.outside_tables import TABLE_SUFFIXES, read_outside_table
from toptune.store.datasets.outside_text import array_values, read_outside_text
from toptune.store.exchange.matrix_files import Matrix, open_arrays

# Files that hold nothing but one column; a `.txt` has no name above it.
_COLUMN_SUFFIXES = tuple(suffix for suffix in TABLE_SUFFIXES if suffix != ".txt")


def read_column(path: Path) -> list[object]:
    """Read values, one a row, from ``.txt`` (a line each), ``.npy``, or a table of one column.

    Raises
    ------
    InputError
        If the file cannot be read as such a column.
    """
    if path.suffix.lower() == ".txt":
        lines = read_outside_text(path, "the list").split("\n")
        return [*lines[:-1]] if lines[-1] == "" else [*lines]
    if path.suffix.lower() in _COLUMN_SUFFIXES:
        columns = read_table(path)
        if len(columns) != 1:
            raise InputError(
                f"{path} has columns {', '.join(columns) or 'of no text'}; one is needed, or give --table"
            )
        return next(iter(columns.values()))
    if path.suffix.lower() != ".npy":
        raise InputError(
            f"{path} is no list of names: give .txt, .npy, {', '.join(_COLUMN_SUFFIXES)}, or a name in the "
            "files"
        )
    return as_values(next(iter(open_arrays(path).values())), str(path))


def read_table(path: Path) -> dict[str, list[object]]:
    """Read the columns of text and of numbers of a table, by name.

    In text everything is as it is written: an id ``007`` stays so, and a label ``NA`` is a label.

    Raises
    ------
    InputError
        If the file cannot be read, or two columns have one name.
    """
    table = read_outside_table(path, "table", keeps_empty_lines=True)
    return {name: list(table.values(name)) for name in table.names if table.is_kept(name)}


def as_values(values: Matrix, what: str) -> list[object]:
    """Return the values of a one-dimensional array of text or numbers.

    Raises
    ------
    InputError
        If the array is something else.
    """
    shape, kind = tuple(values.shape), np.dtype(values.dtype)
    if len(shape) != 1 or kind.kind not in "biufSUO":
        raise InputError(f"{what} has shape {shape} and type {kind}; a list of names is needed")
    return array_values(np.asarray(values[: shape[0]]), what)
