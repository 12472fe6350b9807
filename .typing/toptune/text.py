"""Tables for people, as text."""

from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

# Wider than any table: a terminal wraps lines better than cells are folded.
_WIDTH = 1_000_000


def printed_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out cells under a title and their columns: names in the first one, figures in the others."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return f"{title}\n{_as_text(table)}"


def printed_records(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows with the same keys under these, without rules; of lists, what is in them."""
    table = Table(box=None, pad_edge=False)
    for key in rows[0]:
        table.add_column(key, no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*map(_written, row.values()))
    return _as_text(table)


def _written(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _as_text(table: Table) -> str:
    """Print a table as it is: names with brackets and colons are neither styles nor images."""
    text = StringIO()
    Console(file=text, width=_WIDTH, markup=False, emoji=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def counted(number: int, noun: str) -> str:
    """Write so many things: ``1 image``, ``3 images``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
