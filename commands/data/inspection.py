"""`toptune inspect` looks for duplicates, leaks, wrong labels, outliers and odd images."""

from collections.abc import Sequence
from typing import Any

import click

from toptune.commands.options.common import JSON, POOLING, SPREADSHEET_SAFE
from toptune.commands.options.help import Choice, Command, examples
from toptune.commands.options.only_names import fill_names
from toptune.commands.options.parsing import parse_names
from toptune.commands.options.printing import echo, show
from toptune.commands.options.training import (
    DATASET_VERSION,
    HEAD_DEVICE,
    MEMORY_LIMIT,
    SEED,
    STORED_FEATURES,
)
from toptune.train.rows.options import VAL, RowOptions
from toptune.train.tasks.names import TASK_NAMES


@click.command(
    cls=Command,
    epilog=examples(
        "toptune inspect --store features --dataset photos --data photos --out look",
        "toptune inspect --store features --dataset photos --fail-on leak,duplicate --out look",
    ),
)
@STORED_FEATURES
@click.option(
    "--out",
    required=True,
    type=click.Path(),
    help="Folder for findings.csv, findings.json, page.html and atlas.parquet; it must not exist yet.",
)
@click.option(
    "--data",
    type=click.Path(),
    help="The images that were extracted, to measure size, brightness and blur, and to show thumbnails.",
)
@click.option("--layers", help="Layers to compare images by: all, or names and globs; by default last.")
@POOLING
@click.option(
    "--preprocess",
    metavar="STEPS",
    default="l2",
    show_default=True,
    help="Steps before images are compared, in order, with commas, as for train.",
)
@click.option(
    "--neighbors",
    type=click.IntRange(2),
    default=10,
    show_default=True,
    help="Number of nearest images that are looked for, of each image.",
)
@click.option(
    "--exact-up-to",
    type=click.IntRange(0),
    default=500_000,
    show_default=True,
    help="Number of images up to which neighbors are exact; of more they are approximate on the CPU, by "
    "faiss where that is installed.",
)
@click.option(
    "--false-alarms",
    type=float,
    default=0.001,
    show_default=True,
    help="Share of the images that may be taken for near-duplicates by chance.",
)
@click.option(
    "--outliers",
    type=float,
    default=0.01,
    show_default=True,
    help="Share of the images that are told as outliers: those farthest from their neighbors.",
)
@click.option(
    "--cv",
    type=click.IntRange(2),
    default=5,
    show_default=True,
    help="Number of folds of the predictions by which labels are checked.",
)
@click.option(
    "--map",
    type=Choice(("pca", "umap")),
    default="pca",
    show_default=True,
    help="How the page puts images on a map; umap needs toptune[umap].",
)
@click.option(
    "--fail-on",
    callback=parse_names,
    metavar="KINDS",
    help="Exit with code 1 if there are findings of these kinds, or if they could not be looked for; with "
    "commas: leak, duplicate, near-duplicate, label, outlier, image.",
)
@click.option(
    "--test-fraction",
    type=float,
    default=RowOptions.test_fraction,
    show_default=True,
    help="Share of the images that train would test on, where DATA had no split.",
)
@click.option("--resplit", is_flag=True, help="Tell leaks of the split that train draws with --resplit.")
@click.option(
    "--val",
    type=Choice(VAL),
    default=RowOptions.val,
    show_default=True,
    help="What images of the split val do where a split is drawn, as for train.",
)
@click.option(
    "--group-by",
    help="Column of the manifest, or pattern on the id, whose groups are told where copies cross them.",
)
@click.option(
    "--label-column",
    metavar="COLUMN",
    help="Column of the data set whose values are the labels, in place of its labels.",
)
@click.option(
    "--task",
    type=Choice(TASK_NAMES),
    default=RowOptions.task,
    show_default=True,
    help="What labels mean, as for train; auto follows the data set.",
)
@click.option(
    "--target",
    metavar="COLUMN",
    help="Numeric column of the data set whose numbers are checked, or several with commas between them.",
)
@SEED
@HEAD_DEVICE
@MEMORY_LIMIT
@DATASET_VERSION
@SPREADSHEET_SAFE
@JSON
def inspect(root: str, as_json: bool, fail_on: Sequence[str] | None, **options: Any) -> None:
    """Look for duplicates, leaks between splits, wrong labels, outliers and odd images.

    Stored features are compared, images of equal bytes are found by their digests, and labels are checked by
    predictions that had left the image out. Nothing is changed: the findings are tables, and a page on which
    a person decides on them by keyboard and saves the decisions as a table for train.
    """
    from toptune.workflows import check_kinds, inspect as run_inspection, work_progress

    kinds = check_kinds(fail_on or ())
    options = fill_names(root, options)
    with work_progress("inspecting") as progress:
        found = run_inspection(root, progress=progress, notify=lambda line: echo(line, err=True), **options)
    show(as_json, found.to_dict(), str(found))
    if failures := found.failures(kinds):
        told = ", ".join(f"{kind} of {count}" for kind, count in failures.items())
        echo(f"--fail-on: findings of images: {told}; see {found.out}/findings.csv", err=True)
    # What nobody has looked for was not shown to be absent.
    unknown = [kind for kind in kinds if kind in found.not_checked]
    for kind in unknown:
        echo(f"--fail-on {kind}: {found.not_checked[kind]}; or leave {kind} out of --fail-on", err=True)
    if failures or unknown:
        raise SystemExit(1)
