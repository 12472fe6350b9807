"""Tables for people, as text."""

from collections.abc import Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

# Wider than any table: a terminal wraps lines better than cells are folded.
_WIDTH = 10_000


def printed_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out cells under a title and their columns: names in the first one, figures in the others."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    text = StringIO()
    Console(file=text, width=_WIDTH, markup=False, highlight=False).print(table)
    return "\n".join([title, *(line.rstrip() for line in text.getvalue().rstrip().splitlines())])
