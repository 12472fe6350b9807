"""`toptune compare` and `layers-report` say which head and which layers do best."""

from typing import Any

import click

from toptune.commands.options.common import JSON, SPREADSHEET_SAFE, STORE
from toptune.commands.options.help import Choice, Command
from toptune.commands.options.only_names import filled_models
from toptune.commands.options.parsing import parse_names, parse_object
from toptune.commands.options.printing import show
from toptune.commands.options.training import (
    BUDGET,
    COMPARED,
    DATASET,
    DATASET_VERSION,
    MODELS,
    PARAMS,
    SEED,
    SEVERAL_MODELS,
)
from toptune.train.layers.options import SHORT_LIST_HEADS
from toptune.train.reports.options import CompareOptions, LayerReportOptions


@click.command("layers-report", cls=Command)
@STORE
@DATASET
@SEVERAL_MODELS
@click.option(
    "--out",
    required=True,
    type=click.Path(),
    help="Folder for the table and the image; it must not exist yet.",
)
@click.option(
    "--head",
    type=Choice(SHORT_LIST_HEADS),
    default=LayerReportOptions.head,
    show_default=True,
    help="Head that decides among the short list.",
)
@PARAMS
@click.option(
    "--short-list",
    type=click.IntRange(0),
    default=LayerReportOptions.short_list,
    show_default=True,
    help="Number of sets of layers that the head checks; with 0, ridge decides.",
)
@click.option(
    "--search-rows",
    type=click.IntRange(2),
    default=LayerReportOptions.search_rows,
    show_default=True,
    help="Number of training images to compare on where all layers have too many columns to take all.",
)
@SEED
@SPREADSHEET_SAFE
@JSON
@DATASET_VERSION
@COMPARED
def layers_report(root: str, as_json: bool, **options: Any) -> None:
    """Report how well each stored layer and pooling does.

    The report also says which layers to train on. They are compared by cross-validation on the training
    images: each alone, cumulative from either end, and greedily chosen; of several --model, the layers of all
    stand side by side, as with --fusion join. The options of train say which images
    are trained on.
    """
    from toptune.train import report_layers

    with filled_models(root, options) as filled:
        report = report_layers(root, **filled)
    show(as_json, report.to_dict(), str(report))


@click.command(cls=Command)
@STORE
@DATASET
@MODELS
@click.option(
    "--heads", required=True, callback=parse_names, help="Heads to compare, named as for train, with commas."
)
@click.option(
    "--out",
    required=True,
    type=click.Path(),
    help="Folder for tables and runs; with a folder that exists, the comparison resumes.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=CompareOptions.seeds,
    show_default=True,
    help="Number of runs of each head.",
)
@click.option(
    "--leak",
    is_flag=True,
    help="With --group-by, also measure by how much splits without groups overstate the accuracy.",
)
@click.option(
    "--params",
    callback=parse_object,
    help='JSON object of the parameters of each head, such as \'{"knn": {"k": 5}}\'.',
)
@SPREADSHEET_SAFE
@JSON
@DATASET_VERSION
@BUDGET
@COMPARED
def compare(root: str, as_json: bool, **options: Any) -> None:
    """Train several heads on repeated splits or samples.

    The table has means, intervals and paired tests. With several --model, each run is of all of them. The
    options of train say which images are trained on and tested on.
    """
    from toptune.train import compare_heads
    from toptune.workflows import work_progress

    with filled_models(root, options) as filled, work_progress("comparing") as progress:
        comparison = compare_heads(root, progress=progress, **filled)
    show(as_json, comparison.to_dict(), str(comparison))
