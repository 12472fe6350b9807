"""`SlurmOptions` says what the scripts ask of Slurm, and is checked before anything is planned."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from toptune.errors import InputError
from toptune.store.files.names import check_folder_name

DEFAULT_CPUS = 4
# These arguments of `toptune train` follow from the extraction, and the training job has them already.
DECIDED = ("--store", "--dataset", "--model", "--out", "--update")


class SlurmArguments(TypedDict, total=False):
    """The keywords of `SlurmOptions`."""

    train_arguments: Sequence[str] | None
    train_seconds: float
    out: str | os.PathLike[str]
    jobs: int | None
    time_seconds: float | None
    memory_bytes: int | None
    cpus: int
    gpus: int
    partition: str | None
    sbatch: Sequence[str]
    images_per_second: float | None


@dataclass(frozen=True, kw_only=True)
class SlurmOptions:
    """Resources that each job asks of Slurm, and the training that follows the extraction.

    Attributes
    ----------
    train_arguments : sequence of str, optional
        Further arguments of ``toptune train``; with None, nothing is trained.
    train_seconds : float
        Seconds that the training job asks for.
    out : path
        Folder for scripts, logs and the run; scripts that are there already are replaced.
    jobs : int, optional
        Number of tasks of the array; by default as many as it takes to finish within the time of a task.
    time_seconds : float, optional
        Seconds that each task asks for; by default worked out from `jobs`, or an hour.
    memory_bytes : int, optional
        Bytes that each task asks for; by default worked out from the plan.
    cpus, gpus : int
        Processor cores and GPUs of each task.
    partition : str, optional
        Slurm's partition.
    sbatch : sequence of str
        Further long options of sbatch, such as ``--account=vision``.
    images_per_second : float, optional
        Images that one task extracts in a second; by default measured on this machine, on a sample.

    Raises
    ------
    InputError
        If `train_arguments` has an argument that the jobs decide, `sbatch` has something other than a long
        option, or the folder of the run exists already.
    """

    train_arguments: Sequence[str] | None = ()
    train_seconds: float = 3600
    out: str | os.PathLike[str] = "toptune-jobs"
    jobs: int | None = None
    time_seconds: float | None = None
    memory_bytes: int | None = None
    cpus: int = DEFAULT_CPUS
    gpus: int = 0
    partition: str | None = None
    sbatch: Sequence[str] = ()
    images_per_second: float | None = None

    def __post_init__(self) -> None:
        decided = [word for word in self.train_arguments or () if word.split("=")[0] in DECIDED]
        if decided:
            raise InputError(f"--train {decided[0]} is for the jobs to say; leave it out")
        check_folder_name(self.out, option="out")
        if self.is_training and self.run.exists():
            raise InputError(f"{self.run} is there already; give another --out, or --no-train", option="out")
        # Reading the options of sbatch refuses malformed ones now.
        _ = self.sbatch_options

    @property
    def is_training(self) -> bool:
        """Whether a training follows the extraction."""
        return self.train_arguments is not None

    @property
    def folder(self) -> Path:
        """The folder of scripts and logs, absolute."""
        return Path(self.out).absolute()

    @property
    def run(self) -> Path:
        """The folder of the run that will be trained."""
        return self.folder / "run"

    @property
    def sbatch_options(self) -> dict[str, str | None]:
        """Name to value of the further options of sbatch; None for an option without a value."""
        return dict(_sbatch_option(text) for text in self.sbatch)


def _sbatch_option(text: str) -> tuple[str, str | None]:
    """Split ``--name=value`` into name and value, which is None for an option without one."""
    name, equals, value = text.removeprefix("--").partition("=")
    if not text.startswith("--") or not name.replace("-", "").isalnum():
        raise InputError(f"--sbatch {text!r} is no long option of sbatch such as --account=vision")
    return name, value if equals else None
