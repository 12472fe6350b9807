"""Sets of labels that hold the true one with a stated probability: split conformal prediction.

The score of a class is the probability that the classifier gives it. The threshold is the quantile of the
scores of the true classes of rows that the fits had left out: the ``ceil((n + 1) coverage)``-th largest of n
(Sadinle, Lei & Wasserman 2019, "Least ambiguous set-valued classifiers", sec. 2; Angelopoulos & Bates 2023,
"Conformal prediction: a gentle introduction", sec. 1). A set holds every class whose probability reaches the
threshold. Left-out scores of all folds are pooled, and sets are those of the fit to all rows: the
guarantee of a separate calibration set holds approximately, as for the jackknife.

Where several labels apply, a set is to hold a stated share of them on average: conformal risk control of the
share that is missed (Angelopoulos et al. 2022, arXiv 2208.02814, eq. 4 and sec. 3.1).
"""

import math
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError

Values = npt.NDArray[np.float64]


def check_coverage(coverage: float) -> float:
    """Return a coverage that lies between 0 and 1.

    Raises
    ------
    InputError
        With the value and the limits.
    """
    if not 0 < coverage < 1:
        raise InputError(
            f"coverage is {coverage:g}; it must lie above 0 and below 1, such as 0.95", option="coverage"
        )
    return coverage


def rank_of(n: int, coverage: float) -> int:
    """Return which of n left-out scores, in their order, is the threshold; above n there is none.

    Examples
    --------
    >>> rank_of(19, 0.95), rank_of(18, 0.95)
    (19, 19)
    """
    return math.ceil(_covered(n, coverage))


def _covered(n: int, coverage: float) -> Decimal:
    """Return the share of n left-out rows and the row to come that a coverage asks for, exactly."""
    # As a decimal number, because 0.95 * 20 must be 19 and no more.
    return Decimal(str(coverage)) * (n + 1)


def threshold_of(likelihood: Values, coverage: float) -> float:
    """Return the probability that a class needs to be in a set.

    Parameters
    ----------
    likelihood : ndarray of float64, shape (n,)
        Left-out probabilities of the true classes.
    coverage : float
        Above 0 and below 1.

    Returns
    -------
    float
        0 if n is too small for the coverage: every class is in every set then.

    Raises
    ------
    InputError
        If the coverage is not between 0 and 1.

    Examples
    --------
    >>> threshold_of(np.array([0.9, 0.2, 0.8, 0.7, 0.6, 0.95, 0.5, 0.99, 0.4]), 0.8)
    0.4
    """
    rank = rank_of(len(likelihood), check_coverage(coverage))
    if rank > len(likelihood):
        return 0.0
    return float(np.sort(likelihood)[len(likelihood) - rank])


def share_threshold_of(rows: npt.NDArray[np.int64], likelihood: Values, coverage: float) -> float:
    """Return the probability that a label needs to be in a set that is to hold a share of the true labels.

    It is the largest one with ``(sum of shares that n left-out rows miss + 1) / (n + 1) <= 1 - coverage``.
    Where every row has one label, it is that of `threshold_of`.

    Parameters
    ----------
    rows : ndarray of int64, shape (m,)
        Row of each pair of a left-out row and a label that applies to it; n are different.
    likelihood : ndarray of float64, shape (m,)
        Left-out probability of the label.
    coverage : float
        Above 0 and below 1: the share of its true labels that a set holds on average.

    Returns
    -------
    float
        0 if n is too small for the coverage: every label is in every set then.

    Raises
    ------
    InputError
        If the coverage is not between 0 and 1.

    Examples
    --------
    Nine rows, the first of which has two labels; half of a label and one label may be missed:

    >>> rows = np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    >>> likelihood = np.array([0.1, 0.9, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    >>> share_threshold_of(rows, likelihood, 0.75)
    0.3
    """
    _, codes, counts = np.unique(rows, return_inverse=True, return_counts=True)
    n = len(counts)
    room = float(n - _covered(n, check_coverage(coverage)))
    if room < 0:
        return 0.0
    order = np.argsort(likelihood)
    found, first = np.unique(likelihood[order], return_index=True)
    missed = np.append(0.0, np.cumsum(1 / counts[codes[order]]))[first]
    # Sums of thirds are a little off.
    return float(found[np.searchsorted(missed, room + 1e-9, side="right") - 1])


def label_sets(probabilities: Values, threshold: float) -> npt.NDArray[np.bool_]:
    """Tell of each class (n, n_classes) whether it is in the set of a row.

    A set is empty if even the most probable class is less probable than the threshold.
    """
    members: npt.NDArray[np.bool_] = probabilities >= threshold
    return members
