"""`toptune jobs`: scripts for a cluster's batch system."""

import shlex
from collections.abc import Sequence
from typing import Any

import click

from toptune.commands.data.extraction import extract
from toptune.commands.options.parsing import parse_bytes, parse_seconds
from toptune.commands.options.printing import show
from toptune.commands.runs.training import train

# Options of extract that the jobs decide, or that an array must not have.
NOT_IN_JOBS = ("shard", "time_limit", "grace", "json_logs", "dry_run", "overwrite", "dask")


@click.command("slurm")
@click.option(
    "--out", default="toptune-jobs", show_default=True, type=click.Path(), help="Scripts, logs, run."
)
@click.option("--jobs", "jobs", type=click.IntRange(1), help="Tasks of the array; by default by --time.")
@click.option(
    "--time",
    "time_seconds",
    callback=parse_seconds,
    help="Of each task: 2h, 90m; by default worked out, or 1h.",
)
@click.option(
    "--mem", "memory_bytes", callback=parse_bytes, help="Of each task, as 8G; by default worked out."
)
@click.option("--partition", help="Slurm's.")
@click.option("--cpus", type=click.IntRange(1), default=4, show_default=True, help="Of each task.")
@click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="Of each task.")
@click.option("--sbatch", multiple=True, metavar="OPTION", help="One more of sbatch: --account=vision.")
@click.option("--images-per-second", type=float, help="Of one task; by default measured here on a sample.")
@click.option("--train", "training", default="", metavar="OPTIONS", help="Of toptune train: '--head ridge'.")
@click.option(
    "--train-time",
    "train_seconds",
    callback=parse_seconds,
    default="1h",
    show_default=True,
    help="That training asks for.",
)
@click.option("--no-train", is_flag=True, help="Only the extraction.")
@click.option("--submit", is_flag=True, help="Submit what was written.")
@click.pass_context
def jobs_slurm(
    ctx: click.Context,
    /,
    data: str,
    models: Sequence[str],
    root: str,
    training: str,
    no_train: bool,
    submit: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write an array job that extracts DATA, and a job that checks the store and trains.

    Takes every option of extract that can be one of a job's, and for training --train. Sizes follow from the
    plan, which is printed. Nothing is submitted without --submit.
    """
    from toptune.options import option_names
    from toptune.workflows import SlurmOptions, check_sbatch, submit_slurm_jobs, write_slurm_jobs

    if len(models) > 1:
        raise click.UsageError(f"{len(models)} models are given; write the jobs of each by itself")
    (model,) = models
    if submit:
        check_sbatch()
    words = shlex.split(training)
    if not no_train:
        fixed = ["--store", root, "--dataset", "x", "--model", model, "--out", "x"]
        train.make_context("train", [*fixed, *words], parent=ctx)
    own = {name: options.pop(name) for name in option_names(SlurmOptions) if name in options}
    own["train_arguments"] = None if no_train else words
    done = write_slurm_jobs(data, model=model, store=root, options=options, **own)
    done = submit_slurm_jobs(done) if submit else done
    show(as_json, done.to_dict(), str(done))


jobs_slurm.params += [option for option in extract.params if option.name not in NOT_IN_JOBS]


@click.group(commands=[jobs_slurm])
def jobs() -> None:
    """Write, and submit, scripts for a cluster's batch system."""
