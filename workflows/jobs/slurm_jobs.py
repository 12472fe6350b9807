"""`write_slurm_jobs`: extract-then-train as batch scripts for Slurm, sized from the plan."""

import json
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toptune.errors import InputError
from toptune.extract.backbone.backbone import load_backbone
from toptune.extract.extraction import extract
from toptune.store.files.s3_path import place_of
from toptune.workflows.jobs.slurm_plan import SlurmPlan, clock, size_jobs
from toptune.workflows.jobs.slurm_scripts import (
    extract_script,
    log_pattern,
    one_line,
    submit_script,
    train_script,
)
from toptune.workflows.rate_sample import measure_rate

DEFAULT_CPUS = 4
TRAIN_BYTES = 4 * 2**30
# What a training takes beside what it counts against its limit.
TRAIN_BASE_BYTES = 2**30
# Of `extract`, and also of `load_backbone`.
BACKBONE_OPTIONS = (
    "weights",
    "precision",
    "img_size",
    "mean",
    "std",
    "crop_pct",
    "interpolation",
    "model_kwargs",
    "fold",
    "compiled",
    "decode",
)
# Of `toptune train`: what the jobs say.
DECIDED = ("--store", "--dataset", "--model", "--out", "--update")
# Of `extract`: options that are spelled otherwise on the command line, and those that are turned off there.
FLAGS = {"compiled": "compile"}
ON_BY_DEFAULT = ("fold",)
# Of `extract`: what a plan and a sample are made without.
NOT_FOR_PLANS = ("max_failures", "update", "rehash")


@dataclass(frozen=True, kw_only=True)
class SlurmJobs:
    """Scripts that were written.

    Attributes
    ----------
    plan : SlurmPlan
        How the work is cut.
    out : str
        The scripts' folder.
    scripts : tuple of str
        Names in it.
    run : str
        The folder of the run that will be trained; empty without training.
    ids : mapping of str to str
        Slurm's number of each job that was submitted.
    """

    plan: SlurmPlan
    out: str
    scripts: tuple[str, ...]
    run: str
    ids: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give every field, as JSON values."""
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
    model: str,
    store: str,
    options: Mapping[str, Any] | None = None,
    train_arguments: Sequence[str] | None = (),
    train_seconds: float = 3600,
    out: str | os.PathLike[str] = "toptune-jobs",
    jobs: int | None = None,
    time_seconds: float | None = None,
    memory_bytes: int | None = None,
    cpus: int = DEFAULT_CPUS,
    gpus: int = 0,
    partition: str | None = None,
    sbatch: Sequence[str] = (),
    images_per_second: float | None = None,
) -> SlurmJobs:
    """Write an array job that extracts, a job that trains after it, and a script that submits both.

    Nothing is submitted. The store, DATA and this Python have to be seen by the nodes at the same paths.

    Parameters
    ----------
    data, model, store
        As of `toptune.extract.extract`.
    options : mapping, optional
        Further options of `toptune.extract.extract`, by name.
    train_arguments : sequence of str, optional
        Further arguments of ``toptune train``; None for no training.
    train_seconds : float
        That the training asks for.
    out : path
        Folder for scripts, logs and the run; scripts that are there are replaced.
    jobs, time_seconds, memory_bytes : optional
        Tasks of the array, and what each asks for; worked out where they are not given.
    cpus, gpus : int
        Of each task.
    partition : str, optional
        Slurm's.
    sbatch : sequence of str
        Further options of sbatch, such as ``--account=vision``.
    images_per_second : float, optional
        Of one task; measured here on a sample of the images where it is not given.

    Raises
    ------
    InputError
        If something given cannot be used, or there is nothing to extract.
    """
    options = {name: value for name, value in (options or {}).items() if value is not None}
    if gpus:
        options["device"] = "cuda" if options.get("device", "cpu") == "cpu" else options["device"]
    decided = [word for word in train_arguments or () if word.split("=")[0] in DECIDED]
    if decided:
        raise InputError(f"--train {decided[0]} is for the jobs to say; leave it out")
    folder = Path(out).absolute()
    run = folder / "run"
    if train_arguments is not None and run.exists():
        raise InputError(f"{run} is there already; give another --out, or --no-train")
    # This machine may be without the nodes' GPUs; the plan is the same.
    here = options | {"device": "cpu"}
    known = {name: value for name, value in here.items() if name not in NOT_FOR_PLANS}
    summary = extract(
        data, model=model, store=store, dry_run=True, update=bool(options.get("update")), **known
    )
    if summary.plan is None or not summary.plan.units_missing:
        raise InputError(f"nothing to extract: all of it is stored in {summary.cache}; use toptune train")
    backbone = load_backbone(
        model, **{name: value for name, value in here.items() if name in BACKBONE_OPTIONS}
    )
    weights_bytes = sum(each.numel() * each.element_size() for each in backbone.model.parameters())
    if images_per_second is None:
        images_per_second = measure_rate(data, model=model, options=known)
        measured = f"{images_per_second:.1f} images/s were measured here, not on a node" + (
            " and without a GPU; --images-per-second says better" if gpus else ""
        )
    else:
        measured = ""
    plan = size_jobs(
        summary.plan,
        images_per_second=images_per_second,
        weights_bytes=weights_bytes,
        jobs=jobs,
        time_seconds=time_seconds,
        memory_bytes=memory_bytes,
    )
    if measured:
        plan = replace(plan, notes=(*plan.notes, measured))
    shared = {"partition": partition, "gres": f"gpu:{gpus}" if gpus else None}
    more = dict(_sbatch_option(text) for text in sbatch)
    name = f"toptune-{one_line(summary.dataset).replace(' ', '-')}"
    root = str(store) if "://" in str(store) else str(place_of(store).absolute())
    toptune = [sys.executable, "-m", "toptune.cli"]
    texts = {
        "extract.sbatch": extract_script(
            plan,
            _given(shared)
            | {
                "job-name": name,
                "requeue": None,
                "open-mode": "append",
                "output": f"{log_pattern(str(folder))}/logs/extract-%A_%a.log",
            }
            | more,
            command=[
                *toptune,
                "extract",
                str(data),
                "--model",
                model,
                "--store",
                root,
                *as_arguments(options),
            ],
            folder=str(Path.cwd()),
            cpus=cpus,
        )
    }
    if train_arguments is not None:
        texts["train.sbatch"] = _training(
            [*toptune, "train", "--store", root, "--dataset", summary.dataset, "--model", model],
            train_arguments,
            shared={"job-name": f"{name}-train", "partition": partition},
            more={"output": f"{log_pattern(str(folder))}/logs/train-%j.log", **more},
            verify=[*toptune, "store", "verify", "--store", root],
            memory_bytes=max(TRAIN_BYTES, plan.memory_bytes) if memory_bytes is None else memory_bytes,
            seconds=60 * math.ceil(train_seconds / 60),
            run=run,
            gpus=gpus,
            cpus=cpus,
        )
    texts["submit.sh"] = submit_script(with_training=train_arguments is not None)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for script, text in texts.items():
        (folder / script).write_text(text, encoding="utf-8")
        (folder / script).chmod(0o755)
    return SlurmJobs(
        plan=plan,
        out=str(folder),
        scripts=tuple(texts),
        run="" if train_arguments is None else str(run),
    )


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Write options of `toptune.extract.extract` as they stand on a command line."""
    words: list[str] = []
    for name, value in options.items():
        flag = f"--{FLAGS.get(name, name.replace('_', '-'))}"
        if isinstance(value, bool):
            words += [flag] if value else [f"--no-{name}"] if name in ON_BY_DEFAULT else []
        elif isinstance(value, Mapping):
            words += [flag, json.dumps(dict(value))]
        elif isinstance(value, list | tuple):
            words += [flag, ",".join(map(str, value))]
        elif value is not None:
            words += [flag, str(value)]
    return words


def _training(
    command: Sequence[str],
    arguments: Sequence[str],
    *,
    shared: Mapping[str, str | None],
    more: Mapping[str, str | None],
    verify: Sequence[str],
    memory_bytes: int,
    seconds: int,
    run: Path,
    gpus: int,
    cpus: int,
) -> str:
    words = [*command, *arguments, "--out", str(run)]
    if "--memory-limit" not in arguments:
        # By default it would be half of the node's memory, whatever the job was given.
        limit = max(memory_bytes - TRAIN_BASE_BYTES, memory_bytes // 2)
        words += ["--memory-limit", f"{limit // 2**20}MiB"]
    on_gpu = gpus and any(word.startswith("cuda") for word in arguments)
    options = {
        **_given(shared),
        "time": clock(seconds),
        "mem": f"{memory_bytes // 2**20}M",
        **({"gres": "gpu:1"} if on_gpu else {}),
        "requeue": None,
        "open-mode": "append",
        **more,
    }
    return train_script(
        options, verify=verify, command=words, run=str(run), folder=str(Path.cwd()), cpus=cpus
    )


def _given(options: Mapping[str, str | None]) -> dict[str, str | None]:
    return {name: value for name, value in options.items() if value is not None}


def _sbatch_option(text: str) -> tuple[str, str | None]:
    name, equals, value = text.removeprefix("--").partition("=")
    if not text.startswith("--") or not name.replace("-", "").isalnum():
        raise InputError(f"--sbatch {text!r} is no long option of sbatch such as --account=vision")
    return name, value if equals else None
