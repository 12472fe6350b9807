"""`toptune compare` and `layers-report` say which head and which layers do best."""

from typing import Any

import click

from toptune.commands.options.common import JSON, SPREADSHEET_SAFE, STORE, together
from toptune.commands.options.help import Choice, Command
from toptune.commands.options.only_names import filled_models
from toptune.commands.options.parsing import parse_names, parse_object
from toptune.commands.options.printing import show
from toptune.commands.options.training import (
    BUDGET,
    COMPARED,
    DATASET,
    DATASET_VERSION,
    LEARNED,
    PARAMS,
    SEED,
    SEVERAL_MODELS,
    TASK,
)
from toptune.train.layers.options import SHORT_LIST_HEADS
from toptune.train.reports.options import CompareOptions, LayerReportOptions
from toptune.train.runs.options import FUSIONS

COMPARED_MODELS = together(
    click.option(
        "--model",
        "models",
        multiple=True,
        metavar="NAME",
        help="Model to compare, as it was given to extract; by default the only one of the data set. The "
        "option may be given several times; @FILE has one model a line.",
    ),
    click.option(
        "--fusion",
        type=Choice(FUSIONS),
        help="Let several models share each run, in place of comparing them: late trains a head on each and "
        "weighs their probabilities, join trains one head on the columns of all.",
    ),
)


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
@LEARNED
@COMPARED
def layers_report(root: str, as_json: bool, **options: Any) -> None:
    """Report how well each stored layer and pooling does.

    The report also says which layers to train on. They are compared by cross-validation on the training
    images: each alone, cumulative from either end, and greedily chosen; of several --model, the layers of all
    stand side by side, as with --fusion join. The options of train say which images
    are trained on, and --task and --target what a head learns.
    """
    from toptune.train import report_layers

    with filled_models(root, options) as filled:
        report = report_layers(root, **filled)
    show(as_json, report.to_dict(), str(report))


@click.command(cls=Command)
@STORE
@DATASET
@COMPARED_MODELS
@click.option(
    "--heads",
    callback=parse_names,
    help="Heads to compare, named as for train, with commas; with several --model, by default falkon.",
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
@TASK
@COMPARED
def compare(root: str, as_json: bool, **options: Any) -> None:
    """Train several heads or models on repeated splits or samples.

    Each of --heads is trained on each --model, and the table has means, intervals and paired tests; with
    --fusion, several --model share each run instead. The options of train say which images are trained on and
    tested on, and --task and --target what the heads learn, which decides the figures.
    """
    from toptune.train import compare_heads
    from toptune.workflows import work_progress

    with filled_models(root, options) as filled, work_progress("comparing") as progress:
        comparison = compare_heads(root, progress=progress, **filled)
    show(as_json, comparison.to_dict(), str(comparison))
