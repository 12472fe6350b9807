"""`RunMetrics`: what ``metrics.json`` says of a run, read in this one place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError
from toptune.store.files.json_records import record_from_json
from toptune.store.files.json_values import read_json


@dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """Figures of merit of a run on its test rows, and what the run cost.

    Attributes
    ----------
    accuracy, balanced_accuracy, macro_f1, log_loss, expected_calibration_error : float, optional
        See `toptune.train.compute_metrics`; None without test rows.
    per_class : mapping
        Figures of each class, in the order of `confusion_matrix`.
    confusion_matrix : list of list of int
        Counts, true x predicted.
    n_test, n_train, n_skipped : int
        Rows that tested, that trained, and of failed images. Older runs do not say how many failed.
    seconds : mapping of str to float
        Wall-clock seconds of each phase, and their ``total``.
    costs : mapping
        See `toptune.costs.meter.CostMeter`. Empty for a run that is older than costs.
    others : mapping
        Keys that this toptune does not know.
    """

    accuracy: float | None = None
    balanced_accuracy: float | None = None
    macro_f1: float | None = None
    log_loss: float | None = None
    expected_calibration_error: float | None = None
    per_class: Mapping[str, object] = field(default_factory=dict)
    # A matrix of a thousand classes has a million counts. numpy checks them when `confusion` is read,
    # because a check of each count in Python is slow.
    confusion_matrix: object = ()
    n_test: int
    n_train: int
    n_skipped: int | None = None
    seconds: Mapping[str, float]
    costs: Mapping[str, object] = field(default_factory=dict)
    others: Mapping[str, object] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of the confusion matrix."""
        return list(self.per_class)

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts (n_classes, n_classes), true x predicted."""
        return np.array(self.confusion_matrix, dtype=np.int64)

    @property
    def total_seconds(self) -> float:
        """Seconds of choosing hyperparameters, training and testing."""
        return self.seconds["total"]

    def cost(self, name: str) -> float | None:
        """Return a cost such as ``energy_joules``; None where the cost was not measured."""
        value = self.costs.get(name)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    @classmethod
    def from_json(cls, content: Mapping[str, object], *, where: str = "metrics.json") -> "RunMetrics":
        """Make a value of the content of ``metrics.json``.

        Raises
        ------
        CorruptError
            If numbers of images or seconds are missing, or a value is of another type.
        """
        return record_from_json(cls, content, where=where)

    @classmethod
    def read(cls, path: Path, *, advice: str) -> "RunMetrics":
        """Read a ``metrics.json``; `advice` is the next step if the file is damaged.

        Raises
        ------
        CorruptError
            See `from_json`; also if the file cannot be read.
        """
        content = read_json(path, advice=advice)
        try:
            return cls.from_json(content, where=str(path))
        except CorruptError as error:
            raise CorruptError(f"{error}; {advice}") from error
