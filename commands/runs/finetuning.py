"""`toptune finetune`: the network itself, the baseline."""

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
from toptune.commands.options.parsing import parse_bytes, parse_floats
from toptune.commands.options.printing import show
from toptune.commands.options.training import split_options


@click.command()
@click.argument("data")
@click.option("--model", required=True, metavar="NAME", help="As for extract; pretrained.")
@click.option("--out", required=True, type=click.Path(), help="The run's folder; OUT.unfinished until then.")
@WEIGHTS
@IMG_SIZE
@MODEL_KWARGS
@click.option(
    "--depth", default="full", show_default=True, help="What is trained: full, last:N (blocks), or head."
)
@click.option(
    "--optimizer",
    type=click.Choice(["adamw", "sgd"]),
    default="adamw",
    show_default=True,
    help="sgd has momentum 0.9.",
)
@click.option(
    "--learning-rate",
    "learning_rates",
    callback=parse_floats,
    help="Peak, one or a grid, chosen on validation rows (adamw 1e-4,3e-4; sgd 0.01; higher for head).",
)
@click.option("--weight-decay", type=float, help="Not of biases and norms (adamw 0.05, sgd 1e-4).")
@click.option("--epochs", type=click.IntRange(1), default=40, show_default=True, help="At most, a rate.")
@click.option(
    "--min-epochs", type=click.IntRange(1), default=10, show_default=True, help="Before stopping early."
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Epochs without a better validation.",
)
@click.option(
    "--warmup-epochs",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="In which the rate rises; half a cosine follows.",
)
@click.option(
    "-b",
    "--batch-size",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Images a step, at most.",
)
@click.option(
    "--clip-grad", type=float, default=1.0, show_default=True, help="Limit on its norm; 0 for none."
)
@click.option(
    "--label-smoothing", type=float, default=0.0, show_default=True, help="Share, from 0 to below 1."
)
@click.option(
    "--augment",
    type=click.Choice(["crop-flip", "crop", "none"]),
    default="crop-flip",
    show_default=True,
    help="Random resized crop, horizontal flip.",
)
@click.option(
    "--crop-scale", type=float, default=0.08, show_default=True, help="Least share that a random crop keeps."
)
@click.option(
    "--validation-fraction",
    type=float,
    default=0.2,
    show_default=True,
    help="Of each class's training rows; 0: one rate, all epochs.",
)
@click.option("--refit", is_flag=True, help="Train the chosen setting once more on all training rows.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of split, classifier, order, crops.")
@split_options(had="has", groups="stay on one side", val="What rows of a split val do.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "auto"]),
    default="auto",
    show_default=True,
    help="Of the arithmetic; auto: bf16 where it is fast.",
)
@DEVICE
@click.option("-j", "--workers", type=click.IntRange(1), help="Threads that read and augment ahead.")
@click.option(
    "--cache-memory",
    "cache_memory_bytes",
    callback=parse_bytes,
    default="4GiB",
    show_default=True,
    help="Of decoded images.",
)
@SKIP_FAILED
@click.option(
    "--max-failures", type=click.IntRange(0), default=0, show_default=True, help="Leave out at most so many."
)
@stop_options(before="an epoch", at_hand="the epoch")
@click.option("--dry-run", is_flag=True, help="Time a few steps, print the plan and write nothing.")
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
    """Fine-tune a pretrained network on DATA: the baseline, on the rows that train uses.

    Stopped at any moment, the same command goes on. The RUN has train's files, and the network in timm's
    local-dir form.
    """
    from toptune.workflows import finetune as run_finetuning
    from toptune.workflows import finetune_progress, plan_finetune, stop_on_signals

    if dry_run:
        plan = plan_finetune(data, model=model, **options)
        show(as_json, plan.to_dict(), str(plan))
        return
    with stop_on_signals(grace, at_hand="the epoch") as stop, finetune_progress() as progress:
        run = run_finetuning(
            data, model=model, out=out, stop=stop, progress=progress, time_limit=time_limit, **options
        )
    show(as_json, run.to_dict(), str(run))
