"""`Evidence` holds what was measured of frozen heads and of fine-tuning, before anything is advised."""

from dataclasses import dataclass

import numpy as np

from toptune.errors import InputError

DEFAULT_MARGIN = 0.01
# If inner layers add at least this accuracy to the last layer, the task counts as far from the pretraining.
FAR_GAIN = 0.03


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Figures that were measured on the training images.

    Attributes
    ----------
    n_train, n_classes : int
        Number of training images and of classes.
    pictures_per_class : float
        Median number of training images over the classes.
    last_accuracy : float
        Accuracy of the best head on the last layer, on rows left out by cross-validation.
    inner_accuracy : float or None
        Accuracy of the best head that saw inner layers; None where no such head was tried.
    frozen_seconds : float or None
        Seconds of extraction and of the best head.
    finetune_seconds : tuple of float or None
        Least and most seconds that fine-tuning would take; None where fine-tuning was not timed.
    margin : float
        Accuracy that fine-tuning has to gain to be worth while.
    finetune_limit : float or None
        Seconds that fine-tuning may take.

    Raises
    ------
    InputError
        If an accuracy or the margin lies outside [0, 1], or there is no training image.
    """

    n_train: int
    n_classes: int
    pictures_per_class: float
    last_accuracy: float
    inner_accuracy: float | None = None
    frozen_seconds: float | None = None
    finetune_seconds: tuple[float, float] | None = None
    margin: float = DEFAULT_MARGIN
    finetune_limit: float | None = None

    def __post_init__(self) -> None:
        for name in ("last_accuracy", "inner_accuracy", "margin"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} is {value:g}; it must lie between 0 and 1")
        if self.n_train < 1:
            raise InputError(f"n_train is {self.n_train}; there must be at least 1 training image")

    @property
    def error(self) -> float:
        """Share of left-out rows that the best frozen head gets wrong."""
        return 1 - max(self.last_accuracy, self.inner_accuracy or 0.0)

    @property
    def standard_error(self) -> float:
        """Standard error of `error`; see `adjusted_standard_error`."""
        return adjusted_standard_error(self.error, self.n_train)

    @property
    def inner_gain(self) -> float | None:
        """Accuracy that inner layers add to the last one."""
        return None if self.inner_accuracy is None else self.inner_accuracy - self.last_accuracy

    @property
    def is_far(self) -> bool:
        """Whether inner layers add so much that the task counts as far from the pretraining."""
        # 0.83 - 0.80 is just below 0.03 in floating point.
        return self.inner_gain is not None and self.inner_gain >= FAR_GAIN - 1e-12


def adjusted_standard_error(share: float, n: int) -> float:
    """Return the standard error of a share of n rows, which is above 0 even for shares 0 and 1.

    Two rows of each outcome are added to the rows that were seen (Agresti & Coull 1998).
    """
    share = (share * n + 2) / (n + 4)
    return float(np.sqrt(share * (1 - share) / (n + 4)))
