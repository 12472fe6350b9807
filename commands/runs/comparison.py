"""`toptune compare` and `layers-report`: which head, and which layers."""

from typing import Any

import click

from toptune.commands.options.common import JSON
from toptune.commands.options.parsing import parse_names, parse_object
from toptune.commands.options.printing import show
from toptune.commands.options.training import BUDGET, COMPARED, DATASET_VERSION, PARAMS, SEED, STORED_FEATURES


@click.command("layers-report")
@STORED_FEATURES
@click.option("--out", required=True, type=click.Path(), help="Folder for table and image, made new.")
@click.option(
    "--head",
    type=click.Choice(["falkon", "falkon-logistic"]),
    default="falkon",
    show_default=True,
    help="Decides among the short list.",
)
@PARAMS
@click.option(
    "--short-list",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Subsets that the head checks; 0: ridge decides.",
)
@click.option(
    "--search-rows",
    type=click.IntRange(2),
    default=2000,
    show_default=True,
    help="Training images compared on, where all layers have too many columns to take all.",
)
@SEED
@JSON
@DATASET_VERSION
@COMPARED
def layers_report(root: str, as_json: bool, **options: Any) -> None:
    """Say and draw how well each stored layer and pooling does, and which to train on.

    By cross-validation on the training images: each layer alone, cumulative from either end, greedily
    chosen. Takes the options of train that say which images those are.
    """
    from toptune.train import report_layers

    report = report_layers(root, **options)
    show(as_json, report.to_dict(), str(report))


@click.command()
@STORED_FEATURES
@click.option("--heads", required=True, callback=parse_names, help="As of train, with commas.")
@click.option("--out", required=True, type=click.Path(), help="Folder for tables and runs; resumes.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Runs of each head.")
@click.option("--leak", is_flag=True, help="With --group-by: how much splits without groups overstate.")
@click.option(
    "--params", callback=parse_object, help="JSON object of parameters by head: '{\"knn\": {...}}'."
)
@JSON
@DATASET_VERSION
@BUDGET
@COMPARED
def compare(root: str, as_json: bool, **options: Any) -> None:
    """Train several heads on repeated splits or samples: means, intervals, paired tests.

    Takes the options of train that say which images are trained and tested on.
    """
    from toptune.train import compare_heads
    from toptune.workflows import work_progress

    with work_progress("comparing") as progress:
        comparison = compare_heads(root, progress=progress, **options)
    show(as_json, comparison.to_dict(), str(comparison))
