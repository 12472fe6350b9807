"""Options of training that several commands share: which features, which rows, which head."""

import click

from toptune.commands.options.common import POOLING, SKIP_FAILED, STORE, Decorator, together
from toptune.commands.options.parsing import parse_floats, parse_folds, parse_object, parse_seconds

STORED_FEATURES = together(
    STORE,
    click.option("--dataset", required=True, help="The data set's name in the store."),
    click.option("--model", required=True, help="As given to extract."),
)
DATASET_VERSION = click.option(
    "--dataset-version", type=click.IntRange(1), help="Of a data set that grew (the latest)."
)
COLUMNS = together(
    click.option(
        "--layers", help="auto (chosen by cross-validation), all, or names and globs; by default last."
    ),
    POOLING,
    click.option(
        "--preprocess",
        metavar="STEPS",
        help="With commas, in order: standardise (the default of most heads), l2, power, pca:N, whiten:N, "
        "ternary; or none.",
    ),
)


def split_options(*, had: str, groups: str, val: str | None = None) -> Decorator:
    """Say which rows are trained on and which tested on.

    Parameters
    ----------
    had : {"had", "has"}
        Whether the images are looked at now, or were when they were extracted.
    groups : str
        Ends the help of ``--group-by``.
    val : str, optional
        The help of ``--val``.
    """
    return together(
        click.option(
            "--test-fraction",
            type=float,
            default=0.2,
            show_default=True,
            help=f"Where DATA {had} no split.",
        ),
        click.option("--resplit", is_flag=True, help=f"Draw a new split even where DATA {had} one."),
        click.option(
            "--val",
            type=click.Choice(["train", "test", "drop"]),
            default="train",
            show_default=True,
            help=val,
        ),
        click.option("--group-by", help=f"A manifest column, or a pattern on the id: groups {groups}."),
        click.option("--shots", type=click.IntRange(1), help="Train on so many images of each class only."),
        click.option(
            "--train-size", type=click.IntRange(1), help="Train on so many images in all, stratified."
        ),
    )


STORED_SPLIT = split_options(had="had", groups="never straddle the split")

SEED = click.option("--seed", type=int, default=0, show_default=True)
BUDGET = click.option(
    "--budget", callback=parse_seconds, metavar="TIME", help="Of head auto's fits: 30, 5m; by default 2m."
)
KERNEL = together(
    click.option(
        "--kernel", default="gaussian", show_default=True, help="gaussian, laplacian, matern12/32/52, linear."
    ),
    click.option(
        "--penalty",
        callback=parse_floats,
        help="One value or a grid; by default selected by cross-validation.",
    ),
    click.option("--sigma", callback=parse_floats, help="Kernel width, one or a grid; by default selected."),
    click.option("--centers", "n_centers", type=click.IntRange(1), default=1000, show_default=True),
    click.option(
        "--solver",
        type=click.Choice(["auto", "direct", "falkon", "falkon-lib"]),
        default="auto",
        show_default=True,
        help="Of head falkon: Gram matrices in one pass, conjugate gradient, the cheaper, or FalkonML.",
    ),
)
MEMORY_LIMIT = click.option(
    "--memory-limit", metavar="SIZE", help="Refuse a projected peak above, e.g. 2GiB (half the machine's)."
)
FOLDS = click.option(
    "--cv",
    callback=parse_folds,
    default="5",
    show_default=True,
    help="Folds of the selection; leave-one-group-out with --group-by; none with one --penalty and --sigma.",
)
CLASS_WEIGHT = click.option("--class-weight", type=click.Choice(["balanced"]))
PARAMS = click.option("--params", callback=parse_object, help="JSON object of the head's own parameters.")
HEAD_DEVICE = click.option("--device", help="cpu, cuda or cuda:N.")
# What is compared on which rows, for commands that compare heads or layers.
COMPARED = together(
    COLUMNS, MEMORY_LIMIT, FOLDS, STORED_SPLIT, CLASS_WEIGHT, SKIP_FAILED, HEAD_DEVICE,
)  # fmt: skip
