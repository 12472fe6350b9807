"""Commands print one JSON object or text, and the images that failed."""

import json
import re
from collections.abc import Mapping

import click

from toptune.commands.options.ignoring import ignored_now
from toptune.store.datasets.outside_text import escaped

# A byte of a file's name that is no UTF-8 reaches Python as one of these letters.
_SURROGATE = re.compile("[\ud800-\udfff]")


def echo(text: str, *, err: bool = False) -> None:
    """Print text that may hold names of others; what would command the terminal is escaped."""
    from toptune.text import printable

    click.echo(printable(text), err=err)


def show(as_json: bool, payload: Mapping[str, object], text: str) -> None:
    """Print one JSON object, or text for people, without the notes that are ignored."""
    ignored = ignored_now()
    echo(_json_text(ignored.values(payload)) if as_json else ignored.lines(text))


def _json_text(payload: Mapping[str, object]) -> str:
    """Write JSON as Unicode text; in JSON the backslash of an escaped byte is escaped too."""
    from toptune.store.files.json_values import json_text

    text = json_text(payload)
    return _SURROGATE.sub(lambda found: json.dumps(escaped(found[0]))[1:-1], text)


def report_failures(failed: Mapping[str, str | None], allowed: int) -> None:
    """Name the images that failed on standard error; exit 4 when they are too many."""
    from toptune.text import counted

    # Results go to standard output, where a program may read them; failures are for people.
    for name, reason in list(failed.items())[:20]:
        echo(f"failed: {name}: {reason}", err=True)
    if len(failed) > 20:
        click.echo(f"... and {len(failed) - 20} more", err=True)
    if len(failed) > allowed:
        click.echo(f"{counted(len(failed), 'image')} failed; --max-failures allows {allowed}", err=True)
        raise SystemExit(4)
