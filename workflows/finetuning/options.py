"""`FineTuneOptions` says how a network is fine-tuned, and is checked without loading torch."""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toptune.errors import InputError
from toptune.extract.backbone.spec import BackboneSpec
from toptune.machine.cores import MOST_THREADS, reading_threads
from toptune.machine.devices import AUTO, check_device_name
from toptune.options import MOST_COUNT, check_choice, check_count, flat_options
from toptune.train.rows.options import RowArguments, RowOptions
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION

AUGMENTATIONS = ("crop-flip", "crop", "none")
# A new classifier starts from random weights and can take larger steps than pretrained weights, which a large
# step destroys.
_LEARNING_RATES = {
    ("adamw", False): (1e-4, 3e-4),
    ("adamw", True): (1e-3, 1e-2),
    ("sgd", False): (0.01,),
    ("sgd", True): (0.01, 0.1),
}
_WEIGHT_DECAY = {"adamw": 0.05, "sgd": 1e-4}
_CACHE_MEMORY_BYTES = 4 * 2**30
_WARMUP_EPOCHS = 2
# These options change neither rows nor steps, so that an unfinished run goes on with other values of them.
# Labels, sides and validation rows are compared by the digests of the rows, whatever column or decision they
# are from.
_OF_NO_EFFECT = (
    *("device", "workers", "cache_memory_bytes", "allow_failed", "max_failures", "label_column"),
    *("exclude", "relabel_with", "keep_together"),
)


class FineTuneArguments(RowArguments, total=False):
    """The keywords of `FineTuneOptions`."""

    weights: str | None
    img_size: int | None
    model_kwargs: Mapping[str, Any] | None
    device: str
    precision: str
    depth: str
    optimizer: str
    learning_rates: Sequence[float] | None
    weight_decay: float | None
    epochs: int
    min_epochs: int
    patience: int
    warmup_epochs: int | None
    batch_size: int
    clip_grad: float
    label_smoothing: float
    augment: str
    crop_scale: float
    validation_fraction: float
    refit: bool
    max_failures: int
    workers: int | None
    cache_memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class FineTuneOptions:
    """Options of `finetune`.

    The defaults of batch size, epochs and clipping, and those of SGD, are the ones of "When & How to
    Transfer with Transfer Learning" (Tormos et al. 2022, arXiv 2211.04347). The patience of 3 epochs in that
    paper belongs to a constant rate: with a cosine, training would stop before the rate has fallen.

    Attributes
    ----------
    weights : path, optional
        Checkpoint file with the pretrained weights, instead of the one that the model names.
    img_size : int, optional
        Side of the input, instead of the model's own.
    model_kwargs : mapping, optional
        Further arguments of the network's constructor.
    device : str
        torch device of the training: ``auto`` (CUDA where there is a CUDA device, else MPS unless `precision`
        is bf16, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    precision : {"auto", "bf16", "fp32"}
        Arithmetic of the forward passes, by autocast: weights and their updates are float32.
    depth : str
        Which modules are trained: ``full``, ``last:N`` (all modules behind the output of the last block but
        N) or ``head``.
    optimizer : {"adamw", "sgd"}
        Optimizer; SGD has momentum 0.9.
    learning_rates : sequence of float, optional
        Peak rates that are tried one after the other, each from the pretrained weights.
    weight_decay : float, optional
        Weight decay of every parameter except biases and norms; by default 0.05 (AdamW) or 1e-4 (SGD).
    epochs, min_epochs, patience : int
        At most `epochs` epochs; from `min_epochs` on, `patience` epochs without a better validation end the
        training of a learning rate.
    warmup_epochs : int, optional
        Epochs in which the rate rises to its peak; by default 2, or as many as leave one epoch of `epochs`.
    batch_size : int
        Most images of a step; the batches of an epoch differ in size by one image at most.
    clip_grad : float
        Limit on the norm of the gradient; 0 for none.
    label_smoothing : float
        Share of a target that is spread over all classes, in [0, 1).
    augment : {"crop-flip", "crop", "none"}
        Random resized crop (Szegedy et al. 2015) as timm makes it, and horizontal flip.
    crop_scale : float
        Least share of the area that a random crop keeps.
    validation_fraction : float
        Share of each class's training rows that chooses learning rate and epoch. With 0, nothing is chosen:
        the one learning rate runs for all epochs.
    refit : bool
        Train once more, on all training rows, with the learning rate and as many epochs as were chosen.
    rows : RowOptions
        Which rows train and which test; the same values give the rows of `toptune.train.train`. Images that
        cannot be read are refused unless ``allow_failed`` leaves them out.
    max_failures : int
        Most unreadable images that are left out without ``allow_failed``.
    workers : int, optional
        Number of threads that read and augment ahead; by default one for each core that this process may
        use, at most 32.
    cache_memory_bytes : int
        Memory that decoded images may take; images beyond are decoded in every epoch. Results are the same.

    Raises
    ------
    InputError
        If a value is out of range, or nothing could choose among several learning rates.

    Examples
    --------
    >>> FineTuneOptions(optimizer="sgd").rates
    (0.01,)
    >>> FineTuneOptions(depth="head").rates
    (0.001, 0.01)
    """

    weights: str | None = None
    img_size: int | None = None
    model_kwargs: Mapping[str, Any] | None = None
    device: str = AUTO
    precision: str = "auto"
    depth: str = "full"
    optimizer: str = "adamw"
    learning_rates: Sequence[float] | None = None
    weight_decay: float | None = None
    epochs: int = 40
    min_epochs: int = 10
    patience: int = 10
    warmup_epochs: int | None = None
    batch_size: int = 64
    clip_grad: float = 1.0
    label_smoothing: float = 0.0
    augment: str = "crop-flip"
    crop_scale: float = 0.08
    validation_fraction: float = 0.2
    refit: bool = False
    rows: RowOptions = field(default_factory=RowOptions)
    max_failures: int = 0
    workers: int | None = None
    cache_memory_bytes: int = _CACHE_MEMORY_BYTES

    def __post_init__(self) -> None:
        # Rates are sorted and equal ones dropped, so that the same grid in another order is the same run.
        rates = self.learning_rates
        if rates is not None:
            object.__setattr__(self, "learning_rates", tuple(sorted({float(rate) for rate in rates})))
        if rates is not None and not rates:
            raise InputError("learning_rates is empty; give at least one, such as 1e-4")
        self._check()

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates that are tried, ascending."""
        return tuple(self.learning_rates or _LEARNING_RATES[self.optimizer, self.depth == "head"])

    @property
    def decay(self) -> float:
        """The weight decay that was given, or the default of the optimizer."""
        return _WEIGHT_DECAY[self.optimizer] if self.weight_decay is None else self.weight_decay

    @property
    def n_warmup_epochs(self) -> int:
        """Epochs in which the rate rises: as given, or the default, which leaves one epoch to fall in."""
        given = self.warmup_epochs
        return min(_WARMUP_EPOCHS, self.epochs - 1) if given is None else given

    @property
    def n_workers(self) -> int:
        """Number of threads that read and augment ahead."""
        return self.workers or reading_threads()

    @property
    def n_last(self) -> int | None:
        """The number N of depth ``last:N``; None for another depth."""
        found = re.fullmatch(r"last:([1-9][0-9]*)", self.depth)
        return int(found[1]) if found else None

    def identity(self) -> dict[str, object]:
        """Return the options that decide the result, with defaults filled in, as JSON values."""
        values = {name: value for name, value in self.to_dict().items() if name not in _OF_NO_EFFECT}
        filled = {"learning_rates": list(self.rates), "weight_decay": self.decay}
        return values | filled | {"warmup_epochs": self.n_warmup_epochs}

    def to_dict(self) -> dict[str, Any]:
        """Return all options as JSON values, by the names of their keywords."""
        return {
            name: dict(value)
            if isinstance(value, Mapping)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in flat_options(self).items()
        }

    def _check(self) -> None:
        """Refuse values out of range, and combinations that contradict each other."""
        _check_task(self.rows)
        for name, known in (
            ("optimizer", ("adamw", "sgd")),
            ("augment", AUGMENTATIONS),
            ("precision", ("auto", "bf16", "fp32")),
        ):
            check_choice(getattr(self, name), known, option=name)
        if self.depth not in ("full", "head") and self.n_last is None:
            raise InputError(f"depth is {self.depth!r}; it must be full, head, or last:N with N from 1")
        check_device_name(self.device)
        # The spec checks the options of the backbone when the spec is made.
        BackboneSpec(weights=self.weights, img_size=self.img_size, model_kwargs=self.model_kwargs)
        for name in ("epochs", "min_epochs", "patience", "batch_size", "workers"):
            if (value := getattr(self, name)) is not None:
                check_count(value, option=name, most=MOST_THREADS if name == "workers" else MOST_COUNT)
        for name in ("warmup_epochs", "max_failures", "cache_memory_bytes"):
            if (value := getattr(self, name)) is not None:
                check_count(value, option=name, least=0, most=sys.maxsize)
        # The peak rate has to be reached, and at least one epoch of the cosine has to follow.
        if self.n_warmup_epochs >= self.epochs:
            raise InputError(
                f"warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs; one epoch must be left in "
                f"which the rate falls; give --warmup-epochs {self.epochs - 1} or fewer, or leave it out"
            )
        _check_range("clip_grad", self.clip_grad, 0, math.inf)
        _check_range("weight_decay", self.decay, 0, math.inf)
        _check_range("label_smoothing", self.label_smoothing, 0, 1)
        _check_range("validation_fraction", self.validation_fraction, 0, 0.5)
        for rate in self.rates:
            if not 0 < rate < math.inf:
                raise InputError(f"learning rate {rate:g} is not above 0; give one such as 1e-4")
        if not 0 < self.crop_scale <= 1:
            raise InputError(f"crop_scale is {self.crop_scale}; it must be above 0 and at most 1")
        if self.validation_fraction == 0 and (len(self.rates) > 1 or self.refit):
            raise InputError(
                f"validation_fraction is 0, and nothing could choose among {len(self.rates)} learning rates "
                "or say how long to refit; give one --learning-rate and no --refit, or some validation rows"
            )


def _check_task(rows: RowOptions) -> None:
    """Refuse several labels an image, and numbers, with what can be done in place of fine-tuning."""
    if rows.task in (AUTO_TASK, CLASSIFICATION):
        return
    words = f"--target {rows.target}" if rows.target else f"--task {rows.task}"
    raise InputError(
        f"fine-tuning learns one class an image and does not know --task {rows.task}; train a head on frozen "
        f"features (toptune extract, then toptune train {words}), or name one column of classes with "
        "--label-column",
        option="target" if rows.target else "label_column" if rows.label_column else "task",
    )


def _check_range(name: str, value: float, least: float, below: float) -> None:
    """Refuse a number outside ``[least, below)``; NaN lies outside every range."""
    if not least <= value < below:
        limit = f"and below {below:g}" if below < math.inf else "and finite"
        raise InputError(f"{name} is {value:g}; it must be at least {least:g} {limit}")
