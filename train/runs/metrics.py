"""Figures of merit of predictions, all by scikit-learn's definitions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics

CALIBRATION_BINS = 15


def expected_calibration_error(
    confidence: npt.NDArray[np.float64], is_right: npt.NDArray[np.bool_], *, n_bins: int = CALIBRATION_BINS
) -> float:
    """Mean distance between confidence and accuracy, over bins of confidence weighted by their rows.

    Guo et al. 2017, eq. 3, with `n_bins` bins of equal width.

    Parameters
    ----------
    confidence : ndarray of float64, shape (n,)
        Probability of the predicted class.
    is_right : ndarray of bool, shape (n,)
        Whether it is the true one.
    """
    # A confidence on an edge belongs to the bin below, as in the paper: ((m - 1) / M, m / M].
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    gaps = np.bincount(bins, confidence - is_right, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(confidence))


def compute_metrics(
    truth: Sequence[str],
    predicted: Sequence[str],
    probabilities: npt.NDArray[np.float64],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Metrics of DESIGN §7 as a JSON-able mapping.

    Parameters
    ----------
    truth, predicted : sequence of str, length n
        True and predicted class of each row, all of them among `classes`.
    probabilities : ndarray of float64, shape (n, n_classes)
        Rows summing to 1; log-loss clips them as scikit-learn does.
    classes : sequence of str
        Names; every one has a row and a column in ``confusion_matrix`` (true x predicted).

    Returns
    -------
    dict
        ``accuracy``, ``balanced_accuracy`` and ``macro_f1`` (over the classes that occur among the
        true rows), ``log_loss``, ``expected_calibration_error`` (see
        `expected_calibration_error`), ``per_class`` (``precision``, ``recall``, ``f1``, ``support``),
        ``confusion_matrix``, ``n_test``; the single figures are None when there is no row.
    """
    position = {name: index for index, name in enumerate(classes)}
    codes = np.array([position[name] for name in truth], dtype=np.int64)
    guesses = np.array([position[name] for name in predicted], dtype=np.int64)
    labels = np.arange(len(classes))
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
