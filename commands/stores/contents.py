"""`toptune store ls`, `show` and `du`: commands that show what a store holds."""

import click

from toptune.commands.options.common import JSON, STORE
from toptune.commands.options.help import Command
from toptune.commands.options.printing import show


@click.command("ls", cls=Command)
@STORE
@JSON
def store_ls(root: str, as_json: bool) -> None:
    """List what is stored, with sizes, layers and dates."""
    from toptune.store import FeatureStore, summarize
    from toptune.text import printed_records

    rows = [summary.to_dict() for summary in summarize(FeatureStore.open(root))]
    show(as_json, {"caches": rows}, printed_records(rows) if rows else f"no caches in {root}")


@click.command("show", cls=Command)
@STORE
@click.option("--model", help="Show only caches of this model.")
@click.option("--dataset", help="Show only caches of this data set.")
@JSON
def store_show(root: str, model: str | None, dataset: str | None, as_json: bool) -> None:
    """Show what decides the numbers of each cache."""
    from toptune.options import check_choice
    from toptune.store import FeatureStore, describe, plain_model_name, stored_features
    from toptune.text import printed_facts

    opened = FeatureStore.open(root)
    # An unknown name is refused with the names that there are; an empty list would say less.
    if dataset:
        opened.manifest(dataset)
    if dataset and model:
        found = [opened.features(model, dataset)]
    else:
        found = stored_features(opened, dataset=dataset)
    if model and not dataset:
        plain = plain_model_name(model)
        names = {each.name: each.name.rpartition("@")[0] for each in found}
        check_choice(plain, [*sorted(set(names.values())), *names], option="model")
        found = [each for each in found if plain in (each.name, names[each.name])]
    shown = [describe(opened, each) for each in found]
    show(as_json, {"caches": shown}, "\n\n".join(map(printed_facts, shown)) or f"no caches in {root}")


@click.command("du", cls=Command)
@STORE
@JSON
def store_du(root: str, as_json: bool) -> None:
    """Say how many bytes each cache and array take."""
    from toptune.store import FeatureStore, measure
    from toptune.text import printed_records

    found = measure(FeatureStore.open(root))
    usages = [usage.to_dict() for usage in found]
    total = sum(usage.n_bytes for usage in found)
    show(as_json, {"usage": usages, "n_bytes": total}, f"{printed_records(usages)}\n{total} bytes in all")
