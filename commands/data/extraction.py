"""`toptune extract` turns images into features in a store."""

import os
from collections.abc import Sequence
from typing import Any

import click

from toptune.commands.options.common import (
    IMG_SIZE,
    JSON,
    MAX_FAILURES,
    MODEL_KWARGS,
    OWN_COLUMNS,
    STORE,
    WEIGHTS,
    stop_options,
)
from toptune.commands.options.help import Choice, Command, examples
from toptune.commands.options.parsing import (
    listed,
    parse_bands,
    parse_batch_size,
    parse_floats,
    parse_object,
)
from toptune.commands.options.printing import echo, report_failures, show
from toptune.machine.devices import AUTO


@click.command(
    cls=Command,
    epilog=examples(
        "toptune extract photos --model resnet50.a1_in1k --store features",
        "toptune extract digits --model random:test_vit --store features --layers all",
    ),
)
@click.argument("data")
@click.option(
    "--model",
    "models",
    multiple=True,
    required=True,
    metavar="NAME",
    help="Backbone as timm names it: arch.tag, hf-hub:..., local-dir:FOLDER; or a network of another "
    "library: torchvision:NAME, transformers:NAME, open_clip:ARCH/TAG; or code that makes one and is run: "
    "torchhub:FOLDER/ENTRY, custom:package.module:function. The option may be given several times, for "
    "models that share what is read; @FILE has one model a line.",
)
@STORE
@click.option("--dataset", help="Name of DATA in the store; by default the name of its folder.")
@click.option("--split", help="Extract only this split: train, val or test.")
@OWN_COLUMNS
@click.option(
    "--layers",
    help="Layers to store: upper (four blocks of the upper half, and last), last, all, a number of last "
    "blocks, -1,-2, or module paths and globs; by default upper, or those that the features were begun with.",
)
@click.option(
    "--pooling",
    help="Pooling: mean, max, cls, gridG, targetT or flatten; by default the one of the model's family, and "
    "those of upper.",
)
@WEIGHTS
@click.option(
    "-b",
    "--batch-size",
    callback=parse_batch_size,
    help="Images in a forward pass, or auto to find the fastest number; by default 16, on CUDA 128 "
    "or what its memory holds.",
)
@click.option(
    "-j",
    "--workers",
    type=click.IntRange(1),
    help="Threads that read and decode images ahead; by default one a core, at most 32.",
)
@click.option(
    "--device",
    default=AUTO,
    show_default=True,
    help="Compute on cpu, cuda (with dask all visible GPUs, a process each), cuda:N, several with commas, or "
    "mps; auto is cuda where there is one, else mps, else cpu.",
)
@click.option(
    "--precision",
    type=Choice(["fp32", "bf16", "fp16", "auto"]),
    default="auto",
    show_default=True,
    help="Arithmetic of the forward pass; auto is what the hardware multiplies: bf16, else fp16 on a GPU, "
    "else fp32.",
)
@IMG_SIZE
@click.option("--mean", callback=parse_floats, help="Mean of each channel, in place of the model's.")
@click.option(
    "--std", callback=parse_floats, help="Standard deviation of each channel, in place of the model's."
)
@click.option("--crop-pct", type=float, help="Share of the resized image that the center crop keeps.")
@click.option("--interpolation", help="Interpolation, such as bilinear or bicubic, in place of the model's.")
@click.option(
    "--in-chans",
    type=click.IntRange(1),
    help="Bands that the network takes, by default 3; timm adapts the first layer.",
)
@click.option(
    "--bands",
    callback=parse_bands,
    metavar="N,N,...",
    help="Bands of the images for the network, counted from 1, in its order, such as 3,2,1.",
)
@click.option(
    "--scale",
    metavar="MIN:MAX|percentile|dtype",
    help="Which values become black and white: two values, the 1st and 99th percentile of each band, or the "
    "range of the file's type; by default what the file declares.",
)
@MODEL_KWARGS
@click.option(
    "--fold/--no-fold",
    default=True,
    help="Fold batch norms into convolutions where only rounding changes; by default they are folded.",
)
@click.option(
    "--compile",
    "compiled",
    is_flag=True,
    help="Compile the forward pass, which takes a minute and is faster afterwards.",
)
@click.option(
    "--decode",
    type=Choice(["auto", "fast", "exact", "gpu", "draft", "exact-1", "draft-1"]),
    default="auto",
    show_default=True,
    help="How images are decoded: fast resizes by torch, exact by Pillow, and auto is fast unless the "
    "features were begun otherwise; gpu decodes JPEGs and resizes on a CUDA device; draft decodes large "
    "JPEGs at a fraction of their size; exact-1 and draft-1 are those of features from before 2026-12.",
)
@click.option(
    "--shard",
    metavar="I/N|auto[/N]",
    help="Do only share I of N of the units, counted from 0; auto, the default in a job array, "
    "takes the share of the task.",
)
@stop_options(before="a unit", at_hand="the unit")
@click.option(
    "--dtype",
    type=Choice(["auto", "float16", "float32"]),
    default="auto",
    show_default=True,
    help="Stored type; auto is float16 unless values of a sample are too large for it.",
)
@click.option("--format", type=Choice(["zarr", "hdf5"]), help="Format of a new cache; by default zarr.")
@click.option(
    "--max-pixels", type=click.IntRange(1), help="Record larger images as failed; by default 178956970."
)
@MAX_FAILURES
@click.option("--dry-run", is_flag=True, help="Print the plan, and write nothing.")
@click.option(
    "--overwrite", is_flag=True, help="Remove what is stored of these layers before extracting them."
)
@click.option(
    "--update", is_flag=True, help="Make DATA the next version of the data set; only new images are run."
)
@click.option(
    "--rehash", is_flag=True, help="Compare the bytes of every image with what was extracted before."
)
@click.option(
    "--profile",
    "is_profiled",
    is_flag=True,
    help="Measure the stages from reading to writing, and say which of them holds up the others.",
)
@click.option("--json-logs", is_flag=True, help="Write progress to standard error as JSON, a line a minute.")
@click.option(
    "--dask",
    metavar="ADDRESS",
    help="Compute on the workers of a dask scheduler at this address, or of local:N, slurm, pbs or lsf.",
)
@click.option(
    "--dask-options",
    callback=parse_object,
    help="JSON object of dask-jobqueue's options for slurm, pbs or lsf, and of the number of jobs.",
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
    is_profiled: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a frozen backbone once over DATA and store its layers.

    DATA is a folder (class/x.jpg, or train|val|test/class/x.jpg), a CSV or Parquet manifest (path,
    label, split), WebDataset shards (a .tar, a folder of them, or a pattern like 'train-{000..099}.tar'),
    a Hugging Face data set (save_to_disk, or Parquet), a zip archive, arrays (.npz, idx, CIFAR), or a
    built-in data set (digits, greek).
    """
    from toptune.extract import extract_models, extraction_profile
    from toptune.extract.request.plan import describe_summaries
    from toptune.workflows import choose_shard, extraction_progress, stop_on_signals

    # Workers of a dask cluster share the units among themselves. A scheduler that runs in a task of an array
    # is no reason to compute that task's shard alone.
    part, why = (None, "") if options["dask"] and shard is None else choose_shard(shard, os.environ)
    if why:
        echo(why, err=True)
    profile = extraction_profile() if is_profiled else None
    with (
        listed(models, "models") as names,
        stop_on_signals(grace) as stop,
        extraction_progress(json_logs=json_logs) as progress,
    ):
        summaries = extract_models(
            data,
            models=names,
            store=root,
            shard=part,
            stop=stop,
            progress=progress,
            clocks=progress.clocks,
            profile=profile,
            max_failures=max_failures,
            **options,
        )
    values = [summary.to_dict() for summary in summaries]
    shown, text = values[0] if len(values) == 1 else {"models": values}, describe_summaries(summaries)
    if profile is not None:
        shown |= {"profile": profile.to_dict()} if profile.seconds else {}
        text = f"{text}\n\n{profile}"
    show(as_json, shown, text)
    # One image may fail for several models; it counts as one image.
    report_failures({name: why for each in summaries for name, why in each.failed.items()}, max_failures)
