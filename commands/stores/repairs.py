"""`toptune store verify` and `repair`: whether a store is whole, and making it so."""

import click

from toptune.commands.options.common import JSON, STORE
from toptune.commands.options.printing import show


@click.command("verify")
@STORE
@click.option("--deep", is_flag=True, help="Read every byte against its checksum.")
@JSON
def store_verify(root: str, deep: bool, as_json: bool) -> None:
    """Check the store: 0 clean, 1 damaged, 3 incomplete, 2 no such store."""
    from toptune.store import FeatureStore, verify

    report = verify(FeatureStore.open(root), deep=deep)
    show(as_json, report.to_dict(), str(report))
    raise SystemExit(report.exit_code)


@click.command("repair")
@STORE
@JSON
def store_repair(root: str, as_json: bool) -> None:
    """Take out what verify --deep finds damaged; the same extract then restores exactly that."""
    from toptune.store import repair

    report = repair(root)
    show(as_json, report.to_dict(), str(report))
    raise SystemExit(report.exit_code)
