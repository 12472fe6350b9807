"""`AdviceOptions` says what `advise` is asked, and is checked before anything is extracted."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from toptune.errors import InputError
from toptune.machine.devices import AUTO
from toptune.options import choices, flat_options, option_names, options_of
from toptune.train.heads.options import HeadOptions
from toptune.train.rows.options import RowArguments, RowOptions
from toptune.train.runs.options import check_task
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION
from toptune.workflows.advice.evidence import DEFAULT_MARGIN
from toptune.workflows.finetuning.options import FineTuneOptions

DEFAULT_BUDGET_SECONDS = 600.0
# These options belong to `extract` and to `finetune`, and must be the same for both: the two are compared.
_OF_BACKBONE = ("weights", "img_size", "model_kwargs", "device", "workers")
_OF_CLASSES: dict[str, Any] = {
    "task": CLASSIFICATION, "target": None, "label_column": None, "drop_missing": False,
}  # fmt: skip


class AdviceArguments(RowArguments, total=False):
    """The keywords of `AdviceOptions`."""

    layers: str | Sequence[str]
    pooling: str | None
    budget: float
    margin: float
    finetune_limit: float | None
    finetune: Mapping[str, Any] | None
    weights: str | os.PathLike[str] | None
    img_size: int | None
    model_kwargs: Mapping[str, Any] | None
    device: str
    workers: int | None
    cv: int


@dataclass(frozen=True, kw_only=True)
class AdviceOptions:
    """Options of `advise`.

    Attributes
    ----------
    layers, pooling, weights, img_size, model_kwargs, workers
        See `toptune.extract.extract`.
    budget : float
        Seconds for everything. An extraction that would take longer is refused before it begins.
    margin : float
        Accuracy, in [0, 1), that fine-tuning has to gain to be worth while.
    finetune_limit : float, optional
        Seconds that fine-tuning may take; where fine-tuning takes longer, it is not recommended.
    finetune : mapping, optional
        Options of `toptune.workflows.finetune` whose cost is asked for, such as ``{"epochs": 20}``.
    device : str
        Device of extraction, heads and fine-tuning: ``auto`` (CUDA where there is a CUDA device, else MPS for
        what is no head, else the CPU), ``cpu``, ``cuda`` or ``cuda:N``.
    rows : RowOptions
        Which rows train and which test, and what the heads learn. Of another task than classification heads
        are measured, and fine-tuning is not, because it does not know the task.
    cv : int
        Number of folds in which heads are cross-validated.

    Raises
    ------
    InputError
        If a value is out of range, or `finetune` has an unknown option or one that heads share.
    """

    layers: str | Sequence[str] = "all"
    pooling: str | None = None
    budget: float = DEFAULT_BUDGET_SECONDS
    margin: float = DEFAULT_MARGIN
    finetune_limit: float | None = None
    finetune: Mapping[str, Any] | None = None
    weights: str | os.PathLike[str] | None = None
    img_size: int | None = None
    model_kwargs: Mapping[str, Any] | None = None
    device: str = AUTO
    workers: int | None = None
    rows: RowOptions = field(default_factory=RowOptions)
    cv: int = 5

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise InputError(f"budget is {self.budget:g} seconds; give more than 0")
        if not 0 <= self.margin < 1:
            raise InputError(
                f"margin is {self.margin:g}; it must be at least 0 and below 1, 0.01 being a point"
            )
        check_task(self.rows, HeadOptions())
        # Making the options of fine-tuning refuses wrong ones now, and not after the extraction.
        _ = self.tuning

    @cached_property
    def tuning(self) -> FineTuneOptions:
        """The options of the fine-tuning that is timed, on the same rows and backbone."""
        # Nothing is fine-tuned of another task, and the options are of nothing but classes.
        rows = self.rows if self.is_of_classes else replace(self.rows, **_OF_CLASSES)
        given, shared = self.finetune or {}, {**self._backbone, **flat_options(rows)}
        known = option_names(FineTuneOptions)
        if unknown := sorted(given.keys() - set(known)):
            takes = sorted(set(known) - shared.keys())
            hint = choices(unknown[0], takes, most=len(takes))
            raise InputError(f"finetune has an option {unknown[0]!r}; {hint}", option="finetune")
        if strange := sorted(shared.keys() & given.keys()):
            raise InputError(
                f"finetune has {strange[0]!r}, which must be the same for heads: give it to advise itself"
            )
        return options_of(FineTuneOptions, {**shared, **given}, call="advise")

    @property
    def is_of_classes(self) -> bool:
        """Whether each image has one class, as far as the options say."""
        return self.rows.task in (AUTO_TASK, CLASSIFICATION)

    @property
    def extraction(self) -> dict[str, Any]:
        """The options of `toptune.extract.extract`."""
        return {**self._backbone, "layers": self.layers, "pooling": self.pooling}

    @property
    def training(self) -> dict[str, Any]:
        """The options of `toptune.train.train` that the command for the best head repeats."""
        rows = flat_options(self.rows)
        allow_failed = rows.pop("allow_failed")
        return {**rows, "cv": self.cv, "allow_failed": allow_failed}

    @property
    def _backbone(self) -> dict[str, Any]:
        """The options that say which backbone runs, and on what."""
        return {name: getattr(self, name) for name in _OF_BACKBONE}
