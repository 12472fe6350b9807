"""`toptune demo` and `doctor` show whether toptune works here, and what this machine offers."""

import click

from toptune.commands.options.common import JSON
from toptune.commands.options.help import Command
from toptune.commands.options.printing import echo, show


@click.command(cls=Command)
@click.option(
    "--out",
    default="toptune-demo",
    show_default=True,
    type=click.Path(),
    help="Folder for everything that the demo writes.",
)
@JSON
def demo(out: str, as_json: bool) -> None:
    """See it work on handwritten digits; nothing is downloaded."""
    from toptune.workflows import demo as run_demo

    report = run_demo(out, report=lambda command: echo(f"$ {command}", err=True))
    show(as_json, report.to_dict(), str(report))


@click.command(cls=Command)
@JSON
def doctor(as_json: bool) -> None:
    """Say what this machine offers: versions, devices, caches."""
    from toptune.workflows import examine_machine

    facts = examine_machine()
    show(as_json, facts, "\n".join(f"{key:<22} {value}" for key, value in facts.items()))
