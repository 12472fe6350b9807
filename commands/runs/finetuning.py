"""`toptune finetune` trains the network itself, as the baseline."""

from typing import Any

import click

from toptune.commands.options.common import (
    DEVICE,
    IMG_SIZE,
    JSON,
    MODEL_KWARGS,
    SKIP_FAILED,
    WEIGHTS,
    stop_options,
)
from toptune.commands.options.help import Choice, Command
from toptune.commands.options.parsing import parse_bytes, parse_floats
from toptune.commands.options.printing import show
from toptune.commands.options.training import split_options


@click.command(cls=Command)
@click.argument("data")
@click.option("--model", required=True, metavar="NAME", help="Pretrained network, named as for extract.")
@click.option(
    "--out",
    required=True,
    type=click.Path(),
    help="Folder of the run; until the run is finished, it is called OUT.unfinished.",
)
@WEIGHTS
@IMG_SIZE
@MODEL_KWARGS
@click.option(
    "--depth",
    default="full",
    show_default=True,
    help="What is trained: full, last:N (the last N blocks), or head.",
)
@click.option(
    "--optimizer",
    type=Choice(["adamw", "sgd"]),
    default="adamw",
    show_default=True,
    help="Optimizer; sgd has momentum 0.9.",
)
@click.option(
    "--learning-rate",
    "learning_rates",
    callback=parse_floats,
    help="Peak learning rate, one or a grid to choose from on validation rows; by default 1e-4,3e-4 for "
    "adamw, 0.01 for sgd, and more with --depth head.",
)
@click.option(
    "--weight-decay",
    type=float,
    help="Weight decay of all but biases and norms; by default 0.05 for adamw, 1e-4 for sgd.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=40,
    show_default=True,
    help="Most epochs of each learning rate.",
)
@click.option(
    "--min-epochs",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Fewest epochs before stopping early.",
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Stop after this many epochs without a better validation.",
)
@click.option(
    "--warmup-epochs",
    type=click.IntRange(0),
    help="Epochs in which the learning rate rises, by default 2, or fewer if --epochs is 1 or 2; half a "
    "cosine follows.",
)
@click.option(
    "-b",
    "--batch-size",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Most images in a step.",
)
@click.option(
    "--clip-grad",
    type=float,
    default=1.0,
    show_default=True,
    help="Limit on the norm of the gradient; 0 for none.",
)
@click.option(
    "--label-smoothing",
    type=float,
    default=0.0,
    show_default=True,
    help="Share of label smoothing, from 0 to below 1.",
)
@click.option(
    "--augment",
    type=Choice(["crop-flip", "crop", "none"]),
    default="crop-flip",
    show_default=True,
    help="Augmentation: random resized crop with or without horizontal flip, or none.",
)
@click.option(
    "--crop-scale",
    type=float,
    default=0.08,
    show_default=True,
    help="Least share of the image that a random crop keeps.",
)
@click.option(
    "--validation-fraction",
    type=float,
    default=0.2,
    show_default=True,
    help="Share of the training rows of each class to validate on; with 0, one rate runs for all epochs.",
)
@click.option("--refit", is_flag=True, help="Train the chosen setting once more, on all training rows.")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of the split, the classifier, the order of images and the crops.",
)
@split_options(
    had="has", groups="stay on one side", val="What images of the split val do: train, test, or be left out."
)
@click.option(
    "--precision",
    type=Choice(["fp32", "bf16", "auto"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the network; auto is bf16 where it is fast.",
)
@DEVICE
@click.option(
    "-j",
    "--workers",
    type=click.IntRange(1),
    help="Threads that read and augment images ahead; by default one a core, at most 32.",
)
@click.option(
    "--cache-memory",
    "cache_memory_bytes",
    callback=parse_bytes,
    default="4GiB",
    show_default=True,
    help="Memory for decoded images.",
)
@SKIP_FAILED
@click.option(
    "--max-failures",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Refuse to leave out more images than this.",
)
@stop_options(before="an epoch", at_hand="the epoch")
@click.option("--dry-run", is_flag=True, help="Time a few steps, print the plan, and write nothing.")
@JSON
def finetune(
    data: str,
    model: str,
    out: str,
    time_limit: float | None,
    grace: float,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fine-tune a pretrained network on DATA, as the baseline.

    Rows are split as train splits them. Stopped at any moment, the same command resumes. The RUN has the
    files that train writes, and the network in the form of timm's local-dir.
    """
    if dry_run:
        from toptune.workflows import plan_finetune

        plan = plan_finetune(data, model=model, **options)
        show(as_json, plan.to_dict(), str(plan))
        return
    from toptune.workflows import finetune as run_finetuning, finetune_progress, stop_on_signals

    with stop_on_signals(grace, at_hand="the epoch") as stop, finetune_progress() as progress:
        run = run_finetuning(
            data, model=model, out=out, stop=stop, progress=progress, time_limit=time_limit, **options
        )
    show(as_json, run.to_dict(), str(run))
