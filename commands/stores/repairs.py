"""`toptune store verify` and `repair`: commands that find damage in a store and repair it."""

import click

from toptune.commands.options.common import JSON, STORE
from toptune.commands.options.help import Command
from toptune.commands.options.printing import show


@click.command("verify", cls=Command)
@STORE
@click.option("--deep", is_flag=True, help="Read every byte and compare its checksum.")
@JSON
def store_verify(root: str, deep: bool, as_json: bool) -> None:
    """Check whether the store is whole.

    The exit code is 0 if all is well, 1 if something is damaged, 3 if units are missing, and 2 if there is no
    such store.
    """
    from toptune.store import FeatureStore, verify

    report = verify(FeatureStore.open(root), deep=deep)
    show(as_json, report.to_dict(), str(report))
    raise SystemExit(report.exit_code)


@click.command("repair", cls=Command)
@STORE
@JSON
def store_repair(root: str, as_json: bool) -> None:
    """Remove damaged units, so that extract restores them.

    Damaged is what verify --deep finds. The same extract command then computes exactly these units again.
    """
    from toptune.store import repair

    report = repair(root)
    show(as_json, report.to_dict(), str(report))
    raise SystemExit(report.exit_code)
