"""Figures of merit of predictions: by scikit-learn's definitions, but for the calibration error.

The figures are computed from four numbers a row and from a sparse confusion matrix: ten thousand classes have
a hundred million pairs, of which test rows fill few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_array

from toptune.store.datasets.parquet_tables import read_parquet
from toptune.store.files.reading import read_linked
from toptune.store.files.writing import write_made
from toptune.train.figures.confusion_plot import save_confusion_image

CALIBRATION_BINS = 15
# Up to so many classes, the figures of each class and the confusion matrix are values in ``metrics.json``.
# Beyond, they are files beside it: the matrix of 1,000 classes takes 6 MB as text, of 10,000 classes 600 MB.
LISTED_CLASSES = 200
PER_CLASS, CONFUSION, IMAGE = "per_class.parquet", "confusion.parquet", "confusion_matrix.png"

Codes = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


class ClassFigures(TypedDict):
    """Figures of one class; ``support`` counts the rows of the class."""

    precision: float
    recall: float
    f1: float
    support: int


class Figures(TypedDict, total=False):
    """What `compute_metrics` returns; figures of all rows are None where there is no row."""

    accuracy: float | None
    balanced_accuracy: float | None
    macro_f1: float | None
    log_loss: float | None
    expected_calibration_error: float | None
    per_class: dict[str, ClassFigures]
    confusion_matrix: list[list[int]]
    n_test: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """What a classifier said of rows whose class is known: all of the probabilities that figures need.

    Attributes
    ----------
    codes, guesses : ndarray of int64, shape (n,)
        Position of the true and of the predicted class among the classes.
    confidence, likelihood : ndarray of float64, shape (n,)
        Probability of the predicted and of the true class.
    """

    codes: Codes
    guesses: Codes
    confidence: Values
    likelihood: Values

    @classmethod
    def of(cls, codes: Codes, probabilities: Values) -> Self:
        """Take the answers out of probabilities (n, n_classes)."""
        return cls(
            codes=codes,
            guesses=probabilities.argmax(axis=1),
            confidence=probabilities.max(axis=1),
            likelihood=probabilities[np.arange(len(codes)), codes],
        )

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> Self:
        """Put the answers of several parts of the rows one behind the other."""
        return cls(
            codes=np.concatenate([np.zeros(0, np.int64), *(part.codes for part in parts)]),
            guesses=np.concatenate([np.zeros(0, np.int64), *(part.guesses for part in parts)]),
            confidence=np.concatenate([np.zeros(0), *(part.confidence for part in parts)]),
            likelihood=np.concatenate([np.zeros(0), *(part.likelihood for part in parts)]),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassTables:
    """How often each class was taken for each, and the figures of each class that follow.

    Attributes
    ----------
    classes : sequence of str
    confusion : sparse array of int64, shape (n_classes, n_classes)
        Counts, true x predicted.
    """

    classes: Sequence[str]
    confusion: csr_array

    @classmethod
    def of(cls, answers: Answers, classes: Sequence[str]) -> Self:
        """Count the pairs of true and predicted class."""
        ones = np.ones(len(answers.codes), np.int64)
        shape = (len(classes), len(classes))
        return cls(classes=classes, confusion=csr_array((ones, (answers.codes, answers.guesses)), shape))

    @property
    def support(self) -> Codes:
        """Rows of each class, (n_classes,)."""
        return np.asarray(self.confusion.sum(axis=1), np.int64)

    @property
    def precision(self) -> Values:
        """Share of the rows predicted as a class that are of the class; 0 where none was predicted so."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @property
    def recall(self) -> Values:
        """Share of the rows of a class that were predicted as the class; 0 for a class without rows."""
        return _ratio(self.confusion.diagonal(), self.support)

    @property
    def f1(self) -> Values:
        """Harmonic mean of precision and recall; 0 where both are 0."""
        return _ratio(2 * self.confusion.diagonal(), self.confusion.sum(axis=0) + self.support)

    @property
    def is_listed(self) -> bool:
        """Whether the classes are few enough that ``metrics.json`` lists them."""
        return len(self.classes) <= LISTED_CLASSES

    @property
    def files(self) -> dict[str, str]:
        """The files that `write` makes, by the keys that name them in ``metrics.json``."""
        return {} if self.is_listed else {"per_class_file": PER_CLASS, "confusion_file": CONFUSION}

    def listed(self) -> Figures:
        """Give ``per_class`` and ``confusion_matrix`` as JSON values; nothing if the classes are many."""
        if not self.is_listed:
            return {}
        columns = (self.precision, self.recall, self.f1, self.support)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return {
            "per_class": {
                name: {"precision": precision, "recall": recall, "f1": f1, "support": support}
                for name, (precision, recall, f1, support) in zip(self.classes, rows, strict=True)
            },
            "confusion_matrix": self.confusion.toarray().tolist(),
        }

    def draw(self, folder: Path, *, title: str) -> None:
        """Draw the confusion matrix."""
        save_confusion_image(folder / IMAGE, self.confusion, self.classes, title=title)

    def write(self, folder: Path) -> None:
        """Write ``per_class.parquet`` and ``confusion.parquet``, if the classes are many.

        The confusion matrix has a row for each pair of classes that occurs: ``label``, ``predicted`` and
        ``count``.
        """
        if self.is_listed:
            return
        names, pairs = pa.array(self.classes, pa.string()), self.confusion.tocoo()
        figures = {"precision": self.precision, "recall": self.recall, "f1": self.f1, "support": self.support}
        write_made(folder / PER_CLASS, partial(pq.write_table, pa.table({"class": names, **figures})))
        label, predicted = (names.take(pa.array(codes)) for codes in pairs.coords)
        counts = {"label": label, "predicted": predicted, "count": pairs.data}
        write_made(folder / CONFUSION, partial(pq.write_table, pa.table(counts)))

    @classmethod
    def from_files(cls, folder: Path) -> Self:
        """Read what `write` wrote.

        Raises
        ------
        FileNotFoundError, ValueError, TypeError, KeyError
            If a file is missing or damaged, or names a class that there is not.
        StoreError
            If the system refuses to read a file.
        """
        classes = read_parquet(read_linked(folder / PER_CLASS), columns=["class"])["class"].to_pylist()
        pairs = read_parquet(read_linked(folder / CONFUSION), columns=["label", "predicted", "count"])
        position = {name: code for code, name in enumerate(classes)}
        codes = tuple([position[name] for name in pairs[key].to_pylist()] for key in ("label", "predicted"))
        shape = (len(classes), len(classes))
        return cls(classes=classes, confusion=csr_array((pairs["count"].to_numpy(), codes), shape))


def expected_calibration_error(
    confidence: npt.NDArray[np.float64], is_right: npt.NDArray[np.bool_], *, n_bins: int = CALIBRATION_BINS
) -> float:
    """Compute the mean distance between confidence and accuracy, over bins weighted by the number of rows.

    The bins are `n_bins` intervals of confidence of equal width (Guo et al. 2017, "On calibration of modern
    neural networks", eq. 3).

    Parameters
    ----------
    confidence : ndarray of float64, shape (n,)
        Probability of the predicted class.
    is_right : ndarray of bool, shape (n,)
        Whether the predicted class is the true class.
    """
    # A confidence on an edge belongs to the bin below, as in the paper, whose bins are ((m - 1) / M, m / M].
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    # The gap of a bin times its rows is a plain sum, so that empty bins need no special case.
    gaps = np.bincount(bins, confidence - is_right, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(confidence))


def figures_of(answers: Answers, tables: ClassTables) -> Figures:
    """Compute the metrics of answers, as JSON values; classes are listed where they are few.

    Parameters
    ----------
    answers : Answers
    tables : ClassTables
        The tables of these answers.

    Returns
    -------
    dict
        As from `compute_metrics`.
    """
    n, is_right = len(answers.codes), answers.codes == answers.guesses
    # A class without test rows has no recall. scikit-learn reports 0, which would lower the means over
    # classes.
    present = tables.support > 0
    # As scikit-learn clips them; a probability of 0 would make the loss infinite.
    tiny = np.finfo(np.float64).eps
    likelihood = np.clip(answers.likelihood, tiny, 1 - tiny)
    figures: Figures = {
        "accuracy": float(is_right.mean()) if n else None,
        "balanced_accuracy": float(tables.recall[present].mean()) if n else None,
        "macro_f1": float(tables.f1[present].mean()) if n else None,
        "log_loss": float((-np.log(likelihood)).mean()) if n else None,
        "expected_calibration_error": expected_calibration_error(answers.confidence, is_right) if n else None,
    }
    return {**figures, **tables.listed(), "n_test": n}


def compute_metrics(
    truth: Sequence[str],
    predicted: Sequence[str],
    probabilities: npt.NDArray[np.float64],
    classes: Sequence[str],
) -> Figures:
    """Compute the metrics of predictions, as JSON values.

    Parameters
    ----------
    truth, predicted : sequence of str, length n
        True and predicted class of each row, all of them among `classes`.
    probabilities : ndarray of float64, shape (n, n_classes)
        Rows summing to 1; log-loss clips them as scikit-learn does.
    classes : sequence of str
        Names of the classes, in the order of the columns of `probabilities` and of the rows and columns of
        ``confusion_matrix`` (true x predicted).

    Returns
    -------
    dict
        ``accuracy``, ``balanced_accuracy`` and ``macro_f1`` (over the classes that occur among the
        true rows), ``log_loss``, ``expected_calibration_error`` (see
        `expected_calibration_error`), ``n_test``. The first five are None when there is no row. With at most
        200 classes also ``per_class`` (``precision``, ``recall``, ``f1``, ``support``) and
        ``confusion_matrix``; of more classes, a RUN folder holds both as files.

    Examples
    --------
    >>> import numpy as np
    >>> probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> found = compute_metrics(["cat", "dog", "dog"], ["cat", "dog", "cat"], probabilities, ["cat", "dog"])
    >>> found["balanced_accuracy"], found["confusion_matrix"]
    (0.75, [[1, 0], [1, 1]])
    """
    answers = Answers.of(codes_of(truth, classes), probabilities)
    named = Answers(
        codes=answers.codes,
        guesses=codes_of(predicted, classes),
        confidence=answers.confidence,
        likelihood=answers.likelihood,
    )
    return figures_of(named, ClassTables.of(named, classes))


def codes_of(names: Sequence[str], classes: Sequence[str]) -> Codes:
    """Return the position of each name among the classes."""
    position: Mapping[str, int] = {name: index for index, name in enumerate(classes)}
    return np.array([position[name] for name in names], dtype=np.int64)


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> Values:
    """Divide, and give 0 where there is nothing to divide by."""
    return np.asarray(part, np.float64) / np.maximum(np.asarray(whole, np.float64), 1)
