"""What is done with a RUN: `toptune evaluate`, `predict`, `export` and `report`."""

import sys
from typing import Any

import click

from toptune.commands.options.common import DEVICE, JSON, MAX_FAILURES, together
from toptune.commands.options.parsing import parse_places
from toptune.commands.options.printing import report_failures, show

RUN = click.argument("run", type=click.Path(exists=True, file_okay=False))
MOVED = together(
    click.option("--model", help="Where the backbone is now, if it has moved (local-dir:FOLDER)."),
    click.option("--weights", type=click.Path(), help="Where the checkpoint is now, if it has moved."),
)


@click.command()
@RUN
@click.option("--store", help="Another store than the one trained from.")
@click.option("--dataset", help="Another data set; all its labeled rows are scored.")
@click.option(
    "--split",
    type=click.Choice(["test", "train", "all"]),
    help="Of the run's rows, test by default; of --data, all by default.",
)
@click.option("--data", help="Images with labels, read directly; no store is needed.")
@click.option("--model", help="With --data: where the backbone is now, if it has moved (local-dir:FOLDER).")
@click.option("--weights", type=click.Path(), help="With --data: where the checkpoint is now.")
@DEVICE
@JSON
def evaluate(run: str, as_json: bool, **options: Any) -> None:
    """Score a RUN: on its own test rows, another stored data set, or images."""
    from toptune.workflows import describe_metrics, work_progress
    from toptune.workflows import evaluate as run_evaluation

    with work_progress("scoring") as progress:
        metrics = run_evaluation(run, progress=progress, **options)
    show(as_json, metrics, describe_metrics(metrics))


@click.command()
@RUN
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option("--probabilities", is_flag=True, help="One more column a class.")
@click.option("-b", "--batch-size", type=click.IntRange(1), default=32, show_default=True)
@MOVED
@DEVICE
@MAX_FAILURES
@JSON
def predict(
    run: str,
    paths: tuple[str, ...],
    form: str,
    probabilities: bool,
    max_failures: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify images, or folders of images, with a RUN and its backbone."""
    from toptune.costs.meter import CostMeter
    from toptune.workflows import Classifier, write_predictions

    meter, batch_size = CostMeter(), options.pop("batch_size")
    classifier = Classifier.load(run, **options)
    predictions = classifier.predict(paths, batch_size=batch_size)
    if as_json:
        rows = [prediction.to_dict(probabilities=probabilities) for prediction in predictions]
        answer = {"classes": classifier.classes, "predictions": rows, "costs": meter.to_dict()}
        show(True, answer, "")
    else:
        columns = classifier.classes if probabilities else []
        write_predictions(predictions, sys.stdout, form=form, columns=columns)
    report_failures({p.path: p.error for p in predictions if p.error}, max_failures)


@click.command("export")
@RUN
@click.option("--out", "-o", required=True, type=click.Path(), help="FILE.onnx or FILE.pt2, made new.")
@click.option(
    "--check", metavar="DATA", help="Images to compare with predict on; by default built-in digits."
)
@click.option("--normalize", is_flag=True, help="Take RGB values from 0 to 1 and normalize inside the file.")
@click.option(
    "--head-dtype",
    type=click.Choice(["float64", "float32"]),
    default="float64",
    show_default=True,
    help="Type after the backbone; float32 for devices without float64.",
)
@click.option(
    "--tolerance", type=float, default=1e-4, show_default=True, help="Largest difference of a probability."
)
@MOVED
@JSON
def export_run(run: str, out: str, as_json: bool, **options: Any) -> None:
    """Write a RUN and its backbone as one ONNX or .pt2 file, compared with predict, and a model card."""
    from toptune.workflows import export

    report = export(run, out, **options)
    show(as_json, report.to_dict(), str(report))


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--out", "-o", required=True, type=click.Path(), help="The page's file, such as report.html.")
@click.option(
    "--data",
    multiple=True,
    metavar="DATASET=PATH",
    callback=parse_places,
    help="Where a data set's images are, for thumbnails of mistakes; may be given several times.",
)
@click.option("--title", default="toptune report", show_default=True)
@click.option("--overwrite", is_flag=True, help="Take the place of a file that is there.")
@JSON
def report(runs: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Write one self-contained HTML page about RUNS: RUN folders, and folders with some below."""
    from toptune.workflows import work_progress, write_report

    with work_progress("reporting") as progress:
        summary = write_report(runs, progress=progress, **options)
    show(as_json, summary.to_dict(), str(summary))
