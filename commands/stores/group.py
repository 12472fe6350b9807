"""`toptune store`: the group of what looks after a store."""

import click

from toptune.commands.stores.contents import store_du, store_ls, store_show
from toptune.commands.stores.removal import store_gc, store_rm
from toptune.commands.stores.repairs import store_repair, store_verify
from toptune.commands.stores.transfers import store_copy, store_export, store_import


@click.group(
    commands=[
        store_ls,
        store_show,
        store_du,
        store_verify,
        store_repair,
        store_rm,
        store_gc,
        store_copy,
        store_export,
        store_import,
    ]
)
def store() -> None:
    """Look into a feature store, and keep it in order."""
