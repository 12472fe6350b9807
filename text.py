"""Tables for people, as text."""

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # rich takes a tenth of a second to import, and most commands print no table
    from rich.table import Table

# Control characters but for ends of lines and tabs, and those that change the direction of text.
_COMMANDING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
# Wider than any table, because a terminal wraps lines better than rich folds cells.
_WIDTH = 1_000_000
# Entries of a list that a line of `repr` shows.
_SHOWN_ENTRIES = 3


def printed_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows of cells under a title: names in the first column, numbers in the other columns."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return f"{title}\n{_as_text(table)}"


def printed_records(rows: Sequence[Mapping[str, object]]) -> str:
    """Lay out rows under their common keys, without rules; a list is written as its items."""
    from rich.cells import cell_len

    # A table of rich's takes half a second for a thousand rows.
    lines = [list(rows[0]), *([_written(value) for value in row.values()] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def printed_facts(facts: Mapping[str, object], *, indent: str = "") -> str:
    """Lay out nested values with a name on each line; what a value holds is indented below its name.

    Examples
    --------
    >>> print(printed_facts({"rows": 3, "recipe": {"model": "vit", "sizes": [1, 2]}, "failed": {}}))
    rows: 3
    recipe:
      model: vit
      sizes: 1 2
    failed: none
    """
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{name}:", printed_facts(value, indent=f"{indent}  ")]
        elif isinstance(value, list | tuple) and value and all(isinstance(each, Mapping) for each in value):
            # A dash before the first value of an entry tells the entries of a list apart.
            entries = [printed_facts(each, indent=f"{indent}    ").lstrip() for each in value]
            lines += [f"{indent}{name}:", *(f"{indent}  - {entry}" for entry in entries)]
        else:
            is_empty = value is None or value in ("", [], (), {})
            lines.append(f"{indent}{name}: {'none' if is_empty else _written(value)}")
    return "\n".join(lines)


def _written(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _as_text(table: "Table") -> str:
    """Print a table without markup: brackets and colons in names are neither styles nor emoji."""
    from rich.console import Console

    text = StringIO()
    Console(file=text, width=_WIDTH, markup=False, emoji=False, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def printable(text: str) -> str:
    r"""Write characters that would command a terminal as escapes, such as ``\\u001b``; lines stay lines.

    Names in a store or a data set are other people's. Written so, JSON stays JSON of the same value.

    Examples
    --------
    >>> printable("pets\x1b[31m")
    'pets\\u001b[31m'
    """
    return _COMMANDING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def repr_line(value: object, first: object, **facts: object) -> str:
    """Write a value as one line for ``repr``: what it is, and facts that tell it from others.

    Parameters
    ----------
    value : object
        Whose type stands first.
    first : object
        Name or place of the value.
    **facts
        Further facts; those that are None are left out, floats have four digits, and of long lists the first
        entries are shown.

    Examples
    --------
    >>> repr_line(3, "run", accuracy=0.98765, classes=["a", "b", "c", "d", "e"], head=None)
    "int('run', accuracy=0.9877, classes=['a', 'b', 'c', ... 5])"
    """
    told = [f"{name}={_brief(fact)}" for name, fact in facts.items() if fact is not None]
    return f"{type(value).__name__}({', '.join([repr(first), *told])})"


def _brief(fact: object) -> str:
    if isinstance(fact, float):
        return f"{fact:.4g}"
    if isinstance(fact, list | tuple) and len(fact) > _SHOWN_ENTRIES:
        return f"[{', '.join(map(repr, fact[:_SHOWN_ENTRIES]))}, ... {len(fact)}]"
    return repr(fact)


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: ``1 image``, ``3 images``, ``2 classes``."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{'' if number == 1 else ending}"


def named(names: Sequence[object], *, most: int = 10) -> str:
    """Write the first names of a list, and how many more there are: ``'a', 'b' and 3 more``.

    Parameters
    ----------
    names : sequence
        Texts are quoted; a pair of a text and a note has the note in parentheses.
    most : int
        Names that are written.
    """
    shown = ", ".join(
        f"{name[0]!r} ({name[1]})" if isinstance(name, tuple) else repr(name) for name in names[:most]
    )
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
