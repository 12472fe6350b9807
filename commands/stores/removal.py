"""`toptune store rm` and `gc`: commands that remove files, and ask first."""

from typing import Any

import click

from toptune.commands.options.common import JSON, STORE
from toptune.commands.options.help import Command
from toptune.commands.options.parsing import parse_age, parse_names
from toptune.commands.options.printing import show

YES = click.option("--yes", "-y", is_flag=True, help="Remove without asking.")


@click.command("rm", cls=Command)
@STORE
@click.option("--dataset", help="Data set to remove; without --model it goes with all its features.")
@click.option("--model", help="Remove only the cache of this model; without --dataset, over all data sets.")
@click.option(
    "--layers",
    callback=parse_names,
    help="Remove only these arrays of the cache: layers and globs, with commas.",
)
@YES
@JSON
def store_rm(root: str, yes: bool, as_json: bool, **options: Any) -> None:
    """Remove a data set, a cache, or layers of it; asks first."""
    from toptune.store import FeatureStore, plan_removals, remove

    opened = FeatureStore.open(root)
    # What is asked about is exactly what is removed: the plan is made once, before the question.
    removals = plan_removals(opened, **options)
    ask(f"remove {'; '.join(map(str, removals))}?", yes)
    for removal in removals:
        remove(opened, removal)
    values = [removal.to_dict() for removal in removals]
    answer = values[0] if len(values) == 1 else {"removals": values}
    show(as_json, answer, "\n".join(f"removed {removal}" for removal in removals))


@click.command("gc", cls=Command)
@STORE
@click.option(
    "--older-than",
    callback=parse_age,
    help="Evict caches that were last used longer ago, such as 30d or 12h.",
)
@click.option(
    "--keep", type=click.IntRange(0), help="Spare the N caches that were used last, and evict the others."
)
@click.option(
    "--grace",
    callback=parse_age,
    default="1h",
    show_default=True,
    help="Spare younger leftovers, because a writer may still be at work on them.",
)
@click.option("--dry-run", is_flag=True, help="List what would be removed, and remove nothing.")
@YES
@JSON
def store_gc(root: str, dry_run: bool, yes: bool, as_json: bool, **options: Any) -> None:
    """Remove leftovers and, if told to, caches by last use; asks first.

    Leftovers are files of writers that died.
    """
    from toptune.store import FeatureStore, collect_garbage, find_garbage
    from toptune.text import counted

    opened = FeatureStore.open(root)
    items = find_garbage(opened, **options)
    rows = [item.to_dict() for item in items]
    n_bytes = sum(item.n_bytes for item in items)
    lines = [f"{item.path}: {item.reason}, {item.n_bytes} bytes" for item in items]
    if items and not dry_run:
        ask("\n".join([*lines, f"remove these {len(items)} ({n_bytes} bytes)?"]), yes)
        collect_garbage(opened, items)
    verb = "would be" if dry_run else "were"
    text = "\n".join([*lines, f"{counted(len(items), 'thing')}, {n_bytes} bytes {verb} removed"])
    show(
        as_json,
        {"removed": rows, "n_bytes": n_bytes, "dry_run": dry_run},
        text if items else "nothing to collect",
    )


def ask(question: str, yes: bool) -> None:
    """Ask on standard error unless --yes was given; the answer no stops the command with exit code 3."""
    if not yes:
        click.confirm(question, abort=True, err=True)
