"""`FineTuneOptions`: how a network is fine-tuned, checked without loading torch."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toptune.errors import InputError
from toptune.extract.backbone.transform_options import check_transform_options

AUGMENTATIONS = ("crop-flip", "crop", "none")
# The classifier alone starts from nothing and takes larger steps than pretrained weights do.
_LEARNING_RATES = {
    ("adamw", False): (1e-4, 3e-4),
    ("adamw", True): (1e-3, 1e-2),
    ("sgd", False): (0.01,),
    ("sgd", True): (0.01, 0.1),
}
_WEIGHT_DECAY = {"adamw": 0.05, "sgd": 1e-4}
_CACHE_MEMORY_BYTES = 4 * 2**30
# What changes neither rows nor steps: an unfinished run goes on with other values of these.
_OF_NO_EFFECT = ("device", "workers", "cache_memory_bytes", "allow_failed", "max_failures")


@dataclass(frozen=True, kw_only=True)
class FineTuneOptions:
    """Options of `finetune`.

    Batch size, epochs, clipping and those of SGD are those of "When & How to Transfer" (Tormos et al. 2022).
    Its patience of 3 epochs belongs to a constant rate: with a cosine it stops before the rate has fallen.

    Attributes
    ----------
    weights, img_size, model_kwargs, device : optional
        See `toptune.extract.load_backbone`.
    precision : {"auto", "bf16", "fp32"}
        Of the arithmetic, by autocast: weights and their updates are float32.
    depth : str
        What is trained: ``full``, ``last:N`` (all behind the output of the last block but N) or ``head``.
    optimizer : {"adamw", "sgd"}
        SGD has momentum 0.9.
    learning_rates : sequence of float, optional
        Peak rates that are tried one after the other, each from the pretrained weights.
    weight_decay : float, optional
        Not of biases and norms. 0.05 (AdamW) or 1e-4 (SGD) by default.
    epochs, min_epochs, patience : int
        At most so many epochs; from `min_epochs` on, `patience` epochs without a better validation end a
        learning rate's training.
    warmup_epochs : int
        Epochs in which the rate rises to its peak.
    batch_size : int
        At most; the batches of an epoch are of equal size but for one image.
    clip_grad : float
        Limit on the norm of the gradient; 0 for none.
    label_smoothing : float
        Share of a target that is spread over all classes, in [0, 1).
    augment : {"crop-flip", "crop", "none"}
        Random resized crop (Szegedy et al. 2015) as timm makes it, and horizontal flip.
    crop_scale : float
        Least share of the area that a random crop keeps.
    validation_fraction : float
        Share of each class's training rows that chooses learning rate and epoch; 0 for all epochs of the
        one learning rate.
    refit : bool
        Train once more, on all training rows, with the learning rate and as many epochs as were chosen.
    seed, test_fraction, resplit, val, group_by, shots, train_size
        See `toptune.train.train`; the same values give the same rows.
    allow_failed : bool
        Leave out images that cannot be read instead of refusing.
    max_failures : int
        Leave out at most so many.
    workers : int, optional
        Threads that read and augment ahead.
    cache_memory_bytes : int
        What decoded images may take; those beyond are decoded in every epoch. Results are the same.
    """

    weights: str | None = None
    img_size: int | None = None
    model_kwargs: Mapping[str, Any] | None = None
    device: str = "cpu"
    precision: str = "auto"
    depth: str = "full"
    optimizer: str = "adamw"
    learning_rates: tuple[float, ...] | None = None
    weight_decay: float | None = None
    epochs: int = 40
    min_epochs: int = 10
    patience: int = 10
    warmup_epochs: int = 2
    batch_size: int = 64
    clip_grad: float = 1.0
    label_smoothing: float = 0.0
    augment: str = "crop-flip"
    crop_scale: float = 0.08
    validation_fraction: float = 0.2
    refit: bool = False
    seed: int = 0
    test_fraction: float = 0.2
    resplit: bool = False
    val: str = "train"
    group_by: str | None = None
    shots: int | None = None
    train_size: int | None = None
    allow_failed: bool = False
    max_failures: int = 0
    workers: int | None = None
    cache_memory_bytes: int = _CACHE_MEMORY_BYTES

    def __post_init__(self) -> None:
        rates = self.learning_rates
        if rates is not None:
            object.__setattr__(self, "learning_rates", tuple(sorted({float(rate) for rate in rates})))
        if rates is not None and not rates:
            raise InputError("learning_rates is empty; give at least one, such as 1e-4")
        self._check()

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates that are tried, ascending."""
        return self.learning_rates or _LEARNING_RATES[self.optimizer, self.depth == "head"]

    @property
    def decay(self) -> float:
        """The weight decay."""
        return _WEIGHT_DECAY[self.optimizer] if self.weight_decay is None else self.weight_decay

    @property
    def n_workers(self) -> int:
        """Threads that read ahead."""
        return self.workers or min(4, os.cpu_count() or 1)

    @property
    def n_last(self) -> int | None:
        """N of depth ``last:N``."""
        found = re.fullmatch(r"last:([1-9][0-9]*)", self.depth)
        return int(found[1]) if found else None

    def identity(self) -> dict[str, Any]:
        """Give what decides the result, with defaults filled in, as JSON values."""
        values = {name: value for name, value in self.to_dict().items() if name not in _OF_NO_EFFECT}
        return values | {"learning_rates": list(self.rates), "weight_decay": self.decay}

    def to_dict(self) -> dict[str, Any]:
        """Give all options as JSON values."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {
            name: dict(value)
            if isinstance(value, Mapping)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in values.items()
        }

    def _check(self) -> None:
        for name, choices in (
            ("optimizer", ("adamw", "sgd")),
            ("augment", AUGMENTATIONS),
            ("precision", ("auto", "bf16", "fp32")),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        if self.depth not in ("full", "head") and self.n_last is None:
            raise InputError(f"depth is {self.depth!r}; it must be full, head, or last:N with N from 1")
        check_transform_options(
            img_size=self.img_size, mean=None, std=None, crop_pct=None, interpolation=None
        )
        for name, least in (
            ("epochs", 1), ("min_epochs", 1), ("patience", 1), ("warmup_epochs", 0), ("batch_size", 1),
            ("max_failures", 0), ("cache_memory_bytes", 0), ("workers", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")
        if self.warmup_epochs >= self.epochs:
            raise InputError(
                f"warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs; it must be below them"
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


def _check_range(name: str, value: float, least: float, below: float) -> None:
    if not least <= value < below:
        limit = f"and below {below:g}" if below < math.inf else "and finite"
        raise InputError(f"{name} is {value:g}; it must be at least {least:g} {limit}")
