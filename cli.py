"""The `toptune` command: options become one call, results become text or JSON.

Nothing heavy is imported until a command runs, so that ``toptune --help`` answers at once.
Exit codes: 0 done; 1 failed; 2 wrong usage or bad input; 3 stopped early, the same command resumes;
4 finished, but more pictures failed than ``--max-failures`` allows.
"""

import contextlib
import io
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

STORE = click.option(
    "--store",
    "root",
    required=True,
    envvar="TOPTUNE_STORE",
    metavar="ROOT",
    help="The store's folder.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
DEVICE = click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
YES = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
MAX_FAILURES = click.option(
    "--max-failures",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Unreadable pictures allowed before the exit code is 4.",
)


def parse_object(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, Any] | None:  # noqa: ARG001
    """Parse a JSON object, or say where the text stops being one."""
    if value is None:
        return None
    try:
        parsed = json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise click.BadParameter(f"{value!r} is not a JSON object such as '{{\"depth\": 4}}'")
    return parsed


def parse_floats(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:  # noqa: ARG001
    """Parse one number, or several with commas between them: ``1e-6,1e-4``."""
    if value is None:
        return None
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: {error}; give numbers such as 0.5 or 1e-6,1e-4") from error
    return numbers


def parse_age(ctx: click.Context, param: click.Parameter, value: str | None) -> timedelta | None:  # noqa: ARG001
    """Parse a length of time: ``30d``, ``12h``, ``90m``, ``0s``, ``2w``."""
    if value is None:
        return None
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}.get(value[-1:])
    if unit is None or not value[:-1].isdecimal() or len(value) > 7:
        raise click.BadParameter(f"{value!r} is no length of time; give one such as 30d, 12h or 90m")
    return timedelta(**{unit: int(value[:-1])})


def parse_seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:  # noqa: ARG001
    """Parse a length of time: ``2h``, ``90m``, ``45s``, ``1d``, or seconds."""
    if value is None:
        return None
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(value[-1:])
    try:
        seconds = float(value[:-1]) * unit if unit else float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise click.BadParameter(f"{value!r} is no length of time; give one such as 2h, 90m or 3600")
    return seconds


def parse_bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:  # noqa: ARG001
    """Parse an amount of memory: ``4GiB``, ``512M``."""
    from toptune.train.memory import bytes_of

    return None if value is None else bytes_of(value)


def parse_names(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:  # noqa: ARG001
    """Parse names with commas between them."""
    if value is None:
        return None
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names:
        raise click.BadParameter(f"{value!r} names nothing; give layers such as last,blocks.*")
    return names


def parse_places(ctx: click.Context, param: click.Parameter, value: Sequence[str]) -> dict[str, str]:  # noqa: ARG001
    """Parse places of data sets, ``NAME=PATH`` each."""
    places = {}
    for each in value:
        name, sign, place = each.partition("=")
        if not (name and sign and place):
            raise click.BadParameter(f"{each!r} is not DATASET=PATH, such as pets=photos/pets")
        places[name] = place
    return places


def parse_folds(ctx: click.Context, param: click.Parameter, value: str) -> int | str | None:  # noqa: ARG001
    """Parse a number of folds from 2, ``leave-one-group-out`` or ``none``."""
    if value == "none":
        return None
    if value == "leave-one-group-out":
        return value
    if not value.isdecimal() or int(value) < 2:
        raise click.BadParameter(
            f"{value!r} is no number of folds from 2, and not leave-one-group-out or none"
        )
    return int(value)


def listed(given: Sequence[str], what: str) -> list[str]:
    """Read names: each as it is, or with ``@FILE`` one a line of the file."""
    names: list[str] = []
    for each in given:
        if not each.startswith("@"):
            names.append(each)
            continue
        try:
            lines = Path(each[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{what} cannot be read from {each[1:]}: {error}") from error
        names += filter(None, lines)
    return names


def parse_batch_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:  # noqa: ARG001
    """Parse a number from 1, or ``auto``."""
    if value in (None, "auto"):
        return value
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is no number of pictures from 1, and not auto")
    return int(value)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="toptune")
@click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
def toptune(debug: bool) -> None:
    """Extract a frozen backbone's layers once; train classifiers on them in seconds.

    \b
    toptune demo                                    see it work, nothing to download
    toptune extract photos --model resnet50.a1_in1k --store features
    toptune train --store features --dataset photos --model resnet50.a1_in1k --out run
    toptune predict run new-photos
    """  # noqa: D301


@toptune.command()
@click.argument("data")
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="NAME",
    help="As timm names it: arch.tag, hf-hub:..., local-dir:FOLDER. Several share what is read; @FILE has "
    "one a line.",
)
@STORE
@click.option("--dataset", help="Its name in the store; by default the folder's.")
@click.option("--split", help="Only this split: train, val or test.")
@click.option(
    "--layers", default="last", show_default=True, help="last, all, last n, -1,-2, or module paths and globs."
)
@click.option("--pooling", help="mean, max, cls, gridG, targetT, flatten; by default the family's own.")
@click.option("--weights", type=click.Path(), help="A checkpoint: safetensors, or a torch file without code.")
@click.option(
    "-b",
    "--batch-size",
    callback=parse_batch_size,
    help="Pictures a forward pass (16; 128 on CUDA), or auto: by measuring.",
)
@click.option("-j", "--workers", type=click.IntRange(1), help="Threads that read and decode ahead.")
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="cpu, cuda (all that are visible, a process each), cuda:N, or several with commas.",
)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "auto"]), default="auto", show_default=True)
@click.option("--img-size", type=click.IntRange(1), help="Input size in pixels, in place of the model's own.")
@click.option("--mean", callback=parse_floats, help="Per channel, in place of the model's own.")
@click.option("--std", callback=parse_floats, help="Per channel, in place of the model's own.")
@click.option("--crop-pct", type=float, help="Part of the resized picture kept by the centre crop.")
@click.option("--interpolation", help="bilinear, bicubic, ...; in place of the model's own.")
@click.option("--model-kwargs", callback=parse_object, help="JSON object passed on to timm.create_model.")
@click.option(
    "--fold/--no-fold",
    default=True,
    help="Fold batch norms into convolutions where it is only rounding (default).",
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the forward pass: a minute, then faster.")
@click.option(
    "--decode",
    type=click.Choice(["exact", "draft"]),
    default="exact",
    show_default=True,
    help="draft decodes large JPEGs at a fraction of their size.",
)
@click.option(
    "--shard",
    metavar="I/N|auto[/N]",
    help="Do only part i of n of the units, i from 0; auto, the default in job arrays: as the array says.",
)
@click.option(
    "--time-limit",
    callback=parse_seconds,
    metavar="TIME",
    help="Stop before a unit that would end later: 2h.",
)
@click.option(
    "--grace",
    callback=parse_seconds,
    default="30",
    show_default=True,
    metavar="TIME",
    help="After SIGTERM, SIGINT or SIGUSR1: for the unit at hand, if that is enough.",
)
@click.option("--dtype", type=click.Choice(["auto", "float16", "float32"]), default="auto", show_default=True)
@click.option("--format", type=click.Choice(["zarr", "hdf5"]), help="Of a new cache; by default zarr.")
@click.option("--max-pixels", type=click.IntRange(1), help="Refuse larger pictures (default 178956970).")
@MAX_FAILURES
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--overwrite", is_flag=True, help="Remove what is stored of these layers first.")
@click.option(
    "--update", is_flag=True, help="Make DATA the next version of the data set: only new pictures are run."
)
@click.option("--rehash", is_flag=True, help="Compare the bytes of every picture with what was extracted.")
@click.option("--json-logs", is_flag=True, help="Progress on standard error as JSON, a line a minute.")
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="A dask scheduler's, local:N, slurm, pbs or lsf: its workers compute the units.",
)
@click.option(
    "--dask-options",
    callback=parse_object,
    help="JSON object for slurm, pbs, lsf: dask-jobqueue's, and jobs.",
)
@JSON
def extract(
    data: str,
    models: Sequence[str],
    root: str,
    shard: str | None,
    grace: float,
    json_logs: bool,
    max_failures: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a frozen backbone once over DATA and store its layers.

    DATA is a folder (class/x.jpg, or train|val|test/class/x.jpg), a CSV or Parquet manifest (path,
    label, split), WebDataset shards (a .tar, a folder of them, or a pattern like 'train-{000..099}.tar'),
    a Hugging Face data set (save_to_disk, or Parquet), a zip archive, arrays (.npz, idx, CIFAR), or a
    built-in data set (digits, greek).
    """
    from toptune.extract import extract_models
    from toptune.workflows import choose_shard, extraction_progress, stop_on_signals

    # Workers of a cluster share the units among themselves.
    part, why = (None, "") if options["dask"] and shard is None else choose_shard(shard, os.environ)
    if why:
        click.echo(why, err=True)
    with stop_on_signals(grace) as stop, extraction_progress(json_logs=json_logs) as progress:
        summaries = extract_models(
            data,
            models=listed(models, "models"),
            store=root,
            shard=part,
            stop=stop,
            progress=progress,
            clocks=progress.clocks,
            max_failures=max_failures,
            **options,
        )
    values = [summary.to_dict() for summary in summaries]
    show(as_json, values[0] if len(values) == 1 else {"models": values}, "\n".join(map(str, summaries)))
    report_failures({name: why for each in summaries for name, why in each.failed.items()}, max_failures)


@toptune.command()
@STORE
@click.option("--dataset", help="The data set's name in the store.")
@click.option("--model", help="As given to extract.")
@click.option("--dataset-version", type=click.IntRange(1), help="Of a data set that grew (the latest).")
@click.option(
    "--update",
    type=click.Path(exists=True, file_okay=False),
    metavar="RUN",
    help="Bring this run up to date, reading only the pictures that changed.",
)
@click.option(
    "--forget", multiple=True, metavar="ID", help="With --update: take a picture out; @FILE has one a line."
)
@click.option(
    "--relabel",
    type=click.Path(exists=True, file_okay=False),
    metavar="RUN",
    help="Train for other --labels on this run's pictures, with its Gram matrices.",
)
@click.option("--labels", help="With --relabel: a CSV file (id, label), or a column of the manifest.")
@click.option(
    "--head",
    default="falkon",
    show_default=True,
    help="falkon, falkon-logistic, ridge, logistic, lda, ncm, knn, svm, forest, head2toe, "
    "sklearn:package.Class, or auto, which tries them within --budget.",
)
@click.option(
    "--budget", callback=parse_seconds, metavar="TIME", help="Of head auto's fits: 30, 5m; by default 2m."
)
@click.option("--out", required=True, type=click.Path(), help="The run's folder, made new.")
@click.option("--layers", help="auto (chosen by cross-validation), all, or names and globs; by default last.")
@click.option("--pooling", help="Which pooling, where a layer was stored with several.")
@click.option(
    "--preprocess",
    metavar="STEPS",
    help="With commas, in order: standardise (the default of most heads), l2, power, pca:N, whiten:N, "
    "ternary; or none.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--kernel", default="gaussian", show_default=True, help="gaussian, laplacian, matern12/32/52, linear."
)
@click.option(
    "--penalty", callback=parse_floats, help="One value or a grid; by default selected by cross-validation."
)
@click.option("--sigma", callback=parse_floats, help="Kernel width, one or a grid; by default selected.")
@click.option("--centers", "n_centers", type=click.IntRange(1), default=1000, show_default=True)
@click.option(
    "--solver",
    type=click.Choice(["auto", "direct", "falkon", "falkon-lib"]),
    default="auto",
    show_default=True,
    help="Of head falkon: Gram matrices in one pass, conjugate gradient, the cheaper, or FalkonML.",
)
@click.option(
    "--memory-limit", metavar="SIZE", help="Refuse a projected peak above, e.g. 2GiB (half the machine's)."
)
@click.option(
    "--cv",
    callback=parse_folds,
    default="5",
    show_default=True,
    help="Folds of the selection; leave-one-group-out with --group-by; none with one --penalty and --sigma.",
)
@click.option("--test-fraction", type=float, default=0.2, show_default=True, help="Where DATA had no split.")
@click.option("--resplit", is_flag=True, help="Draw a new split even where DATA had one.")
@click.option("--val", type=click.Choice(["train", "test", "drop"]), default="train", show_default=True)
@click.option(
    "--group-by", help="A manifest column, or a pattern on the id: groups never straddle the split."
)
@click.option("--shots", type=click.IntRange(1), help="Train on so many pictures of each class only.")
@click.option("--train-size", type=click.IntRange(1), help="Train on so many pictures in all, stratified.")
@click.option("--class-weight", type=click.Choice(["balanced"]))
@click.option("--params", callback=parse_object, help="JSON object of the head's own parameters.")
@click.option(
    "--skip-failed", "allow_failed", is_flag=True, help="Leave out pictures that could not be read."
)
@click.option(
    "--keep-sums/--no-keep-sums", default=True, help="Keep what --update needs in the run's folder (default)."
)
@click.option("--device", help="cpu, cuda or cuda:N.")
@click.option(
    "--dask", metavar="ADDRESS", help="A dask scheduler's, or local:N: its workers add up the sums."
)
@JSON
@click.pass_context
def train(ctx: click.Context, /, root: str, as_json: bool, **options: Any) -> None:
    """Train a head on stored features; nothing is extracted again.

    With --update RUN, bring a run up to date with its data set instead: new pictures are added, those that
    are gone or to be forgotten are subtracted. With --relabel RUN, reuse its Gram matrices for other labels.
    """
    from toptune.train import relabel_run, update_run
    from toptune.train import train as run_training

    given = {name for name in options if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    out = options["out"]
    if {"update", "relabel"} <= given:
        raise click.UsageError("--update and --relabel are two things; give one at a time")
    if "update" in given:
        refuse_options(
            given - {"update", "forget", "out", "dataset_version", "allow_failed", "device"}, "update"
        )
        run = update_run(
            options["update"], out=out, store=root, forget=listed(options["forget"], "ids"),
            **{name: options[name] for name in ("dataset_version", "allow_failed", "device")},
        )  # fmt: skip
    elif "relabel" in given:
        refuse_options(given - {"relabel", "labels", "out", "device"}, "relabel")
        if options["labels"] is None:
            raise click.UsageError("--relabel needs --labels: a CSV file, or a column of the manifest")
        run = relabel_run(
            options["relabel"], options["labels"], out=out, store=root, device=options["device"]
        )
    else:
        for name, needed in (("forget", "update"), ("labels", "relabel")):
            if name in given:
                raise click.UsageError(f"--{name} needs --{needed} RUN")
        if missing := [f"--{name}" for name in ("dataset", "model") if options[name] is None]:
            raise click.MissingParameter(param_hint=missing, param_type="option", ctx=ctx)
        for name in ("update", "relabel", "forget", "labels"):
            del options[name]
        with plans_on_standard_error():
            run = run_training(root, **options)
    show(as_json, run.to_dict(), str(run))


# What a layer search and a comparison take as training does.
OF_TRAINING = (
    *("dataset_version", "layers", "pooling", "preprocess", "memory_limit", "cv", "test_fraction", "resplit"),
    *("val", "group_by", "shots", "train_size", "class_weight", "allow_failed", "device"),
)


@toptune.command("layers-report")
@STORE
@click.option("--dataset", required=True, help="The data set's name in the store.")
@click.option("--model", required=True, help="As given to extract.")
@click.option("--out", required=True, type=click.Path(), help="Folder for table and picture, made new.")
@click.option(
    "--head",
    type=click.Choice(["falkon", "falkon-logistic"]),
    default="falkon",
    show_default=True,
    help="Decides among the short list.",
)
@click.option("--params", callback=parse_object, help="JSON object of the head's own parameters.")
@click.option(
    "--short-list",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Subsets that the head checks; 0: ridge decides.",
)
@click.option(
    "--search-rows",
    type=click.IntRange(2),
    default=2000,
    show_default=True,
    help="Training pictures compared on, where all layers have too many columns to take all.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@JSON
def layers_report(root: str, as_json: bool, **options: Any) -> None:
    """Say and draw how well each stored layer and pooling does, and which to train on.

    By cross-validation on the training pictures: each layer alone, cumulative from either end, greedily
    chosen. Takes the options of train that say which pictures those are.
    """
    from toptune.train import report_layers

    report = report_layers(root, **options)
    show(as_json, report.to_dict(), str(report))


@toptune.command()
@STORE
@click.option("--dataset", required=True, help="The data set's name in the store.")
@click.option("--model", required=True, help="As given to extract.")
@click.option("--heads", required=True, callback=parse_names, help="As of train, with commas.")
@click.option("--out", required=True, type=click.Path(), help="Folder for tables and runs; resumes.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Runs of each head.")
@click.option("--leak", is_flag=True, help="With --group-by: how much splits without groups overstate.")
@click.option(
    "--params", callback=parse_object, help="JSON object of parameters by head: '{\"knn\": {...}}'."
)
@JSON
def compare(root: str, as_json: bool, **options: Any) -> None:
    """Train several heads on repeated splits or samples: means, intervals, paired tests.

    Takes the options of train that say which pictures are trained and tested on.
    """
    from toptune.train import compare_heads
    from toptune.workflows import work_progress

    with work_progress("comparing") as progress:
        comparison = compare_heads(root, progress=progress, **options)
    show(as_json, comparison.to_dict(), str(comparison))


for _command, _names in ((layers_report, OF_TRAINING), (compare, (*OF_TRAINING, "budget"))):
    _command.params += [option for option in train.params if option.name in _names]


def refuse_options(strange: set[str], action: str) -> None:
    """Refuse options of a plain training where a run is changed: what they say stays as it is in the run."""
    if strange:
        name = min(strange).replace("_", "-")
        raise click.UsageError(f"--{name} has no meaning with --{action}: it stays as it is in the run")


@toptune.command()
@click.argument("data")
@click.option("--model", required=True, metavar="NAME", help="As for extract; pretrained.")
@click.option("--out", required=True, type=click.Path(), help="The run's folder; OUT.unfinished until then.")
@click.option("--weights", type=click.Path(), help="A checkpoint: safetensors, or a torch file without code.")
@click.option("--img-size", type=click.IntRange(1), help="Input size in pixels, in place of the model's own.")
@click.option("--model-kwargs", callback=parse_object, help="JSON object passed on to timm.create_model.")
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
    help="Pictures a step, at most.",
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
@click.option("--test-fraction", type=float, default=0.2, show_default=True, help="Where DATA has no split.")
@click.option("--resplit", is_flag=True, help="Draw a new split even where DATA has one.")
@click.option(
    "--val",
    type=click.Choice(["train", "test", "drop"]),
    default="train",
    show_default=True,
    help="What rows of a split val do.",
)
@click.option("--group-by", help="A manifest column, or a pattern on the id: groups stay on one side.")
@click.option("--shots", type=click.IntRange(1), help="Train on so many pictures of each class only.")
@click.option("--train-size", type=click.IntRange(1), help="Train on so many pictures in all, stratified.")
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
    help="Of decoded pictures.",
)
@click.option(
    "--skip-failed", "allow_failed", is_flag=True, help="Leave out pictures that could not be read."
)
@click.option(
    "--max-failures", type=click.IntRange(0), default=0, show_default=True, help="Leave out at most so many."
)
@click.option(
    "--time-limit",
    callback=parse_seconds,
    metavar="TIME",
    help="Stop before an epoch that would end later: 2h.",
)
@click.option(
    "--grace",
    callback=parse_seconds,
    default="30",
    show_default=True,
    metavar="TIME",
    help="After SIGTERM, SIGINT or SIGUSR1: for the epoch at hand, if that is enough.",
)
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
    with stop_on_signals(grace) as stop, finetune_progress() as progress:
        run = run_finetuning(
            data, model=model, out=out, stop=stop, progress=progress, time_limit=time_limit, **options
        )
    show(as_json, run.to_dict(), str(run))


@toptune.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.option("--store", help="Another store than the one trained from.")
@click.option("--dataset", help="Another data set; all its labelled rows are scored.")
@click.option("--split", type=click.Choice(["test", "train", "all"]), help="Of the run's rows; default test.")
@click.option("--data", help="Pictures with labels, read directly; no store is needed.")
@click.option("--model", help="With --data: where the backbone is now, if it has moved (local-dir:FOLDER).")
@click.option("--weights", type=click.Path(), help="With --data: where the checkpoint is now.")
@DEVICE
@JSON
def evaluate(run: str, as_json: bool, **options: Any) -> None:
    """Score a RUN: on its own test rows, another stored data set, or pictures."""
    from toptune.workflows import describe_metrics
    from toptune.workflows import evaluate as run_evaluation

    metrics = run_evaluation(run, **options)
    show(as_json, metrics, describe_metrics(metrics))


@toptune.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option("--probabilities", is_flag=True, help="One more column a class.")
@click.option("-b", "--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--model", help="Where the backbone is now, if it has moved (local-dir:FOLDER).")
@click.option("--weights", type=click.Path(), help="Where the checkpoint is now, if it has moved.")
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
    """Classify pictures, or folders of pictures, with a RUN and its backbone."""
    from toptune.workflows import Classifier, write_predictions

    batch_size = options.pop("batch_size")
    classifier = Classifier.load(run, **options)
    predictions = classifier.predict(paths, batch_size=batch_size)
    if as_json:
        rows = [prediction.to_dict(probabilities=probabilities) for prediction in predictions]
        show(True, {"classes": classifier.classes, "predictions": rows}, "")
    else:
        columns = classifier.classes if probabilities else []
        write_predictions(predictions, sys.stdout, form=form, columns=columns)
    report_failures({p.path: p.error for p in predictions if p.error}, max_failures)


@toptune.command("export")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.option("--out", "-o", required=True, type=click.Path(), help="FILE.onnx or FILE.pt2, made new.")
@click.option(
    "--check", metavar="DATA", help="Pictures to compare with predict on; by default built-in digits."
)
@click.option("--normalize", is_flag=True, help="Take RGB values from 0 to 1 and normalise inside the file.")
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
@click.option("--model", help="Where the backbone is now, if it has moved (local-dir:FOLDER).")
@click.option("--weights", type=click.Path(), help="Where the checkpoint is now, if it has moved.")
@JSON
def export_run(run: str, out: str, as_json: bool, **options: Any) -> None:
    """Write a RUN and its backbone as one ONNX or .pt2 file, compared with predict, and a model card."""
    from toptune.workflows import export

    report = export(run, out, **options)
    show(as_json, report.to_dict(), str(report))


@toptune.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--out", "-o", required=True, type=click.Path(), help="The page's file, such as report.html.")
@click.option(
    "--data",
    multiple=True,
    metavar="DATASET=PATH",
    callback=parse_places,
    help="Where a data set's pictures are, for thumbnails of mistakes; may be given several times.",
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


@toptune.command()
@click.argument("model")
@click.option("--weights", type=click.Path())
@click.option("--img-size", type=click.IntRange(1))
@click.option("--model-kwargs", callback=parse_object)
@JSON
def layers(model: str, as_json: bool, **options: Any) -> None:
    """List a MODEL's layers with shapes, poolings and bytes per picture."""
    from toptune.extract import list_taps

    taps = list_taps(model, **options)
    rows = [tap.to_dict() for tap in taps]
    show(as_json, {"model": model, "layers": rows}, table(rows))


@toptune.command()
@click.argument("pattern", default="*")
@JSON
def models(pattern: str, as_json: bool) -> None:
    """List backbones with pretrained weights, the embedded one first."""
    from toptune.extract import list_models

    names = list_models(pattern)
    if not names:
        raise click.UsageError(
            f"no model with pretrained weights matches {pattern!r}; try '*{pattern.strip('*')}*'"
        )
    show(as_json, {"pattern": pattern, "models": names}, "\n".join(names))


@toptune.command()
@click.option("--out", default="toptune-demo", show_default=True, type=click.Path())
@JSON
def demo(out: str, as_json: bool) -> None:
    """Extract, train and predict on handwritten digits with the embedded backbone."""
    from toptune.workflows import demo as run_demo

    report = run_demo(out, report=lambda command: click.echo(f"$ {command}", err=True))
    show(as_json, report.to_dict(), str(report))


@toptune.command()
@click.argument("study_file", metavar="STUDY.yaml", type=click.Path(exists=True, dir_okay=False))
@click.option("--dask", metavar="ADDRESS", help="Scheduler whose workers train the cells, or local:N.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and the time it takes where known.")
@JSON
def study(study_file: str, dask: str | None, dry_run: bool, as_json: bool) -> None:
    """Train the cross product of data sets, backbones, layers, heads, sizes and seeds of a file.

    Finished trainings are not repeated; results.csv and results.parquet in the study's folder have one row
    each.
    """
    from toptune.workflows import plan_study, run_study, work_progress

    if dry_run:
        plan = plan_study(study_file)
        show(as_json, plan.to_dict(), str(plan))
        return
    with work_progress("trainings") as progress:
        report = run_study(
            study_file, dask=dask, progress=progress, notify=lambda line: click.echo(line, err=True)
        )
    lines = [table(report.summary)] if report.summary else []
    lines.append(f"{report.trained} trained, {report.done_before} were there; {report.out}")
    lines += [f"failed: {cell}: {reason}" for cell, reason in report.failed.items()]
    show(as_json, report.to_dict(), "\n".join(lines))
    if report.failed:
        raise SystemExit(1)


@toptune.group()
def jobs() -> None:
    """Write, and submit, scripts for a cluster's batch system."""


@jobs.command("slurm")
@click.option(
    "--out", default="toptune-jobs", show_default=True, type=click.Path(), help="Scripts, logs, run."
)
@click.option("--jobs", "n_jobs", type=click.IntRange(1), help="Tasks of the array; by default by --time.")
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
    n_jobs: int | None,
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
    from toptune.workflows import check_sbatch, submit_slurm_jobs, write_slurm_jobs

    if len(models) > 1:
        raise click.UsageError(f"{len(models)} models are given; write the jobs of each by itself")
    (model,) = models
    if submit:
        check_sbatch()
    words = shlex.split(training)
    if not no_train:
        fixed = ["--store", root, "--dataset", "x", "--model", model, "--out", "x"]
        train.make_context("train", [*fixed, *words], parent=ctx)
    own = {name: options.pop(name) for name in SLURM_OPTIONS}
    done = write_slurm_jobs(
        data,
        model=model,
        store=root,
        options=options,
        jobs=n_jobs,
        train_arguments=None if no_train else words,
        **own,
    )
    done = submit_slurm_jobs(done) if submit else done
    show(as_json, done.to_dict(), str(done))


SLURM_OPTIONS = (
    "out",
    "train_seconds",
    "time_seconds",
    "memory_bytes",
    "partition",
    "cpus",
    "gpus",
    "sbatch",
    "images_per_second",
)
# What jobs decide, and what an array must not do.
NOT_IN_JOBS = ("shard", "time_limit", "grace", "json_logs", "dry_run", "overwrite", "dask")
jobs_slurm.params += [option for option in extract.params if option.name not in NOT_IN_JOBS]


@toptune.command()
@JSON
def doctor(as_json: bool) -> None:
    """Say what this machine offers: versions, devices, precision, caches."""
    from toptune.workflows import examine_machine

    facts = examine_machine()
    show(as_json, facts, "\n".join(f"{key:<22} {value}" for key, value in facts.items()))


@toptune.group()
def store() -> None:
    """Look into a feature store, and keep it in order."""


@store.command("ls")
@STORE
@JSON
def store_ls(root: str, as_json: bool) -> None:
    """List the caches: size, rows, layers, complete or not, who, when."""
    from toptune.store import FeatureStore, summarize

    rows = [summary.to_dict() for summary in summarize(FeatureStore.open(root))]
    show(as_json, {"caches": rows}, table(rows) if rows else f"no caches in {root}")


@store.command("show")
@STORE
@click.option("--model", help="Only this model's cache; needs --dataset.")
@click.option("--dataset", help="Only caches of this data set.")
@JSON
def store_show(root: str, model: str | None, dataset: str | None, as_json: bool) -> None:
    """Show what decides a cache's numbers, and why two caches differ."""
    from toptune.store import FeatureStore, describe, stored_features

    opened = FeatureStore.open(root)
    if model and not dataset:
        raise click.UsageError("--model needs --dataset: say over which data set")
    if dataset:
        opened.manifest(dataset)  # says which data sets there are, if it is none of them
    found = stored_features(opened, dataset=dataset)
    if model and dataset:
        found = [opened.features(model, dataset)]
    shown = [describe(opened, each) for each in found]
    show(as_json, {"caches": shown}, json.dumps(shown, indent=2, ensure_ascii=False))


@store.command("verify")
@STORE
@click.option("--deep", is_flag=True, help="Read every byte against its checksum.")
@JSON
def store_verify(root: str, deep: bool, as_json: bool) -> None:
    """Check the store: 0 clean, 1 damaged, 3 incomplete, 2 no such store."""
    from toptune.store import FeatureStore, verify

    report = verify(FeatureStore.open(root), deep=deep)
    show(as_json, report.to_dict(), str(report))
    raise SystemExit(report.exit_code)


@store.command("repair")
@STORE
@JSON
def store_repair(root: str, as_json: bool) -> None:
    """Take out what verify --deep finds damaged; the same extract then restores exactly that."""
    from toptune.store import repair

    report = repair(root)
    show(as_json, report.to_dict(), str(report))
    raise SystemExit(report.exit_code)


@store.command("rm")
@STORE
@click.option("--dataset", required=True, help="Without --model the data set goes with all its features.")
@click.option("--model", help="Only this model's cache.")
@click.option("--layers", callback=parse_names, help="Only these arrays of it: layers and globs with commas.")
@YES
@JSON
def store_rm(root: str, yes: bool, as_json: bool, **options: Any) -> None:
    """Remove a data set, a cache, or layers of it; asks first."""
    from toptune.store import FeatureStore, plan_removal, remove

    opened = FeatureStore.open(root)
    removal = plan_removal(opened, **options)
    ask(f"remove {removal}?", yes)
    remove(opened, removal)
    show(as_json, removal.to_dict(), f"removed {removal}")


@store.command("gc")
@STORE
@click.option("--older-than", callback=parse_age, help="Evict caches last used longer ago, as 30d or 12h.")
@click.option("--keep", type=click.IntRange(0), help="Spare the N caches used last; evict others.")
@click.option(
    "--grace",
    callback=parse_age,
    default="1h",
    show_default=True,
    help="Spare younger leftovers: they may be a writer's at work.",
)
@click.option("--dry-run", is_flag=True, help="List what would go, and remove nothing.")
@YES
@JSON
def store_gc(root: str, dry_run: bool, yes: bool, as_json: bool, **options: Any) -> None:
    """Collect leftovers of writers that died; evict caches by last use if told to. Asks first."""
    from toptune.store import FeatureStore, collect_garbage, find_garbage

    opened = FeatureStore.open(root)
    items = find_garbage(opened, **options)
    rows = [item.to_dict() for item in items]
    n_bytes = sum(item.n_bytes for item in items)
    lines = [f"{item.path}: {item.reason}, {item.n_bytes} bytes" for item in items]
    if items and not dry_run:
        ask("\n".join([*lines, f"remove these {len(items)} ({n_bytes} bytes)?"]), yes)
        collect_garbage(opened, items)
    verb = "would be" if dry_run else "were"
    text = "\n".join([*lines, f"{len(items)} things, {n_bytes} bytes {verb} removed"])
    show(
        as_json,
        {"removed": rows, "n_bytes": n_bytes, "dry_run": dry_run},
        text if items else "nothing to collect",
    )


@store.command("copy")
@click.argument("source")
@click.argument("target")
@click.option("--dataset", help="Only this data set.")
@click.option("--model", help="Only this model's cache; needs --dataset.")
@click.option("--layers", callback=parse_names, help="Only these arrays: layers and globs with commas.")
@click.option("--format", type=click.Choice(["zarr", "hdf5"]), help="Of the copies; by default as they are.")
@click.option("--move", is_flag=True, help="Remove the source's caches once the copy is verified.")
@JSON
def store_copy(source: str, target: str, as_json: bool, **options: Any) -> None:
    """Copy or move features from store SOURCE to store TARGET, verified; resumes."""
    from toptune.store import FeatureStore, copy_store
    from toptune.workflows import work_progress

    with work_progress("copying") as progress:
        report = copy_store(FeatureStore.open(source), target, progress=progress, **options)
    show(as_json, report.to_dict(), str(report))


@store.command("export")
@STORE
@click.option("--dataset", required=True)
@click.option("--model", required=True, help="As given to extract.")
@click.option("--layers", help="all, or stored layers and globs with commas; by default last.")
@click.option("--pooling", help="Which pooling, where a layer was stored with several.")
@click.option("--split", help="Only rows of this split.")
@click.option(
    "--format", type=click.Choice(["npy", "parquet", "safetensors"]), default="npy", show_default=True
)
@click.option("--out", "-o", required=True, type=click.Path(), help="Made new: a folder (npy) or a file.")
@JSON
def store_export(root: str, as_json: bool, **options: Any) -> None:
    """Write features with ids and labels as files that other programs read."""
    from toptune.workflows import export_stored, work_progress

    with work_progress("exporting") as progress:
        done = export_stored(root, progress=progress, **options)
    text = (
        f"{done['rows']} rows of {', '.join(done['arrays'])} in {done['out']}, "
        f"by buffers of at most {done['memory_bytes'] / 2**20:.1f} MiB"
    )
    if done["failed"]:
        text += f"; {len(done['failed'])} pictures had failed, their rows are NaN"
    show(as_json, done, text)


@store.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path())
@STORE
@click.option("--dataset", required=True, help="Its name in the store.")
@click.option("--model", required=True, help="A name for what made the features.")
@click.option("--table", type=click.Path(), help="CSV or Parquet: columns id, label, split, a line a row.")
@click.option("--ids", help="An array in FILES, or a .txt, .npy or one-column file.")
@click.option("--labels", help="An array in FILES, or a .txt, .npy or one-column file.")
@click.option("--splits", help="An array in FILES, or a .txt, .npy or one-column file.")
@click.option("--arrays", callback=parse_names, help="Only these matrices of FILES; by default all.")
@click.option("--layers", callback=parse_names, help="Names of their layers; by default the arrays' own.")
@click.option("--format", type=click.Choice(["zarr", "hdf5"]), default="zarr", show_default=True)
@click.option("--skip-failed", "allow_failed", is_flag=True, help="Store rows with NaN as failed.")
@JSON
def store_import(files: tuple[str, ...], root: str, as_json: bool, **options: Any) -> None:
    """Make features from elsewhere (.npy, .npz, .h5, .safetensors, .parquet, .pt) a data set of the store."""
    from toptune.store import describe
    from toptune.store.feature_store import FeatureStore
    from toptune.workflows import import_files, work_progress

    with work_progress("importing") as progress:
        cache = import_files(files, root, progress=progress, **options)
    text = f"{cache.n_rows} rows in {cache.path}; train with --model {cache.model} --layers all"
    show(as_json, describe(FeatureStore.open(root), cache), text)


@store.command("migrate")
@STORE
@JSON
def store_migrate(root: str, as_json: bool) -> None:
    """Make a store of an older version the current one, in place."""
    from toptune.store import FeatureStore

    before = FeatureStore.open(root).migrate()
    show(as_json, {"version_before": before}, f"was version {before}, is the current one now")


@store.command("du")
@STORE
@JSON
def store_du(root: str, as_json: bool) -> None:
    """Say how many bytes each cache, array and its bookkeeping take."""
    from toptune.store import FeatureStore, measure

    usages = [usage.to_dict() for usage in measure(FeatureStore.open(root))]
    total = sum(usage["n_bytes"] for usage in usages)
    show(as_json, {"usage": usages, "n_bytes": total}, f"{table(usages)}\n{total} bytes in all")


def ask(question: str, yes: bool) -> None:
    """Ask on standard error, unless it was answered with --yes; a no stops the command with exit code 3."""
    if not yes:
        click.confirm(question, abort=True, err=True)


@contextlib.contextmanager
def plans_on_standard_error() -> Iterator[None]:
    """Show what a fit is going to do, and what memory it will take, before it does it."""
    logger, handler = logging.getLogger("toptune.train.plan"), logging.StreamHandler(sys.stderr)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def show(as_json: bool, payload: Mapping[str, Any], text: str) -> None:
    """Print one JSON object, or text for people."""
    click.echo(json.dumps(payload, ensure_ascii=False) if as_json else text)


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Align rows with the same keys under their names."""
    rows = list(rows)
    cells = [[str(key) for key in rows[0]], *([cell_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def cell_text(value: Any) -> str:
    """Write lists with spaces and everything else as it is."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def report_failures(failed: Mapping[str, str | None], allowed: int) -> None:
    """Name the pictures that failed on standard error; exit 4 when they are too many."""
    for name, reason in list(failed.items())[:20]:
        click.echo(f"failed: {name}: {reason}", err=True)
    if len(failed) > 20:
        click.echo(f"... and {len(failed) - 20} more", err=True)
    if len(failed) > allowed:
        click.echo(f"{len(failed)} pictures failed; --max-failures allows {allowed}", err=True)
        raise SystemExit(4)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; every failure is one message and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # OpenMP's threads spin while they wait. Where jobs share the cores they then wait for each other:
    # three trainings at once on two cores took 26 s each, and 8 s with threads that sleep.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A name that the terminal cannot show is shown with escapes, and stops nothing.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # A job scheduler's signals stop the work as Ctrl-C does: cleanly, and to be resumed.
    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        code = run(arguments)
    except KeyboardInterrupt:
        # Another signal, while it was being said that one had come.
        code = 3
    raise SystemExit(code)


RESUMING = {"extract", "finetune", "import", "copy", "compare", "study"}


def run(arguments: list[str]) -> int:
    """Carry out one command; return its exit code."""
    try:
        toptune.main(arguments, prog_name="toptune", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return say_in_json(error.format_message(), error.exit_code, arguments)
    except (KeyboardInterrupt, click.Abort):
        resumes = "; the same command resumes" if RESUMING & {*arguments[:3]} else ""
        return fail(f"stopped{resumes}", 3, arguments)
    except Exception as error:
        if "--debug" in arguments:
            raise
        return fail(*explain(error), arguments)
    return 0


def explain(error: Exception) -> tuple[str, int]:
    """Give the message and the exit code of a failure."""
    from toptune.store.errors import ToptuneError

    if isinstance(error, ToptuneError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1
    name = type(error).__name__
    return (
        f"{name}: {error}\nA fault in toptune or around it; toptune --debug COMMAND shows where.",
        1,
    )


def fail(message: str, code: int, arguments: list[str]) -> int:
    """Say what went wrong, on standard error and, with ``--json``, as the one JSON object."""
    click.echo(f"error: {message}", err=True)
    return say_in_json(message, code, arguments)


def say_in_json(message: str, code: int, arguments: list[str]) -> int:
    """Print an error as the one JSON object, if that was asked for; return its exit code."""
    if "--json" in arguments:
        click.echo(json.dumps({"error": message, "exit_code": code}))
    return code


if __name__ == "__main__":
    main()
