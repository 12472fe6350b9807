"""`toptune store ls`, `show` and `du`: what a store has."""

import json

import click

from toptune.commands.options.common import JSON, STORE
from toptune.commands.options.printing import show


@click.command("ls")
@STORE
@JSON
def store_ls(root: str, as_json: bool) -> None:
    """List the caches: size, rows, layers, complete or not, who, when."""
    from toptune.store import FeatureStore, summarize
    from toptune.text import printed_records

    rows = [summary.to_dict() for summary in summarize(FeatureStore.open(root))]
    show(as_json, {"caches": rows}, printed_records(rows) if rows else f"no caches in {root}")


@click.command("show")
@STORE
@click.option("--model", help="Only this model's cache; needs --dataset.")
@click.option("--dataset", help="Only caches of this data set.")
@JSON
def store_show(root: str, model: str | None, dataset: str | None, as_json: bool) -> None:
    """Show what decides a cache's numbers, and why two caches differ."""
    from toptune.store import FeatureStore, describe, stored_features

    opened = FeatureStore.open(root)
    if model and not dataset:
        raise click.UsageError("--model needs --dataset: say over which data set")
    if dataset:
        opened.manifest(dataset)  # says which data sets there are, if it is none of them
    found = stored_features(opened, dataset=dataset)
    if model and dataset:
        found = [opened.features(model, dataset)]
    shown = [describe(opened, each) for each in found]
    show(as_json, {"caches": shown}, json.dumps(shown, indent=2, ensure_ascii=False))


@click.command("du")
@STORE
@JSON
def store_du(root: str, as_json: bool) -> None:
    """Say how many bytes each cache, array and its bookkeeping take."""
    from toptune.store import FeatureStore, measure
    from toptune.text import printed_records

    usages = [usage.to_dict() for usage in measure(FeatureStore.open(root))]
    total = sum(usage["n_bytes"] for usage in usages)
    show(as_json, {"usage": usages, "n_bytes": total}, f"{printed_records(usages)}\n{total} bytes in all")
