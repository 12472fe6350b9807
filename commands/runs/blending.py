"""`toptune blend` makes one run of runs that exist."""

import logging
from typing import Any

import click

from toptune.commands.options.common import JSON, RunFolder
from toptune.commands.options.help import Command, examples
from toptune.commands.options.printing import show
from toptune.commands.options.training import HEAD_DEVICE, MEMORY_LIMIT
from toptune.commands.runs.training import VERBOSE, plans_on_standard_error


@click.command(
    cls=Command,
    epilog=examples("toptune blend run-vit run-resnet --out blended"),
)
@click.argument("runs", nargs=-1, required=True, type=RunFolder())
@click.option("--out", required=True, type=click.Path(), help="Folder of the run; it must not exist yet.")
@click.option("--store", help="Another store than the one that the runs were trained from.")
@MEMORY_LIMIT
@HEAD_DEVICE
@VERBOSE
@JSON
def blend(runs: tuple[str, ...], as_json: bool, verbose: bool, **options: Any) -> None:
    """Weigh the heads of RUNS and make one run of them.

    The runs must have been trained on the same rows with the same folds, and may be of different models,
    layers and heads. Weights come from rows that the fits had left out.
    """
    from toptune.train import blend as run_blending

    with plans_on_standard_error(logging.DEBUG if verbose else logging.INFO):
        run = run_blending(runs, **options)
    show(as_json, run.to_dict(), str(run))
