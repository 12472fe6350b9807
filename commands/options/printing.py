"""Commands print one JSON object or text, and the images that failed."""

import json
from collections.abc import Mapping

import click


def show(as_json: bool, payload: Mapping[str, object], text: str) -> None:
    """Print one JSON object, or text for people."""
    click.echo(json.dumps(payload, ensure_ascii=False) if as_json else text)


def report_failures(failed: Mapping[str, str | None], allowed: int) -> None:
    """Name the images that failed on standard error; exit 4 when they are too many."""
    from toptune.text import counted

    # Results go to standard output, where a program may read them; failures are for people.
    for name, reason in list(failed.items())[:20]:
        click.echo(f"failed: {name}: {reason}", err=True)
    if len(failed) > 20:
        click.echo(f"... and {len(failed) - 20} more", err=True)
    if len(failed) > allowed:
        click.echo(f"{counted(len(failed), 'image')} failed; --max-failures allows {allowed}", err=True)
        raise SystemExit(4)
