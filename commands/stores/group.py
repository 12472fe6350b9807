"""`toptune store`: the group of the commands that look after a store."""

import click

from toptune.commands.options.help import Group
from toptune.commands.stores.contents import store_du, store_ls, store_show
from toptune.commands.stores.removal import store_gc, store_rm
from toptune.commands.stores.repairs import store_repair, store_verify
from toptune.commands.stores.transfers import store_copy, store_export, store_import


@click.group(
    cls=Group,
    sections={
        "See what is there": [store_ls, store_show, store_du],
        "Keep it whole": [store_verify, store_repair],
        "Remove": [store_rm, store_gc],
        "Copy, export and import": [store_copy, store_export, store_import],
    },
)
def store() -> None:
    """Look into a store of features and keep it in order."""
