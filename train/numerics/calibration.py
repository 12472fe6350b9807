"""Probabilities from scores: a softmax with one temperature (Guo et al. 2017, §4.2)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import softmax as scipy_softmax

Matrix = npt.NDArray[np.float64]

# One number is fitted: more rows than this change it by less than it is known.
CALIBRATION_ROWS = 5_000
_LOG_RANGE = (-12.0, 6.0)  # of temperature over the scores' own spread


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature and the log-loss (natural, a row) that it reaches where it was fitted."""

    value: float
    log_loss: float


def softmax(scores: npt.ArrayLike, temperature: float) -> Matrix:
    """Probabilities (n, n_classes) of ``softmax(scores / temperature)``, rows summing to 1."""
    result: Matrix = scipy_softmax(np.asarray(scores, dtype=np.float64) / temperature, axis=1)
    return result


def fit_temperature(
    scores: npt.ArrayLike,
    codes: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64] | None = None,
) -> Temperature:
    """Temperature of least log-loss for scores of rows that the fit had not seen.

    Of n rows, each counts 1 / (n + 2) for the other classes (Platt 1999, §2.2): few rows, all of them
    right, do not make certain. The log-loss given is that of the rows themselves.

    Parameters
    ----------
    scores : array-like, shape (n, n_classes)
        Out-of-fold scores.
    codes : ndarray of int64, shape (n,)
        True classes.
    weights : ndarray of float64, shape (n,), optional
        Weights of the rows.
    """
    values = np.asarray(scores, dtype=np.float64)
    weights = np.ones(len(values)) if weights is None else weights
    spread = float(values.std()) or 1.0

    below_best = (values - values.max(axis=1, keepdims=True)) / spread
    of_truth = below_best[np.arange(len(codes)), codes]
    doubt = 1 / (len(codes) + 2)
    of_others = (below_best.sum(axis=1) - of_truth) / max(1, values.shape[1] - 1)
    in_doubt = (1 - doubt) * of_truth + doubt * of_others

    def loss(log_temperature: float, of_target: Matrix) -> float:
        inverse = np.exp(-log_temperature)
        normaliser = np.log(np.exp(below_best * inverse).sum(axis=1))
        return float(weights @ (normaliser - of_target * inverse) / weights.sum())

    found = minimize_scalar(
        loss, args=(in_doubt,), bounds=_LOG_RANGE, method="bounded", options={"xatol": 1e-3}
    )
    return Temperature(spread * float(np.exp(found.x)), loss(found.x, of_truth))
