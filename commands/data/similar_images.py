"""`toptune similar` finds stored images that are like given ones, and what carried a prediction."""

from typing import Any

import click

from toptune.commands.options.common import (
    BATCH_SIZE,
    DEVICE,
    JSON,
    MAX_FAILURES,
    POOLING,
    SPREADSHEET_SAFE,
    RunFolder,
)
from toptune.commands.options.help import Choice, Command, examples
from toptune.commands.options.parsing import ExistingPath
from toptune.commands.options.printing import report_failures, show
from toptune.commands.options.training import DATASET, DATASET_VERSION, MEMORY_LIMIT


@click.command(
    cls=Command,
    epilog=examples(
        "toptune similar new.jpg --store features --dataset photos -k 5",
        "toptune similar --id disc/000.png --store features --data photos --out like.html",
        "toptune similar new.jpg --run run",
    ),
)
@click.argument("images", nargs=-1, type=ExistingPath())
@click.option(
    "--store",
    envvar="TOPTUNE_STORE",
    metavar="ROOT",
    help="Folder of the store, or s3://bucket/prefix; of a run, by default the one that it was trained from.",
)
@click.option(
    "--run",
    type=RunFolder(),
    help="RUN of a kernel head: tell the training images that carried its predictions, with their shares.",
)
@DATASET
@click.option(
    "--model",
    help="Model, as it was given to extract; by default the only one of the data set. Of a run, where its "
    "backbone is now.",
)
@click.option(
    "--id",
    "ids",
    multiple=True,
    metavar="ID",
    help="Image of the data set, whose stored features are taken; may be given several times.",
)
@click.option("-k", "--k", type=click.IntRange(1), default=10, show_default=True, help="Images to find.")
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
    "--out",
    "-o",
    type=click.Path(),
    help="File to write, FILE.csv, FILE.jsonl or FILE.html; by default a table is printed.",
)
@click.option(
    "--format",
    "form",
    type=Choice(["csv", "jsonl", "html"]),
    help="Format of the file; by default told by --out.",
)
@click.option(
    "--data", type=click.Path(), help="The images of the data set, whose thumbnails a page (html) shows."
)
@SPREADSHEET_SAFE
@BATCH_SIZE
@DEVICE
@MEMORY_LIMIT
@DATASET_VERSION
@MAX_FAILURES
@JSON
def similar(
    images: tuple[str, ...],
    out: str | None,
    form: str | None,
    data: str | None,
    spreadsheet_safe: bool,
    max_failures: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the stored images that are nearest to given ones, or those behind a prediction.

    Images are compared by the cosine of their features, exactly. With --run, the training images are told
    that a kernel head takes for centers, and what each of them adds to the score of the predicted class.

    \b
    IMAGES  image files, folders of images, lists (.csv, .parquet) or archives
    """  # noqa: D301
    from toptune.errors import InputError
    from toptune.extract import open_source
    from toptune.workflows import check_similar_file, similar as find_similar, work_progress

    # A file that cannot be written is refused before the work, not after it.
    if form is not None and out is None:
        raise InputError("format is of a file; name the file with --out", option="format")
    written = None if out is None else check_similar_file(out, form)
    if data is not None and written != "html":
        raise InputError(
            f"data is {data}, and only a page shows images; give --out FILE.html too, or leave --data out",
            option="data",
        )
    source = None if data is None else open_source(data)
    with work_progress("looking") as progress:
        found = find_similar(images, progress=progress, **options)
    if out is not None:
        found.write(out, form=form, spreadsheet_safe=spreadsheet_safe, data=source, images=images)
    told = [f"written to {out}", *(f"note: {note}" for note in found.notes)]
    show(as_json, found.to_dict(), str(found) if out is None else "\n".join(told))
    report_failures(found.failed, max_failures)
