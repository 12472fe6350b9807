"""Tables of other programs: CSV with any usual separator, Parquet, JSON lines, as columns of values."""

import csv
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from toptune.errors import InputError
from toptune.store.datasets.outside_text import (
    column_names,
    not_unicode,
    outside_text,
    read_outside_text,
    text_encoding,
)
from toptune.store.datasets.parquet_tables import read_parquet
from toptune.store.files.json_values import parse_json
from toptune.store.files.reading import refuse_other_kinds
from toptune.store.files.system_errors import refusal

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".jsonl")
_SEPARATORS = {",": "a comma", ";": "';'", "\t": "a tab"}
_TOLD = re.compile(r"\s*\"?sep=(.)\"?\s*$", re.IGNORECASE)


class OutsideTable:
    """Columns of a table of another program, by their names without blanks around them.

    Parameters
    ----------
    columns : mapping of str to pyarrow.ChunkedArray
        Columns of the table.
    n_rows : int
        Rows of the table.
    n_unnamed : int
        Columns that are left out, because they have no name.
    separator : str, optional
        What stands between the columns, in words, where it is not what the file's name says.
    """

    def __init__(
        self,
        columns: Mapping[str, pa.ChunkedArray],
        n_rows: int,
        *,
        n_unnamed: int = 0,
        separator: str | None = None,
    ) -> None:
        self._columns = dict(columns)
        self.n_rows = n_rows
        self.n_unnamed = n_unnamed
        self.separator = separator

    @property
    def names(self) -> list[str]:
        """Names of the columns, in their order."""
        return list(self._columns)

    def values(self, name: str) -> Sequence[object]:
        """Return the values of a column, which `outside_text` turns into text."""
        return plain_values(self._columns[name])

    def is_kept(self, name: str) -> bool:
        """Return whether a column can be kept beside images: text, truth values or numbers."""
        return is_text_or_number(self._columns[name].type)

    def is_nested(self, name: str, *, may_be_list: bool = False) -> bool:
        """Return whether a column holds objects or lists; where lists may be, lists of lists or objects."""
        kind = self._columns[name].type
        if may_be_list and hasattr(kind, "value_type") and not pa.types.is_dictionary(kind):
            kind = kind.value_type
        return bool(pa.types.is_nested(kind))


def plain_values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of an Arrow column as Python has them; a float is not widened, 0.1 stays 0.1."""
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        return list(column.to_numpy())
    return list(column.to_pylist())


def is_text_or_number(kind: pa.DataType) -> bool:
    """Return whether a column of a type has text, truth values or numbers, which may be targets."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean,
        pa.types.is_floating, pa.types.is_decimal,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def read_outside_table(path: Path, what: str, *, keeps_empty_lines: bool = False) -> OutsideTable:
    """Read a table: ``.parquet``, ``.jsonl``, or text with commas, semicolons or tabs between its columns.

    In text everything is kept as it is written: a label ``007`` stays so. Columns without a name are left
    out.

    Parameters
    ----------
    path : path
        The file.
    what : str
        What the file is, for messages.
    keeps_empty_lines : bool
        Whether an empty line in text of one column is an empty cell.

    Raises
    ------
    InputError
        If the file cannot be read, or has two columns of one name.
    """
    suffix, separator = path.suffix.lower(), None
    try:
        refuse_other_kinds(path)
        if suffix == ".parquet":
            table = read_parquet(path)
        elif suffix == ".jsonl":
            table = _json_lines(path, what)
        else:
            table, separator = _delimited(path, keeps_empty_lines=keeps_empty_lines)
    except UnicodeError as error:
        raise InputError(f"{what} {path} {not_unicode(error)}") from error
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, csv.Error) as error:
        reason = refusal(error) or (str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise InputError(f"{what} {path} cannot be read: {reason}") from error
    names = column_names(table.column_names, f"{what} {path}")
    columns = {name: table.column(place) for place, name in enumerate(names) if name is not None}
    return OutsideTable(columns, table.num_rows, n_unnamed=names.count(None), separator=separator)


def head_of_table(lines: Iterator[str]) -> tuple[int, str, str]:
    r"""Return how many lines stand before the line of names, this line, and the separator of its columns.

    Parameters
    ----------
    lines : iterator of str
        Lines of a table in text, of which those up to the line of names are taken.

    Examples
    --------
    >>> head_of_table(iter(["sep=;\n", "id;label\n", "1.png;cat\n"]))
    (1, 'id;label\n', ';')
    """
    n_before, line = next(((place, each) for place, each in enumerate(lines) if each.strip()), (0, ""))
    told = _TOLD.match(line)
    if told is None:
        return n_before, line, _separator(line)
    # Spreadsheets of some countries write the separator into a line of its own.
    return n_before + 1, next(lines, ""), told[1]


def _delimited(path: Path, *, keeps_empty_lines: bool) -> tuple[pa.Table, str | None]:
    encoding = text_encoding(path)
    with path.open(encoding=encoding, newline="") as file:
        n_skipped, line, separator = head_of_table(file)
        rows = csv.reader(chain([line], file), delimiter=separator)
        header = next(rows, [])
        has_rows = any(row or keeps_empty_lines for row in rows)
    _refuse_open_quote(path, encoding, separator)
    # Columns are read by their places, because two may have one name. All are text: a label "01" must not
    # become the number 1.
    places = [str(place) for place in range(len(header))]
    expected = "\t" if path.suffix.lower() == ".tsv" else ","
    said = None if separator == expected else _SEPARATORS.get(separator, repr(separator))
    if not has_rows:
        return pa.table([pa.array([], pa.string()) for _ in header], names=header), said
    try:
        # Arrow itself opens no file whose name is not UTF-8.
        with path.open("rb") as raw:
            table = pa.csv.read_csv(
                raw,
                convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(places, pa.string())),
                parse_options=pa.csv.ParseOptions(
                    delimiter=separator,
                    newlines_in_values=True,
                    ignore_empty_lines=not (keeps_empty_lines and len(header) == 1),
                ),
                read_options=pa.csv.ReadOptions(
                    use_threads=False,
                    column_names=places,
                    skip_rows=n_skipped,
                    skip_rows_after_names=1,
                    encoding=encoding.removesuffix("-sig"),
                ),
            )
    except pa.ArrowInvalid as error:
        # Arrow does not say where text stops being UTF-8.
        with path.open(encoding=encoding, newline="") as file:
            deque(file, maxlen=0)
        raise ValueError(
            f"{str(error).splitlines()[0]}; every row needs as many cells as the first line has names, and a "
            "cell that holds the separator stands in quotes"
        ) from error
    return table.rename_columns(header), said


def _refuse_open_quote(path: Path, encoding: str, separator: str) -> None:
    """Refuse text whose last quoted cell is not closed: all lines behind its quote would be one value."""
    with path.open(encoding=encoding, newline="") as file:
        # Every cell in quotes has an even number of them; a number that is odd may also be an inch.
        if sum(line.count('"') for line in file) % 2 == 0:
            return
        file.seek(0)
        rows, first = csv.reader(file, delimiter=separator, strict=True), 1
        try:
            for _ in rows:
                first = rows.line_num + 1
        except csv.Error as error:
            if "end of data" in str(error):
                raise ValueError(
                    f"a quote in the row that begins in line {first} is not closed; close it, or write it "
                    "twice where it belongs to the value"
                ) from error


def _separator(header: str) -> str:
    """Return the separator that cuts the line of names into most columns; a comma where none does."""
    return max(_SEPARATORS, key=lambda each: len(next(csv.reader([header], delimiter=each), [])))


def _json_lines(path: Path, what: str) -> pa.Table:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        column_names([name for name, _ in pairs], f"{what} {path}, line {number},")
        return dict(pairs)

    rows: list[dict[str, object]] = []
    for number, line in enumerate(read_outside_text(path, what).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, pairs_hook=once)
        except InputError:
            raise
        except ValueError as error:
            raise InputError(
                f"{what} {path}, line {number}, is no JSON: {error}; write one object a line"
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{what} {path}, line {number}, is no object; write one object a line")
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [_json_column([row.get(name) for row in rows]) for name in names]
    return pa.table(columns, names=names) if names else pa.table({})


def _json_column(values: Sequence[object]) -> pa.Array:
    """Make a column of texts, of lists of texts, or of lists of lists, which stand for all deeper values."""
    if any(isinstance(value, dict) or _is_deep(value) for value in values):
        return pa.array([None if value is None else [[json.dumps(value)]] for value in values])
    if any(isinstance(value, list) for value in values):
        lists = [value if value is None or isinstance(value, list) else [value] for value in values]
        return pa.array([None if each is None else list(map(outside_text, each)) for each in lists])
    return pa.array(["" if value == "" else outside_text(value) for value in values], pa.string())


def _is_deep(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(each, list | dict) for each in value)
