"""`RunMetrics`: what ``metrics.json`` says of a run, read in this one place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from toptune.errors import CorruptError
from toptune.store.files.json_records import record_from_json
from toptune.store.files.json_values import read_json
from toptune.train.figures.metrics import ClassTables


@dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """Figures of merit of a run on its test rows, and what the run cost.

    Attributes
    ----------
    accuracy, balanced_accuracy, macro_f1, log_loss, expected_calibration_error : float, optional
        See `toptune.train.compute_metrics`; None without test rows.
    per_class : mapping
        Figures of each class, in the order of `confusion_matrix`. Empty where there are many classes.
    confusion_matrix : list of list of int
        Counts, true x predicted. Empty where there are many classes.
    per_class_file, confusion_file : str, optional
        The files beside ``metrics.json`` that hold both where there are many classes; see `tables`.
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
    # Older runs hold a matrix of any size here. numpy checks the counts when `tables` are read, because a
    # check of each count in Python is slow.
    confusion_matrix: object = ()
    per_class_file: str | None = None
    confusion_file: str | None = None
    n_test: int
    n_train: int
    n_skipped: int | None = None
    seconds: Mapping[str, float]
    costs: Mapping[str, object] = field(default_factory=dict)
    others: Mapping[str, object] = field(default_factory=dict)

    def tables(self, folder: Path) -> ClassTables:
        """Read the confusion matrix and the figures of each class of a RUN folder, wherever they are.

        Raises
        ------
        CorruptError
            If a file is missing or damaged, or the counts are not those of the classes and test rows.
        """
        try:
            if self.confusion_file is None:
                counts = csr_array(np.array(self.confusion_matrix, dtype=np.int64))
                tables = ClassTables(classes=list(self.per_class), confusion=counts)
            else:
                # The names are fixed: a name in a file must not lead out of the folder.
                tables = ClassTables.from_files(folder)
        except (FileNotFoundError, ValueError, TypeError, KeyError, OverflowError) as error:
            raise CorruptError(f"the confusion matrix of run {folder} cannot be read ({error})") from error
        n, counts = len(tables.classes), tables.confusion
        if counts.shape != (n, n) or (counts.data < 0).any() or counts.sum() != self.n_test:
            raise CorruptError(
                f"the confusion matrix of run {folder} is not that of its {n} classes and {self.n_test} test "
                "images"
            )
        return tables

    def figure(self, name: str) -> float | None:
        """Return a figure of any task by its name; None where the run has none.

        Raises
        ------
        CorruptError
            If the value is no number.
        """
        value = vars(self).get(name, self.others.get(name))
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise CorruptError(f"metrics.json has {name} {value!r}, which is no number")
        return None if value is None else float(value)

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
