"""`toptune evaluate`, `predict`, `export` and `report` use a RUN that was trained."""

import sys
from typing import TYPE_CHECKING, Any

import click

from toptune.commands.options.answers import ANSWER_NAMES, ANSWERS
from toptune.commands.options.common import (
    BATCH_SIZE,
    DEVICE,
    JSON,
    MAX_FAILURES,
    OWN_COLUMNS,
    SPREADSHEET_SAFE,
    Decorator,
    RunFolder,
    together,
)
from toptune.commands.options.help import Choice, Command, examples
from toptune.commands.options.parsing import ExistingPath, parse_moved, parse_places
from toptune.commands.options.printing import echo, report_failures, show
from toptune.errors import InputError

if TYPE_CHECKING:
    from toptune.workflows import Classifier

RUN = click.argument("run", type=RunFolder())


def _moved(*, when: str = "") -> Decorator:
    """Return the options that say where backbones are now; `when` begins their help."""
    begin = f"{when}, where" if when else "Where"
    several = "NAME=PLACE for each of several"
    return together(
        click.option(
            "--model",
            multiple=True,
            callback=parse_moved,
            help=f"{begin} the backbone is now, if it has moved (local-dir:FOLDER); {several}.",
        ),
        click.option(
            "--weights",
            multiple=True,
            callback=parse_moved,
            type=click.Path(),
            help=f"{begin} the checkpoint is now, if it has moved; {several}.",
        ),
    )


MOVED = _moved()


@click.command(cls=Command)
@RUN
@click.option("--store", help="Another store than the one that the run was trained from.")
@click.option("--dataset", help="Another data set, all labeled rows of which are scored.")
@click.option(
    "--split",
    type=Choice(["test", "train", "all"]),
    help="Split to score; by default test of the run's own rows, and all of --dataset or --data.",
)
@click.option("--data", help="Images with labels to score, read without a store.")
@OWN_COLUMNS
@_moved(when="With --data")
@ANSWERS
@click.option(
    "--ood",
    metavar="DATASET",
    help="Another stored data set, whose images are told from those that are scored: AUROC of novelty and of "
    "other measures.",
)
@click.option(
    "--out",
    type=click.Path(),
    help="Folder to write metrics.json to, with files for the figures of each class and the confusion matrix "
    "where there are more than 200 classes; it must not exist yet.",
)
@DEVICE
@JSON
def evaluate(run: str, as_json: bool, **options: Any) -> None:
    """Score a RUN on its test rows, other features, or images."""
    from toptune.workflows import describe_metrics, evaluate as run_evaluation, work_progress

    with work_progress("scoring") as progress:
        metrics = run_evaluation(run, progress=progress, **options)
    show(as_json, metrics, describe_metrics(metrics))


def _checked_top(top: int, classifier: "Classifier") -> int:
    """Return how many classes are written, at most all; refuse to rank what is not ranked."""
    from toptune.text import counted
    from toptune.train.tasks.names import CLASSIFICATION

    task, n_classes = classifier.record.form.task, len(classifier.classes)
    if top > 1 and task != CLASSIFICATION:
        raise InputError(
            f"top is {top}, and {classifier.record.folder} is a run of --task {task}, whose answers are not "
            "ranked; leave --top out: --probabilities writes the number of every label or target",
            option="top",
        )
    if top > n_classes:
        click.echo(f"--top {top} writes all classes: the run has {counted(n_classes, 'class')}", err=True)
    return min(top, n_classes)


@click.command(
    cls=Command,
    epilog=examples(
        "toptune predict run new-photos",
        "toptune predict run new-photos --top 3 -o predictions.csv",
        "toptune predict run a.jpg b.jpg --format jsonl --probabilities",
    ),
)
@RUN
@click.argument("paths", nargs=-1, required=True, type=ExistingPath())
@click.option(
    "--out",
    "-o",
    type=click.Path(),
    help="File to write, FILE.csv or FILE.jsonl; by default standard output.",
)
@click.option(
    "--format",
    "form",
    type=Choice(["csv", "jsonl"]),
    help="Format of the predictions, CSV or a JSON object a line; by default told by --out, else CSV.",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of classes to write for each image, the most probable first.",
)
@click.option("--probabilities", is_flag=True, help="Add one column for each class.")
@ANSWERS
@SPREADSHEET_SAFE
@BATCH_SIZE
@MOVED
@DEVICE
@MAX_FAILURES
@JSON
def predict(
    run: str,
    paths: tuple[str, ...],
    out: str | None,
    form: str | None,
    top: int,
    probabilities: bool,
    spreadsheet_safe: bool,
    max_failures: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify images, or folders of images, with a RUN.

    Probabilities have four digits; --json has all of them.

    \b
    RUN    folder that train or finetune wrote
    PATHS  image files, folders of images, lists (.csv, .parquet) or archives
    """  # noqa: D301
    from toptune.costs.meter import CostMeter
    from toptune.text import counted
    from toptune.workflows import (
        Classifier,
        check_predictions_file,
        find_images,
        save_predictions,
        work_progress,
        write_predictions,
    )

    # A file that cannot be written is refused before the work, not after it.
    if out is not None:
        check_predictions_file(out, form)
    # The meter begins before the backbone is loaded, which is a cost of the command.
    meter, batch_size = CostMeter(), options.pop("batch_size")
    asked = {name: options.pop(name) for name in ANSWER_NAMES}
    # Paths without an image are refused before the backbone is loaded, which takes seconds.
    images = [image for _, image in find_images(paths)]
    classifier = Classifier.load(run, **options)
    top = _checked_top(top, classifier)
    with work_progress("predicting") as progress:
        predictions = classifier.predict(images, batch_size=batch_size, progress=progress, **asked)
    columns = classifier.classes if probabilities else []
    if out is not None:
        file = save_predictions(
            predictions, out, form=form, columns=columns, top=top, spreadsheet_safe=spreadsheet_safe
        )
    if as_json:
        rows = [prediction.to_dict(probabilities=probabilities, top=top) for prediction in predictions]
        answer = {
            "device": str(classifier.backbones[0].device),
            "classes": classifier.classes,
            "predictions": rows,
            "costs": meter.to_dict(),
        }
        show(True, answer if out is None else answer | {"out": str(file)}, "")
    elif out is not None:
        echo(f"{counted(len(predictions), 'prediction')} in {file}")
    else:
        write_predictions(
            predictions,
            sys.stdout,
            form=form or "csv",
            columns=columns,
            top=top,
            spreadsheet_safe=spreadsheet_safe,
        )
    # Failures come last, because too many of them end the process, and the predictions must be out by then.
    report_failures({p.path: p.error for p in predictions if p.error}, max_failures)


@click.command("export", cls=Command)
@RUN
@click.option(
    "--out",
    "-o",
    required=True,
    type=click.Path(),
    help="File to write, FILE.onnx or FILE.pt2; it must not exist yet.",
)
@click.option(
    "--check",
    metavar="DATA",
    help="Images on which the file is compared with predict; by default the built-in digits.",
)
@click.option(
    "--normalize", is_flag=True, help="Let the file take RGB values from 0 to 1 and normalize them itself."
)
@click.option(
    "--head-dtype",
    type=Choice(["float64", "float32"]),
    default="float64",
    show_default=True,
    help="Type of the computation after the backbone; float32 suits devices without float64.",
)
@click.option(
    "--tolerance",
    type=float,
    default=1e-4,
    show_default=True,
    help="Largest difference of a probability from the one of predict.",
)
@MOVED
@JSON
def export_run(run: str, out: str, as_json: bool, **options: Any) -> None:
    """Write a RUN and its backbone as one ONNX or .pt2 file.

    The file appears only if its probabilities are those of predict. A model card is written beside it.
    """
    from toptune.workflows import export

    report = export(run, out, **options)
    show(as_json, report.to_dict(), str(report))


@click.command(cls=Command)
@click.argument("runs", nargs=-1, required=True, type=ExistingPath(file_okay=False))
@click.option("--out", "-o", required=True, type=click.Path(), help="File of the page, such as report.html.")
@click.option(
    "--data",
    multiple=True,
    metavar="DATASET=PATH",
    callback=parse_places,
    help="Where the images of a data set are, for thumbnails of mistakes; may be given several times.",
)
@click.option("--title", default="toptune report", show_default=True, help="Title of the page.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@JSON
def report(runs: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Write one self-contained HTML page about RUNS.

    RUNS are RUN folders, and folders with RUN folders below them.
    """
    from toptune.workflows import work_progress, write_report

    with work_progress("reporting") as progress:
        summary = write_report(runs, progress=progress, **options)
    show(as_json, summary.to_dict(), str(summary))


@click.command("verify", cls=Command)
@click.argument("runs", nargs=-1, required=True, type=RunFolder())
@JSON
def verify_runs(runs: tuple[str, ...], as_json: bool) -> None:
    """Compare the files of RUNS with their checksums.

    Every byte is read. The exit code is 0 if all files are those that were written, and 1 otherwise. Features
    are checked by toptune store verify.
    """
    from toptune.workflows import verify_run

    checks = [verify_run(run) for run in runs]
    show(as_json, {"runs": [check.to_dict() for check in checks]}, "\n".join(map(str, checks)))
    raise SystemExit(max(check.exit_code for check in checks))
