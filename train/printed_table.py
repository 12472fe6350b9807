"""Tables for people, as text."""

import shutil
from collections.abc import Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

_LEAST_WIDTH = 100


def printed_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, n_names: int = 1) -> str:
    """Lay out cells under their columns; the first `n_names` columns are names, the others figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        is_name = position < n_names
        table.add_column(column, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    text = StringIO()
    width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns)
    Console(file=text, width=width, markup=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())
