"""`toptune advise` says what is worth while before the work is done."""

from collections.abc import Sequence
from typing import Any

import click

from toptune.commands.options.common import DEVICE, IMG_SIZE, JSON, MODEL_KWARGS, SKIP_FAILED, WEIGHTS
from toptune.commands.options.help import Command
from toptune.commands.options.parsing import parse_object, parse_seconds
from toptune.commands.options.printing import echo, show
from toptune.commands.options.training import LEARNED, SEED, split_options


def the_one_model(_context: click.Context, _option: click.Parameter, value: Sequence[str]) -> str:
    """Return the one model; several are refused with the commands that answer for them."""
    if len(value) > 1:
        raise click.BadParameter(
            f"{len(value)} models are given ({', '.join(value)}), and advise weighs one frozen network "
            "against fine-tuning the same; advise on each by itself, with one --store, and then train on "
            "all: toptune train, or compare, takes --model several times with --fusion late or join"
        )
    return value[0]


@click.command(cls=Command)
@click.argument("data")
@click.option(
    "--model",
    required=True,
    multiple=True,
    callback=the_one_model,
    metavar="NAME",
    help="Pretrained backbone, named as for extract; one, because one network is fine-tuned.",
)
@click.option(
    "--store",
    default="features",
    show_default=True,
    envvar="TOPTUNE_STORE",
    metavar="ROOT",
    help="Folder of the store; features that it lacks are extracted into it.",
)
@click.option("--dataset", help="Name of DATA in the store; by default the name of its folder.")
@click.option(
    "--budget",
    callback=parse_seconds,
    default="10m",
    show_default=True,
    metavar="TIME",
    help="Time for everything; a longer extraction is refused before it begins.",
)
@click.option(
    "--margin",
    type=float,
    default=0.01,
    show_default=True,
    help="Gain of accuracy from which on fine-tuning is worth while.",
)
@click.option(
    "--finetune-limit",
    callback=parse_seconds,
    metavar="TIME",
    help="Advise against fine-tuning where it would take longer than this.",
)
@click.option(
    "--finetune",
    callback=parse_object,
    help="JSON object of options of finetune whose cost is asked for, such as '{\"epochs\": 20}'.",
)
@click.option("--layers", default="all", show_default=True, help="Layers to use, named as for extract.")
@click.option("--pooling", help="Pooling, as for extract; by default the one of the model's family.")
@WEIGHTS
@IMG_SIZE
@MODEL_KWARGS
@click.option("--cv", type=click.IntRange(2), default=5, show_default=True, help="Number of folds.")
@SEED
@LEARNED
@split_options(had="has", groups="stay on one side")
@SKIP_FAILED
@DEVICE
@click.option(
    "-j",
    "--workers",
    type=click.IntRange(1),
    help="Threads that read and decode images ahead; by default one a core, at most 32.",
)
@JSON
def advise(data: str, as_json: bool, **options: Any) -> None:
    """Advise whether to keep the backbone frozen or to fine-tune it.

    Cheap heads are cross-validated on the training images of DATA, and a few steps of fine-tuning are timed.
    No features of test images are read. Of several labels or numbers (--task, --target) heads are measured,
    and fine-tuning is not, which knows classes alone. The advice comes with its reasons, its figures and how
    sure it is. Stopped while it extracts, the same command resumes.
    """
    from toptune.workflows import advise as run_advice

    report = run_advice(data, progress=lambda line: echo(line, err=True), **options)
    show(as_json, report.to_dict(), str(report))
