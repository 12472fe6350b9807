"""`toptune train` trains a head on stored features, or brings a run up to date."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import click
from click.core import ParameterSource

from toptune.commands.options.answers import THINGS
from toptune.commands.options.common import JSON, SKIP_FAILED, STORE, RunFolder
from toptune.commands.options.help import Command, examples
from toptune.commands.options.only_names import filled_models
from toptune.commands.options.parsing import listed
from toptune.commands.options.printing import show
from toptune.commands.options.training import (
    BUDGET,
    CLASS_WEIGHT,
    COLUMNS_BY_MODEL,
    DATASET,
    DATASET_VERSION,
    FOLDS,
    HEAD_DEVICE,
    KERNEL,
    MEMORY_LIMIT,
    MODELS,
    PARAMS,
    SEED,
    STORED_SPLIT,
    TASK,
)
from toptune.machine.plans import plan_logger
from toptune.train.heads.kinds import KINDS, is_cross_validated
from toptune.train.heads.options import HeadOptions, refuse_with_best, refuse_without_meaning

VERBOSE = click.option(
    "--verbose",
    "-v",
    is_flag=True,
    help="Say before a fit what the solver is going to do, and how much memory it will take.",
)


@click.command(
    cls=Command,
    epilog=examples(
        "toptune train --store features --dataset photos --model resnet50.a1_in1k --out run",
        "toptune train --store features --dataset photos --best --budget 5m --out best-run",
        "toptune train --store features --update run --out newer-run",
    ),
)
@STORE
@DATASET
@MODELS
@DATASET_VERSION
@click.option(
    "--update",
    type=RunFolder(),
    metavar="RUN",
    help="Bring this run up to date with its data set, reading only the images that changed.",
)
@click.option(
    "--forget",
    multiple=True,
    metavar="ID",
    help="With --update, take this image out of the run; @FILE has one id a line.",
)
@click.option(
    "--head",
    default=HeadOptions.head,
    show_default=True,
    help=f"Classifier: {', '.join(KINDS)}, sklearn:package.Class, or auto, which tries several within "
    "--budget.",
)
@click.option(
    "--best",
    is_flag=True,
    help="Compare all that is stored of the data set (models, sets of layers, heads, fusions) by left-out "
    "images within --budget, and train the best.",
)
@BUDGET
@click.option("--out", required=True, type=click.Path(), help="Folder of the run; it must not exist yet.")
@COLUMNS_BY_MODEL
@SEED
@KERNEL
@MEMORY_LIMIT
@FOLDS
@TASK
@STORED_SPLIT
@CLASS_WEIGHT
@THINGS
@PARAMS
@SKIP_FAILED
@click.option(
    "--keep-sums/--no-keep-sums",
    default=True,
    help="Keep in the run what --update needs; by default it is kept where the head has it (falkon, ridge).",
)
@HEAD_DEVICE
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Add up the sums on the workers of a dask scheduler at this address, or of local:N.",
)
@VERBOSE
@JSON
@click.pass_context
def train(ctx: click.Context, /, root: str, as_json: bool, verbose: bool, **options: Any) -> None:
    """Train a classifier on stored features.

    Nothing is extracted again. With --update RUN, the command brings a run up to date with its data set
    instead: new images are added, and images that are gone or to be forgotten are subtracted.
    """
    # An update keeps the settings of the run. Only options that were typed can contradict that; defaults and
    # environment variables do not count.
    given = {name for name in options if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    out = options["out"]
    if "update" in given:
        from toptune.train import update_run

        refuse_options(given - {"update", "forget", "out", "dataset_version", "allow_failed", "device"})
        kept = {name: options[name] for name in ("dataset_version", "allow_failed", "device")}
        with listed(options["forget"], "ids") as ids:
            run = update_run(options["update"], out=out, store=root, forget=ids, **kept)
    else:
        if "forget" in given:
            raise click.UsageError("--forget needs --update RUN")
        # The library cannot tell a typed value from the default of another head.
        if options["best"]:
            refuse_with_best(given)
        refuse_without_meaning(options["head"], given)
        from toptune.train import train as run_training

        for name in ("update", "forget"):
            del options[name]
        verbosity = plans_on_standard_error(logging.DEBUG if verbose else logging.INFO)
        with filled_models(root, options) as filled, verbosity:
            run = run_training(root, **filled)
        from toptune.train.solvers.saved_sums import FILE, KEEPERS

        if "keep_sums" in given and options["keep_sums"] and not (run.folder / FILE).is_file():
            click.echo(f"--keep-sums has no effect: {KEEPERS}", err=True)
        if "cv" in given and options["head"] in KINDS and not is_cross_validated(options["head"]):
            # One command line often serves several heads, so that the option is told and not refused.
            click.echo(f"--cv has no effect: head {options['head']!r} is fitted without folds", err=True)
    show(as_json, run.to_dict(), str(run))


def refuse_options(strange: set[str]) -> None:
    """Refuse training options with --update: the run keeps the values it was trained with."""
    if strange:
        # The parameter of --model has another name, because the option takes several values.
        name = min(strange).replace("models", "model").replace("_", "-")
        raise click.UsageError(f"--{name} has no meaning with --update: it stays as it is in the run")


@contextlib.contextmanager
def plans_on_standard_error(level: int) -> Iterator[None]:
    """Show how the heads do that are tried and, at level DEBUG, what a fit is going to do and to take."""
    # The library logs its plans and leaves the handlers to the program; this command is the program.
    handler = logging.StreamHandler(sys.stderr)
    before = plan_logger.level
    plan_logger.addHandler(handler)
    plan_logger.setLevel(level)
    try:
        yield
    finally:
        plan_logger.removeHandler(handler)
        plan_logger.setLevel(before)
