"""`plan_finetune` says what a fine-tuning would do and take, from a few timed steps, and writes nothing."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError
from toptune.extract.images.source import ImageData
from toptune.machine.heap import keep_freed_memory
from toptune.machine.memory import check_memory, memory_limit_bytes, shown_bytes
from toptune.options import options_of
from toptune.store.datasets.samples import even_sample
from toptune.workflows.finetuning.learner import MOMENT_BYTES, MOMENTS, Learner, n_batches
from toptune.workflows.finetuning.options import FineTuneArguments, FineTuneOptions
from toptune.workflows.finetuning.rows import TuningRows
from toptune.workflows.finetuning.task import FineTuneTask, make_task

# Enough steps that one slow step does not decide, few enough that a plan takes seconds.
TIMED_STEPS = 3


@dataclass(frozen=True, kw_only=True)
class FineTunePlan:
    """Steps that a fine-tuning would take, and their cost on this machine.

    Attributes
    ----------
    n_fitted, n_validation, n_test, n_classes : int
        Images that train, that choose, and that test; number of classes.
    learning_rates : tuple of float
        Peak rates that would be tried.
    epochs, least_epochs, steps_per_epoch : int
        Most and least epochs of each learning rate (training may stop early), and updates of an epoch.
    n_trained_parameters, n_parameters : int
        Parameters that would be trained, and all parameters.
    precision, device : str
        Arithmetic and device of the timed steps.
    read_seconds, train_seconds, score_seconds : float
        Measured seconds for one image: to read and decode, in a step of training, in a forward pass.
    step_bytes : int
        Memory that a step takes beside the network itself, projected from forward passes of few.
    cache_bytes : int
        Memory of decoded training and validation images, up to the limit.
    checkpoint_bytes : int
        Size on disk of the checkpoints while the run is unfinished; there are two for a moment.
    is_refitted : bool
        Whether the chosen setting is trained once more, on all training rows.
    """

    n_fitted: int
    n_validation: int
    n_test: int
    n_classes: int
    learning_rates: tuple[float, ...]
    epochs: int
    least_epochs: int
    steps_per_epoch: int
    n_trained_parameters: int
    n_parameters: int
    precision: str
    device: str
    read_seconds: float
    train_seconds: float
    score_seconds: float
    step_bytes: int
    cache_bytes: int
    checkpoint_bytes: int
    is_refitted: bool

    @property
    def most_seconds(self) -> float:
        """Expected seconds if no learning rate is stopped early and a refit takes all epochs."""
        return self._seconds(self.epochs)

    @property
    def least_seconds(self) -> float:
        """Expected seconds if every learning rate is stopped as early as possible."""
        return self._seconds(self.least_epochs)

    def _seconds(self, epochs: int) -> float:
        """Return the expected seconds of a fine-tuning in which each learning rate takes `epochs` epochs."""
        # Images are read and decoded once, as far as memory holds them afterwards; see `cache_bytes`.
        n_train = self.n_fitted + self.n_validation
        epoch = self.n_fitted * self.train_seconds + self.n_validation * self.score_seconds
        refit = n_train * self.train_seconds if self.is_refitted else 0.0
        once = (n_train + self.n_test) * self.read_seconds + self.n_test * self.score_seconds
        return once + epochs * (len(self.learning_rates) * epoch + refit)

    def to_dict(self) -> dict[str, object]:
        """Return the fields and both sums as JSON values."""
        return dataclasses.asdict(self) | {
            "learning_rates": list(self.learning_rates),
            "most_seconds": self.most_seconds,
            "least_seconds": self.least_seconds,
        }

    def __str__(self) -> str:
        rates = ", ".join(f"{rate:g}" for rate in self.learning_rates)
        lines = [
            f"would train {self.n_trained_parameters} of {self.n_parameters} parameters on {self.n_fitted} "
            f"images of {self.n_classes} classes, choose on {self.n_validation}, test on {self.n_test}",
            f"learning rates {rates}; each {self.least_epochs} to {self.epochs} epochs of "
            f"{self.steps_per_epoch} steps"
            + (", the chosen one once more on all training images" if self.is_refitted else ""),
            f"measured on {self.device} in {self.precision}: {1 / self.train_seconds:.1f} images/s in "
            f"training, {1 / self.score_seconds:.1f} in testing",
            f"{self.least_seconds:.0f} to {self.most_seconds:.0f} s; about {shown_bytes(self.step_bytes)} of "
            f"memory in a step, {self.cache_bytes / 2**20:.0f} MiB of decoded images, checkpoints of "
            f"{self.checkpoint_bytes / 2**20:.0f} MiB",
        ]
        return "\n".join(lines)


def plan_finetune(
    data: ImageData,
    *,
    model: str,
    progress: Callable[[str], None] | None = None,
    **arguments: Unpack[FineTuneArguments],
) -> FineTunePlan:
    """Say what `finetune` would do with the same arguments, and estimate what it takes from a few steps.

    Parameters
    ----------
    data : path, str or ImageSource
        A folder of images, a file or the name of a built-in data set, with labels.
    model : str
        Name of the backbone: a name of timm's, or ``local-dir:`` and a folder.
    progress : callable, optional
        Called with a line that says what memory the steps take, before they are timed.
    **arguments
        The fields of `FineTuneOptions` and `RowOptions`.

    Returns
    -------
    FineTunePlan

    Raises
    ------
    InputError, WeightsError
        If something given cannot be used, none of the images that are tried can be read, or a step takes more
        than the memory of the machine.
    """
    asked = options_of(FineTuneOptions, arguments, call="plan_finetune")
    task = make_task(TuningRows.of(data, asked), model=model, options=asked)
    keep_freed_memory()
    with task.open_loader() as loader:
        learner = task.make_learner(loader)
        rows, read = _sample(task, learner)
        kept = loader.cached_bytes / len(rows) * (len(task.fitted) + len(task.rows.validation))
        taken = _step_bytes(learner, rows)
        if progress is not None:
            progress(
                f"a step of fine-tuning on {len(rows)} images takes about {shown_bytes(taken)} of memory"
            )
        learner.begin(asked.rates[0], n_steps_per_epoch=n_batches(len(task.fitted), asked.batch_size))
        train, score = _time_steps(learner, rows)
        network = learner.network
    stops = asked.validation_fraction > 0
    return FineTunePlan(
        n_fitted=len(task.fitted),
        n_validation=len(task.rows.validation),
        n_test=len(task.rows.split.test),
        n_classes=len(task.rows.classes),
        learning_rates=asked.rates,
        epochs=asked.epochs,
        # The first epoch may be the best one, and `patience` epochs without a better one follow.
        least_epochs=min(asked.epochs, max(asked.min_epochs, asked.patience + 1)) if stops else asked.epochs,
        steps_per_epoch=n_batches(len(task.fitted), asked.batch_size),
        n_trained_parameters=network.n_trained,
        n_parameters=network.n_parameters,
        precision=task.precision,
        device=str(task.backbone.device),
        read_seconds=read,
        train_seconds=train,
        score_seconds=score,
        step_bytes=taken,
        cache_bytes=min(int(kept), asked.cache_memory_bytes),
        # Two files of tensors are kept: the best network alone, and the last one with its optimizer.
        checkpoint_bytes=MOMENT_BYTES * network.n_trained * (2 + MOMENTS[asked.optimizer]),
        is_refitted=asked.refit,
    )


def _sample(task: FineTuneTask, learner: Learner) -> tuple[npt.NDArray[np.int64], float]:
    """Read a batch of training images, evenly spread; return its usable rows, and the seconds per image."""
    rows = task.fitted[even_sample(len(task.fitted), task.options.batch_size)]
    with _timed() as seconds:
        failed = learner.loader.look_at(rows.tolist(), is_training=True, seen=lambda _n: None)
    good = np.setdiff1d(rows, np.array(sorted(failed), dtype=np.int64))
    if not len(good):
        row, why = next(iter(failed.items()))
        raise InputError(
            f"none of {len(rows)} images can be used, for instance {task.rows.manifest.ids[row]!r} ({why})"
        )
    return good, seconds[0] / len(rows)


def _step_bytes(learner: Learner, rows: npt.NDArray[np.int64]) -> int:
    """Return what a step on these rows takes of the memory, and refuse more than the machine has."""
    few = next(learner.loader.training_batches([np.resize(rows, 4).tolist()], epoch=0))
    taken = learner.step_bytes(few, len(rows))
    if learner.backbone.device.type == "cpu":
        check_memory(
            taken,
            limit_bytes=2 * memory_limit_bytes(),
            what=f"a step of fine-tuning {learner.backbone.name} on {len(rows)} images",
            instead="give a smaller --batch-size, --img-size or --model, or train less of it (--depth)",
        )
    return taken


def _time_steps(learner: Learner, rows: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return the seconds that one image takes in training and in scoring.

    The first step of each is not timed: memory is allocated and kernels are chosen in a first step, which
    would make the estimate too high.
    """
    learner.network.train()
    for number, is_timed in ((1, False), (TIMED_STEPS, True)):
        with _timed() as seconds:
            images = learner.loader.training_batches([rows.tolist()] * number, epoch=int(is_timed))
            for step, pixels in enumerate(images):
                learner.step(pixels, rows, step)
            _wait(learner)
    train = seconds[0] / (TIMED_STEPS * len(rows))
    for _ in range(2):
        with _timed() as seconds:
            learner.score(rows, seen=lambda _n: None)
    return train, seconds[0] / len(rows)


def _wait(learner: Learner) -> None:
    """Wait for the GPU, which otherwise still computes when the clock is read."""
    if learner.backbone.device.type == "cuda":
        torch.cuda.synchronize(learner.backbone.device)


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Yield a list that holds the seconds of the block once the block has ended."""
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)
