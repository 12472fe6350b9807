"""Turn scores into probabilities: a softmax with one temperature T, fitted to left-out rows.

``p_c = exp(s_c / T) / sum_k exp(s_k / T)`` for the scores s of a row. This is temperature scaling (Guo et al.
2017, "On calibration of modern neural networks", §4.2): T > 1 makes a head less sure of itself, T < 1 more
sure, and the order of the classes, hence every prediction, stays as it was.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import softmax as scipy_softmax

Matrix = npt.NDArray[np.float64]

# Only T is fitted, so rows beyond this number change T by less than the uncertainty of T.
CALIBRATION_ROWS = 5_000
# T is searched between e^-12 and e^6 standard deviations of the scores.
_LOG_RANGE = (-12.0, 6.0)


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature and the log-loss that it reaches on the rows it was fitted to.

    Attributes
    ----------
    value : float
        T, in units of the scores.
    log_loss : float
        Weighted mean negative log-probability of the true class, in nats per row.
    """

    value: float
    log_loss: float


def softmax(scores: npt.ArrayLike, temperature: float) -> Matrix:
    """Return the probabilities ``softmax(scores / temperature)``.

    Parameters
    ----------
    scores : array-like, shape (n, n_classes)
    temperature : float
        T, in units of the scores.

    Returns
    -------
    ndarray of float64, shape (n, n_classes)
        Rows sum to 1.

    Examples
    --------
    >>> softmax([[0.0, 0.0]], temperature=1.0).tolist()
    [[0.5, 0.5]]
    """
    result: Matrix = scipy_softmax(np.asarray(scores, dtype=np.float64) / temperature, axis=1)
    return result


def fit_temperature(
    scores: npt.ArrayLike,
    codes: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64] | None = None,
) -> Temperature:
    """Find the temperature of least log-loss on rows that the head was not fitted to.

    The targets are smoothed before the fit: of n rows, each gives a share 1 / (n + 2) of its weight to the
    other classes, as Platt (1999, §2.2) does for two classes. Without that, a few rows that are all
    classified correctly would drive T to 0 and every probability to 1. The log-loss returned is that of the
    plain targets.

    Parameters
    ----------
    scores : array-like, shape (n, n_classes)
        Scores of rows that the fit behind them had left out.
    codes : ndarray of int64, shape (n,)
        True class of each row, 0 to n_classes - 1.
    weights : ndarray of float64, shape (n,), optional
        Weights of the rows in the log-loss; 1 by default.

    Examples
    --------
    A head that is right in three rows of four, always by the same margin of 2, should say 3/4. The smoothing
    of so few rows asks for a little less.

    >>> import numpy as np
    >>> scores = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    >>> fitted = fit_temperature(scores, np.array([0, 0, 0, 1]))
    >>> round(float(softmax(scores[:1], fitted.value)[0, 0]), 2)
    0.67
    """
    # One copy is worked on in place: of many classes, the scores of 5,000 rows are hundreds of megabytes.
    below_best = np.array(scores, dtype=np.float64)
    weights = np.ones(len(below_best)) if weights is None else weights
    spread = float(below_best.std()) or 1.0

    # Softmax does not change when a row is shifted: below the largest score, no exponential can overflow.
    below_best -= below_best.max(axis=1, keepdims=True)
    below_best /= spread
    of_truth = below_best[np.arange(len(codes)), codes]
    doubt = 1 / (len(codes) + 2)
    of_others = (below_best.sum(axis=1) - of_truth) / max(1, below_best.shape[1] - 1)
    in_doubt = (1 - doubt) * of_truth + doubt * of_others

    # In log T the loss has one minimum over many orders of magnitude, so a bounded scalar search finds it.
    def loss(log_temperature: float, of_target: Matrix) -> float:
        inverse = np.exp(-log_temperature)
        scaled = below_best * inverse
        normalizer = np.log(np.exp(scaled, out=scaled).sum(axis=1))
        return float(weights @ (normalizer - of_target * inverse) / weights.sum())

    found = minimize_scalar(
        loss, args=(in_doubt,), bounds=_LOG_RANGE, method="bounded", options={"xatol": 1e-3}
    )
    return Temperature(spread * float(np.exp(found.x)), loss(found.x, of_truth))
