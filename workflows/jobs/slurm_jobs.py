"""`write_slurm_jobs` writes batch scripts for Slurm that extract and then train, sized from the plan."""

import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from toptune.errors import InputError
from toptune.extract.backbone.backbone import load_backbone
from toptune.extract.backbone.spec import BackboneSpec
from toptune.extract.extraction import extract_models
from toptune.extract.request.plan import ExtractPlan
from toptune.machine.devices import AUTO
from toptune.options import option_names, options_of
from toptune.store.files.json_values import json_text
from toptune.store.files.place import place_of
from toptune.store.files.system_errors import explained_writing
from toptune.train.runs.options import TrainOptions
from toptune.workflows.jobs.slurm_options import SlurmArguments, SlurmOptions
from toptune.workflows.jobs.slurm_plan import SlurmPlan, clock, plan_of_all, size_jobs
from toptune.workflows.jobs.slurm_scripts import (
    extract_script,
    log_pattern,
    one_line,
    submit_script,
    train_script,
)
from toptune.workflows.rate_sample import measure_rate

# Jobs run in the same Python environment, whatever is on the PATH of a node.
TOPTUNE = (sys.executable, "-m", "toptune.cli")
TRAIN_BYTES = 4 * 2**30
# A training takes this much beside the memory that counts against its limit: Python, torch and its libraries.
TRAIN_BASE_BYTES = 2**30
# Options of `extract` whose flag on the command line has another name, or is there to turn the option off.
FLAGS = {"compiled": "compile"}
ON_BY_DEFAULT = ("fold",)
# Options of `extract` that are dropped for the dry run and the timing sample.
NOT_FOR_PLANS = ("max_failures", "update", "rehash")


@dataclass(frozen=True, kw_only=True)
class SlurmJobs:
    """Batch scripts that were written.

    Attributes
    ----------
    plan : SlurmPlan
        How the work is divided.
    out : str
        Folder of the scripts.
    scripts : tuple of str
        Names of the scripts in the folder.
    run : str
        Folder of the run that will be trained; an empty text without training.
    ids : mapping of str to str
        Number that Slurm gave to each job that was submitted.
    """

    plan: SlurmPlan
    out: str
    scripts: tuple[str, ...]
    run: str
    ids: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return every field as JSON values."""
        return {
            "out": self.out,
            "scripts": list(self.scripts),
            "run": self.run,
            "jobs": dict(self.ids),
            "plan": self.plan.to_dict(),
        }

    def __str__(self) -> str:
        lines = [*self.plan.lines(), f"written: {', '.join(self.scripts)} in {self.out}"]
        if self.ids:
            lines += [f"submitted: {name} is job {number}" for name, number in self.ids.items()]
        else:
            lines.append(f"nothing is submitted; do so with: bash {shlex.quote(f'{self.out}/submit.sh')}")
        return "\n".join(lines)


def write_slurm_jobs(
    data: str | os.PathLike[str],
    *,
    model: str | None = None,
    models: Sequence[str] | None = None,
    store: str,
    options: Mapping[str, object] | None = None,
    **arguments: Unpack[SlurmArguments],
) -> SlurmJobs:
    """Write an array job that extracts, a job that trains after it, and a script that submits both.

    Nothing is submitted. The store, DATA and this Python have to be seen by the nodes at the same paths.

    Parameters
    ----------
    data : path or str
        A folder of images, a file or the name of a built-in data set.
    model : str, optional
        Name of the backbone.
    models : sequence of str, optional
        In place of `model`, several backbones: each task extracts them together, and they share the run.
    store : path
        Store that takes the features.
    options : mapping, optional
        Further options of the extraction, by the names of the fields of `ExtractOptions`.
    **arguments
        The fields of `SlurmOptions`.

    Returns
    -------
    SlurmJobs
        The scripts, and how the work is divided.

    Raises
    ------
    InputError
        If something given cannot be used, or there is nothing to extract.
    """
    asked = options_of(SlurmOptions, arguments, call="write_slurm_jobs")
    names = TrainOptions().check_models(model, models)
    # An option of None is one that was not given: the default on the node may differ from the default here.
    given = {name: value for name, value in (options or {}).items() if value is not None}
    given["device"] = _device(str(given.get("device", AUTO)), asked)
    dataset, plan = _planned(data, names, store, given, asked)
    # A job may start in another folder, so that paths are written absolute; a bucket has no folder.
    root = str(store) if "://" in str(store) else str(place_of(store).absolute())
    name = f"toptune-{one_line(dataset).replace(' ', '-')}"
    of_models = [word for each in names for word in ("--model", each)]
    command = [*TOPTUNE, "extract", str(data), *of_models, "--store", root, *as_arguments(given)]
    texts = {"extract.sbatch": _extract_text(plan, asked, name=name, command=command)}
    if asked.is_training:
        features = ["--store", root, "--dataset", dataset, *of_models]
        texts["train.sbatch"] = _train_text(plan, asked, name=name, root=root, features=features)
    texts["submit.sh"] = submit_script(with_training=asked.is_training)
    with explained_writing(asked.folder, elsewhere="give another --out", kept="no job was submitted"):
        (asked.folder / "logs").mkdir(parents=True, exist_ok=True)
        for script, text in texts.items():
            path = asked.folder / script
            path.write_text(text, encoding="utf-8")
            # Whoever may read a script may run it; who that is, the umask has said.
            mode = path.stat().st_mode
            path.chmod(mode | (mode & 0o444) >> 2)
    return SlurmJobs(
        plan=plan,
        out=str(asked.folder),
        scripts=tuple(texts),
        run=str(asked.run) if asked.is_training else "",
    )


def _device(device: str, asked: SlurmOptions) -> str:
    """Return the device of the tasks: CUDA with GPUs, so that a node without a working one is told."""
    if device == "cpu" and asked.gpus:
        raise InputError(
            f"--gpus {asked.gpus} asks for GPUs, and --device cpu leaves them idle; leave one of both out",
            option="device",
        )
    # A task without GPUs of its own may still see those of other jobs on the node, which auto would take.
    return ("cuda" if asked.gpus else "cpu") if device == AUTO else device


def _planned(
    data: str | os.PathLike[str],
    models: Sequence[str],
    store: str,
    given: Mapping[str, Any],
    asked: SlurmOptions,
) -> tuple[str, SlurmPlan]:
    """Plan the extraction on this machine, and divide the plan into tasks; return the data set's name too.

    Raises
    ------
    InputError
        If everything is stored already.
    """
    # This machine may lack the nodes' GPUs; the plan is the same on a CPU.
    here = {**given, "device": "cpu"}
    known = {name: value for name, value in here.items() if name not in NOT_FOR_PLANS}
    summaries = extract_models(
        data, models=models, store=store, dry_run=True, update=bool(given.get("update")), **known
    )
    plans = {
        model: summary.plan
        for model, summary in zip(models, summaries, strict=True)
        if summary.plan is not None and summary.plan.units_missing
    }
    if not plans:
        caches = ", ".join(summary.cache for summary in summaries)
        raise InputError(f"nothing to extract: all of it is stored in {caches}; use toptune train")
    of_backbone = {name: value for name, value in here.items() if name in option_names(BackboneSpec)}
    weights_bytes = 0
    for model in plans:
        backbone = load_backbone(model, **of_backbone)
        weights_bytes += sum(each.numel() * each.element_size() for each in backbone.model.parameters())
    rate = asked.images_per_second
    if rate is None:
        rate = measure_rate(data, models=[*plans], options=known)
    plan = _sized(plan_of_all([*plans.values()]), rate, weights_bytes, asked)
    if asked.images_per_second is None:
        better = " and without a GPU; --images-per-second says better" if asked.gpus else ""
        measured = f"{rate:.1f} images/s were measured here, not on a node{better} [TT512]"
        plan = replace(plan, notes=(*plan.notes, measured))
    return summaries[0].dataset, plan


def _sized(plan: ExtractPlan, rate: float, weights_bytes: int, asked: SlurmOptions) -> SlurmPlan:
    """Divide the plan of an extraction into tasks, as far as the user left sizes open."""
    return size_jobs(
        plan,
        images_per_second=rate,
        weights_bytes=weights_bytes,
        jobs=asked.jobs,
        time_seconds=asked.time_seconds,
        memory_bytes=asked.memory_bytes,
    )


def as_arguments(options: Mapping[str, object]) -> list[str]:
    """Write options of `toptune.extract.extract` as they stand on a command line."""
    words: list[str] = []
    for name, value in options.items():
        flag = f"--{FLAGS.get(name, name.replace('_', '-'))}"
        # A flag that is off by default and not wanted is left out; it has no negative form.
        if isinstance(value, bool):
            words += [flag] if value else [f"--no-{name}"] if name in ON_BY_DEFAULT else []
        elif isinstance(value, Mapping):
            words += [flag, json_text(dict(value))]
        elif isinstance(value, list | tuple):
            words += [flag, ",".join(map(str, value))]
        elif value is not None:
            words += [flag, str(value)]
    return words


def _extract_text(plan: SlurmPlan, asked: SlurmOptions, *, name: str, command: list[str]) -> str:
    """Write the array job: options of sbatch in the order of their lines, the user's own last."""
    shared = {"partition": asked.partition, "gres": f"gpu:{asked.gpus}" if asked.gpus else None}
    options = _given(shared) | {
        "job-name": name,
        "requeue": None,
        "open-mode": "append",
        "output": f"{log_pattern(str(asked.folder))}/logs/extract-%A_%a.log",
    }
    return extract_script(
        plan,
        options | asked.sbatch_options,
        command=command,
        folder=str(Path.cwd()),
        cpus=asked.cpus,
    )


def _train_text(
    plan: SlurmPlan, asked: SlurmOptions, *, name: str, root: str, features: Sequence[str]
) -> str:
    """Write the job that checks the store and trains."""
    given = list(asked.train_arguments or ())
    memory_bytes = asked.memory_bytes
    if memory_bytes is None:
        memory_bytes = max(TRAIN_BYTES, plan.memory_bytes)
    words = [*TOPTUNE, "train", *features, *given]
    words += ["--out", str(asked.run)]
    if "--memory-limit" not in given:
        # By default the limit would be half of the node's memory, whatever the job was given.
        limit = max(memory_bytes - TRAIN_BASE_BYTES, memory_bytes // 2)
        words += ["--memory-limit", f"{limit // 2**20}MiB"]
    names = [word.removeprefix("--device=") for word in given]
    is_on_gpu = asked.gpus and any(name.startswith("cuda") for name in names)
    if "--device" not in given and names == given:
        words += ["--device", "cpu"]
    options = {
        **_given({"job-name": f"{name}-train", "partition": asked.partition}),
        "time": clock(60 * math.ceil(asked.train_seconds / 60)),
        "mem": f"{memory_bytes // 2**20}M",
        **({"gres": "gpu:1"} if is_on_gpu else {}),
        "requeue": None,
        "open-mode": "append",
        "output": f"{log_pattern(str(asked.folder))}/logs/train-%j.log",
        **asked.sbatch_options,
    }
    return train_script(
        options,
        verify=[*TOPTUNE, "store", "verify", "--store", root],
        command=words,
        run=str(asked.run),
        folder=str(Path.cwd()),
        cpus=asked.cpus,
    )


def _given(options: Mapping[str, str | None]) -> dict[str, str | None]:
    """Drop options without a value."""
    return {name: value for name, value in options.items() if value is not None}
