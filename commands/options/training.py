"""Several commands share these options of training: which features, which rows, which head.

Defaults are read from the options of the functions, so that both say the same.
"""

import click

from toptune.commands.options.common import POOLING, SKIP_FAILED, STORE, Decorator, together
from toptune.commands.options.help import Choice
from toptune.commands.options.parsing import (
    parse_floats,
    parse_folds,
    parse_layers,
    parse_object,
    parse_seconds,
)
from toptune.machine.devices import AUTO
from toptune.train.heads.options import SOLVERS, HeadOptions
from toptune.train.rows.options import VAL, RowOptions
from toptune.train.runs.options import FUSIONS
from toptune.train.tasks.names import TASK_NAMES

DATASET = click.option("--dataset", help="Name of the data set in the store; by default the only one there.")
MODEL = click.option(
    "--model", help="Model, as it was given to extract; by default the only one of the data set."
)
STORED_FEATURES = together(
    STORE,
    DATASET,
    MODEL,
)
DATASET_VERSION = click.option(
    "--dataset-version",
    type=click.IntRange(1),
    help="Version of a data set that grew; by default the latest.",
)
SEVERAL_MODELS = click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME",
    help="Model, as it was given to extract; by default the only one of the data set. The option may be "
    "given several times, for models that share the run; @FILE has one model a line.",
)
MODELS = together(
    SEVERAL_MODELS,
    click.option(
        "--fusion",
        type=Choice(FUSIONS),
        help="How several models share the run: late (the default) trains a head on each and weighs their "
        "probabilities, join trains one head on the columns of all.",
    ),
)
_LAYERS = "Layers to use: all (the default), auto (chosen by cross-validation), or names and globs."
PREPROCESS = click.option(
    "--preprocess",
    metavar="STEPS",
    help="Steps before the head, in order, with commas: standardise (the default of most heads), l2, "
    "power, pca:N, whiten:N, ternary; weigh last, for kernel heads on several layers; or none.",
)
COLUMNS = together(
    click.option(
        "--layers",
        help=_LAYERS,
    ),
    POOLING,
    PREPROCESS,
)
# Each of several models may have layers of its own.
COLUMNS_BY_MODEL = together(
    click.option(
        "--layers",
        multiple=True,
        callback=parse_layers,
        metavar="[MODEL=]LAYERS",
        help=f"{_LAYERS} MODEL=LAYERS is for that model alone, and the option may be given once for each.",
    ),
    POOLING,
    PREPROCESS,
)


def split_options(*, had: str, groups: str, val: str | None = None) -> Decorator:
    """Return the options that say which rows are trained on and which are tested on.

    Parameters
    ----------
    had : {"had", "has"}
        The verb of the help: ``has`` if images are looked at now, ``had`` if they were extracted before.
    groups : str
        End of the help of ``--group-by``.
    val : str, optional
        Help of ``--val``.
    """
    return together(
        click.option(
            "--test-fraction",
            type=float,
            default=RowOptions.test_fraction,
            show_default=True,
            help=f"Share of the images to test on where DATA {had} no split.",
        ),
        click.option("--resplit", is_flag=True, help=f"Draw a new split even where DATA {had} one."),
        click.option(
            "--val",
            type=Choice(VAL),
            default=RowOptions.val,
            show_default=True,
            help=val or "What images of the split val do: train, test, or be left out.",
        ),
        click.option(
            "--group-by", help=f"Column of the manifest, or pattern on the id, whose groups {groups}."
        ),
        click.option(
            "--label-column",
            metavar="COLUMN",
            help="Column of the data set whose values are the labels, in place of its labels; of several "
            "labels an image, columns of 0 and 1 with commas between them.",
        ),
        click.option(
            "--exclude",
            type=click.Path(),
            metavar="FILE",
            help="Leave out images: decisions of the page of inspect, its findings.csv, or one id a line.",
        ),
        click.option(
            "--relabel-with",
            type=click.Path(),
            metavar="FILE",
            help="Give images other labels: decisions of the page of inspect (columns id,decision,label).",
        ),
        click.option(
            "--keep-together",
            type=click.Path(),
            metavar="FINDINGS",
            help="Keep the groups of copies of this findings.json or findings.csv on one side of the split "
            "and in one fold.",
        ),
        click.option("--shots", type=click.IntRange(1), help="Train on this many images of each class only."),
        click.option(
            "--train-size",
            type=click.IntRange(1),
            help="Train on this many images in all, stratified by class.",
        ),
    )


STORED_SPLIT = split_options(had="had", groups="never straddle the split")

SEED = click.option(
    "--seed",
    type=int,
    default=RowOptions.seed,
    show_default=True,
    help="Seed of every random draw: split, centers, folds.",
)
BUDGET = click.option(
    "--budget",
    callback=parse_seconds,
    metavar="TIME",
    help="Time for all fits of head auto (by default 2m) or of train --best (by default 10m), such as 30 "
    "(seconds) or 5m.",
)
KERNEL = together(
    click.option(
        "--kernel",
        default=HeadOptions.kernel,
        show_default=True,
        help="Kernel: gaussian, laplacian, matern12, matern32, matern52 or linear.",
    ),
    click.option(
        "--penalty",
        callback=parse_floats,
        help="Penalty, one value or a grid; by default selected by cross-validation.",
    ),
    click.option(
        "--sigma",
        callback=parse_floats,
        help="Width of the kernel, one value or a grid; by default selected by cross-validation, or the "
        "widest with at most ten images a class.",
    ),
    click.option(
        "--centers",
        "n_centers",
        type=click.IntRange(1),
        default=HeadOptions.n_centers,
        show_default=True,
        help="Number of training rows that the kernel is expanded on.",
    ),
    click.option(
        "--solver",
        type=Choice(SOLVERS),
        default=HeadOptions.solver,
        show_default=True,
        help="Solver of head falkon: Gram matrices in one pass (direct), conjugate gradient (falkon), the "
        "cheaper of both (auto), or FalkonML (falkon-lib).",
    ),
)
MEMORY_LIMIT = click.option(
    "--memory-limit",
    metavar="SIZE",
    help="Most memory of the whole process, and of the GPU where one computes, such as 2GiB; work whose "
    "projected peak is above is refused. By default half of the machine's memory, and 85 % of what is free "
    "on the GPU.",
)
LEARNED = together(
    click.option(
        "--task",
        type=Choice(TASK_NAMES),
        default=RowOptions.task,
        show_default=True,
        help="What the head learns: one class an image (classification), several labels (multilabel) or "
        "numbers (regression, with --target); auto follows the data set.",
    ),
    click.option(
        "--target",
        metavar="COLUMN",
        help="Numeric column of the data set to predict, or several with commas between them.",
    ),
    click.option(
        "--drop-missing",
        is_flag=True,
        help="Leave out images whose --target is missing or infinite, instead of refusing them.",
    ),
)
TASK = together(
    LEARNED,
    click.option(
        "--ordinal",
        is_flag=True,
        help="The --target numbers steps of a scale: answers are rounded, and quadratic kappa is reported.",
    ),
    click.option(
        "--threshold",
        default=HeadOptions.threshold,
        show_default=True,
        metavar="RULE",
        help="Of several labels, from which probability a label applies: f1 (highest F1 of left-out images), "
        "precision:P (that precision of left-out images), or a number.",
    ),
)
FOLDS = click.option(
    "--cv",
    callback=parse_folds,
    default=str(HeadOptions.cv),
    show_default=True,
    help="Number of folds of the selection; leave-one-group-out with --group-by; none with one --penalty and "
    "one --sigma.",
)
CLASS_WEIGHT = click.option(
    "--class-weight", type=Choice(["balanced"]), help="Give all classes the same weight in the fit."
)
PARAMS = click.option(
    "--params", callback=parse_object, help="JSON object of parameters that only this head has."
)
HEAD_DEVICE = click.option(
    "--device",
    default=AUTO,
    show_default=True,
    help="Compute the fit on cpu, cuda or cuda:N; auto is cuda where there is one, else cpu "
    "(and cpu for a training that is too small for a GPU).",
)
# Commands that compare heads or layers have these options for columns, rows and limits.
COMPARED = together(
    COLUMNS_BY_MODEL, MEMORY_LIMIT, FOLDS, STORED_SPLIT, CLASS_WEIGHT, SKIP_FAILED, HEAD_DEVICE,
)  # fmt: skip
