"""`toptune advise`: what is worth while, before it is done."""

from typing import Any

import click

from toptune.commands.options.common import DEVICE, IMG_SIZE, JSON, MODEL_KWARGS, SKIP_FAILED, WEIGHTS
from toptune.commands.options.parsing import parse_object, parse_seconds
from toptune.commands.options.printing import show
from toptune.commands.options.training import SEED, split_options


@click.command()
@click.argument("data")
@click.option("--model", required=True, metavar="NAME", help="As for extract; pretrained.")
@click.option(
    "--store",
    default="features",
    show_default=True,
    envvar="TOPTUNE_STORE",
    metavar="ROOT",
    help="The store's folder; what it lacks is extracted and stays there.",
)
@click.option("--dataset", help="Its name in the store; by default the folder's.")
@click.option(
    "--budget",
    callback=parse_seconds,
    default="10m",
    show_default=True,
    metavar="TIME",
    help="For everything; a longer extraction is refused before it begins.",
)
@click.option(
    "--margin",
    type=float,
    default=0.01,
    show_default=True,
    help="Accuracy that fine-tuning has to gain to be worth while.",
)
@click.option(
    "--finetune-limit",
    callback=parse_seconds,
    metavar="TIME",
    help="That fine-tuning may take: where it takes longer, it is not advised.",
)
@click.option(
    "--finetune",
    callback=parse_object,
    help="JSON object of finetune's options whose cost is asked for: '{\"epochs\": 20}'.",
)
@click.option("--layers", default="all", show_default=True, help="As for extract.")
@click.option("--pooling", help="As for extract; by default the family's own.")
@WEIGHTS
@IMG_SIZE
@MODEL_KWARGS
@click.option("--cv", type=click.IntRange(2), default=5, show_default=True, help="Folds.")
@SEED
@split_options(had="has", groups="stay on one side")
@SKIP_FAILED
@DEVICE
@click.option("-j", "--workers", type=click.IntRange(1), help="Threads that read and decode ahead.")
@JSON
def advise(data: str, as_json: bool, **options: Any) -> None:
    """Advise to stay with frozen features of DATA or to fine-tune, with reasons, figures and certainty.

    Cheap heads are cross-validated on the training images and a few steps of fine-tuning are timed; no test
    image's features are read. Stopped while it extracts, the same command goes on.
    """
    from toptune.workflows import advise as run_advice

    report = run_advice(data, progress=lambda line: click.echo(line, err=True), **options)
    show(as_json, report.to_dict(), str(report))
