"""Files of two columns that people write: a class and its frequency, a class and its parent."""

import csv
import io
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from toptune.errors import InputError
from toptune.store.datasets.outside_tables import head_of_table
from toptune.store.datasets.outside_text import outside_text, read_outside_text
from toptune.store.files.json_values import parse_json


def read_pairs(path: str | Path, *, what: str, form: str, option: str) -> list[tuple[str, str | None]]:
    """Read the lines of a table of two columns, or the fields of a JSON object, as text.

    Parameters
    ----------
    path : path
        The file; the separator of a table is told by its first line.
    what, form : str
        What the file is, and how such a file looks, for messages.
    option : str
        The option that named the file.

    Returns
    -------
    list of (str, str or None)
        First and second cell; None where the second says nothing.

    Raises
    ------
    InputError
        If the file cannot be read, is empty, or a line has not two cells.
    """
    try:
        text = read_outside_text(Path(path), what)
    except InputError as error:
        raise InputError(str(error), option=option) from error
    rows = (
        _of_json(text, path, form, option)
        if text.lstrip().startswith("{")
        else _of_table(text, path, form, option)
    )
    pairs = [(outside_text(first) or "", outside_text(second)) for first, second in rows]
    if not pairs or "" in (first for first, _ in pairs):
        what_is = "has a line without a class" if pairs else "is empty"
        raise InputError(f"{path} {what_is}; {form}", option=option)
    return pairs


def _of_json(text: str, path: str | Path, form: str, option: str) -> Sequence[tuple[object, object]]:
    held: list[list[tuple[str, object]]] = []

    def keep(pairs: list[tuple[str, object]]) -> dict[str, object]:
        # A field that stands twice is told, and JSON's own rule would take the last one.
        held.append(pairs)
        return dict(pairs)

    try:
        parse_json(text, pairs_hook=keep)
    except ValueError as error:
        raise InputError(f"{path} is no JSON that can be read ({error}); {form}", option=option) from error
    for name, value in held[-1]:
        if isinstance(value, list | dict | bool):
            raise InputError(f"{path} has {value!r} for {name!r}; {form}", option=option)
    return held[-1]


def _of_table(text: str, path: str | Path, form: str, option: str) -> Sequence[tuple[str, str]]:
    lines = iter(io.StringIO(text, newline=""))
    _, first, separator = head_of_table(lines)
    try:
        read = csv.reader(chain([first], lines), delimiter=separator, strict=True)
        rows = [row for row in read if any(map(str.strip, row))]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a table ({error}); {form}", option=option) from error
    for row in rows:
        if len(row) != 2:
            raise InputError(
                f"{path} has the line {separator.join(row)!r} of {len(row)} cells; {form}", option=option
            )
    return [(row[0], row[1]) for row in rows]
