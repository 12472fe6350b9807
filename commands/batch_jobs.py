"""`toptune jobs` writes scripts for a cluster's batch system."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import click
from click.core import ParameterSource

from toptune.commands.data.extraction import extract
from toptune.commands.options.help import Command, Group
from toptune.commands.options.parsing import listed, parse_bytes, parse_seconds
from toptune.commands.options.printing import show
from toptune.commands.runs.training import train
from toptune.train.rows.options import RowOptions

# Jobs decide some options of extract themselves. Others must not stand in an array: --overwrite would let
# each task remove what the others have stored, and --dask shares out the units a second time.
NOT_IN_JOBS = (
    "shard", "time_limit", "grace", "json_logs", "is_profiled", "dry_run", "overwrite", "dask", "ignore",
)  # fmt: skip


@click.command("slurm", cls=Command)
@click.option(
    "--out",
    default="toptune-jobs",
    show_default=True,
    type=click.Path(),
    help="Folder for the scripts, the logs and the run.",
)
@click.option(
    "--jobs",
    "jobs",
    type=click.IntRange(1),
    help="Number of tasks of the array; by default as many as --time asks for.",
)
@click.option(
    "--time",
    "time_seconds",
    callback=parse_seconds,
    help="Time of each task, such as 2h or 90m; by default worked out from the plan, or 1h.",
)
@click.option(
    "--mem",
    "memory_bytes",
    callback=parse_bytes,
    help="Memory of each task, such as 8G; by default worked out from the plan.",
)
@click.option("--partition", help="Slurm partition.")
@click.option("--cpus", type=click.IntRange(1), default=4, show_default=True, help="Cores of each task.")
@click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="GPUs of each task.")
@click.option(
    "--sbatch",
    multiple=True,
    metavar="OPTION",
    help="One more option of sbatch, such as --account=vision; may be given several times.",
)
@click.option(
    "--images-per-second",
    type=float,
    help="Images that one task extracts in a second; by default measured here on a sample.",
)
@click.option(
    "--train",
    "training",
    default="",
    metavar="OPTIONS",
    help="Options of toptune train, such as '--head ridge'.",
)
@click.option(
    "--train-time",
    "train_seconds",
    callback=parse_seconds,
    default="1h",
    show_default=True,
    help="Time of the training job.",
)
@click.option("--no-train", is_flag=True, help="Write scripts for the extraction only.")
@click.option("--submit", is_flag=True, help="Submit the scripts that were written.")
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
    """Write Slurm scripts that extract DATA and then train.

    An array job extracts, and a job after it checks the store and trains. The command takes the options of
    extract that make sense in a job; --train has the options of training. Several --model are extracted by
    the same tasks and share the run, as --fusion in --train says. Sizes follow from the plan, which
    is printed. Nothing is submitted without --submit.
    """
    from toptune.options import option_names, options_of
    from toptune.workflows import SlurmOptions, check_sbatch, submit_slurm_jobs, write_slurm_jobs

    # Timing the extraction takes a while; a machine without sbatch is refused before that.
    if submit:
        check_sbatch()
    words = shlex.split(training)
    if no_train and words:
        raise click.UsageError(f"--train {training!r} has no meaning with --no-train; leave one of both out")
    own = {name: options.pop(name) for name in option_names(SlurmOptions) if name in options}
    own["train_arguments"] = None if no_train else words
    options_of(SlurmOptions, own, call="slurm")  # What the jobs decide is refused before it is parsed.
    with listed(models, "models") as names:
        if not no_train:
            # The arguments go through the parser of `toptune train` now, and files of decisions are read now,
            # or an error would show only on the cluster, after the extraction.
            of_models = [word for name in names for word in ("--model", name)]
            fixed = ["--store", root, "--dataset", "x", *of_models, "--out", "x"]
            rows = _check_training(train.make_context("train", [*fixed, *words], parent=ctx), names)
            _check_decisions(rows, data, options)
        done = write_slurm_jobs(data, models=names, store=root, options=options, **own)
    done = submit_slurm_jobs(done) if submit else done
    show(as_json, done.to_dict(), str(done))


def _check_training(asked: click.Context, models: Sequence[str]) -> RowOptions:
    """Refuse options of a training that only the training job would refuse, and return those of its rows."""
    from toptune.options import option_names, options_of
    from toptune.store.arrays.stored_layers import refuse_words_of_extract
    from toptune.train.heads.options import refuse_without_meaning
    from toptune.train.runs.options import TrainOptions
    from toptune.train.runs.training import check_head_options

    given = {name: asked.params[name] for name in option_names(TrainOptions)}
    options = options_of(TrainOptions, given, call="train")
    typed = [name for name in given if asked.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    refuse_without_meaning(options.head.head, typed)
    check_head_options(options)
    _ = options.rows.decisions  # This reads the files of decisions.
    for model in options.check_models(None, models):
        layers = options.for_model(model).layers
        refuse_words_of_extract(layers.split(",") if isinstance(layers, str) else ())
    return options.rows


def _check_decisions(rows: RowOptions, data: str, given: Mapping[str, Any]) -> None:
    """Refuse decisions about images that DATA does not have, and labels that none of its images has."""
    from toptune.extract import open_source
    from toptune.train.tasks.choice import told_task

    # With --update the images of earlier versions count, too, which the training job knows.
    if not rows.decisions.files or given.get("update"):
        return
    columns = {name: given.get(name) for name in ("split", "path_column", "label_column")}
    manifest = open_source(data, **columns).manifest()
    found = replace(rows, task=told_task(rows.task, rows.wanted, manifest)).reading(None)
    if found["label_column"] is not None:
        manifest = manifest.relabeled(found["label_column"])
    elif found["relabel"] is not None:
        manifest = found["relabel"](manifest)
    rows.decisions.check(manifest)


# The options of extract are taken over as they are, so that a new one is an option of jobs too.
jobs_slurm.params += [option for option in extract.params if option.name not in NOT_IN_JOBS]


@click.group(cls=Group, sections={"Commands": [jobs_slurm]})
def jobs() -> None:
    """Write and submit scripts for a batch system."""
