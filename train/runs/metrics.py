"""Figures of merit of predictions, all by scikit-learn's definitions but the calibration error."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from sklearn import metrics

CALIBRATION_BINS = 15


class ClassFigures(TypedDict):
    """Figures of one class; ``support`` counts the rows of the class."""

    precision: float
    recall: float
    f1: float
    support: int


class Figures(TypedDict):
    """What `compute_metrics` returns; figures of all rows are None where there is no row."""

    accuracy: float | None
    balanced_accuracy: float | None
    macro_f1: float | None
    log_loss: float | None
    expected_calibration_error: float | None
    per_class: dict[str, ClassFigures]
    confusion_matrix: list[list[int]]
    n_test: int


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
        `expected_calibration_error`), ``per_class`` (``precision``, ``recall``, ``f1``, ``support``),
        ``confusion_matrix``, ``n_test``. The first five are None when there is no row.

    Examples
    --------
    >>> import numpy as np
    >>> probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> found = compute_metrics(["cat", "dog", "dog"], ["cat", "dog", "cat"], probabilities, ["cat", "dog"])
    >>> found["balanced_accuracy"], found["confusion_matrix"]
    (0.75, [[1, 0], [1, 1]])
    """
    position = {name: index for index, name in enumerate(classes)}
    codes = np.array([position[name] for name in truth], dtype=np.int64)
    guesses = np.array([position[name] for name in predicted], dtype=np.int64)
    labels = np.arange(len(classes))
    # scikit-learn refuses to score no rows at all; a run without test rows still lists its classes.
    precision, recall, f1, support = (
        metrics.precision_recall_fscore_support(codes, guesses, labels=labels, zero_division=0.0)
        if len(codes)
        else [np.zeros(len(classes))] * 4
    )
    confusion = (
        metrics.confusion_matrix(codes, guesses, labels=labels)
        if len(codes)
        else np.zeros((len(classes), len(classes)), dtype=np.int64)
    )
    # A class without test rows has no recall. scikit-learn reports 0, which would lower the means over
    # classes.
    present = support > 0
    return {
        "accuracy": float(np.mean(codes == guesses)) if len(codes) else None,
        "balanced_accuracy": float(recall[present].mean()) if len(codes) else None,
        "macro_f1": float(f1[present].mean()) if len(codes) else None,
        "log_loss": float(metrics.log_loss(codes, probabilities, labels=labels)) if len(codes) else None,
        "expected_calibration_error": (
            expected_calibration_error(probabilities.max(axis=1), codes == probabilities.argmax(axis=1))
            if len(codes)
            else None
        ),
        "per_class": {
            name: {
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "f1": float(f1[index]),
                "support": int(support[index]),
            }
            for index, name in enumerate(classes)
        },
        "confusion_matrix": confusion.tolist(),
        "n_test": len(codes),
    }
