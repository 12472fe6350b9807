"""Sets of labels that hold the true one with a stated probability: split conformal prediction.

The score of a class is the probability that the classifier gives it. The threshold is the quantile of the
scores of the true classes of rows that the fits had left out: the ``ceil((n + 1) coverage)``-th largest of n
(Sadinle, Lei & Wasserman 2019, "Least ambiguous set-valued classifiers", sec. 2; Angelopoulos & Bates 2023,
"Conformal prediction: a gentle introduction", sec. 1). A set holds every class whose probability reaches the
threshold. Left-out scores of all folds are pooled, and sets are those of the fit to all rows: the
guarantee of a separate calibration set holds approximately, as for the jackknife.
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
    # As a decimal number, because 0.95 * 20 must be 19 and no more.
    return math.ceil(Decimal(str(coverage)) * (n + 1))


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


def label_sets(probabilities: Values, threshold: float) -> npt.NDArray[np.bool_]:
    """Tell of each class (n, n_classes) whether it is in the set of a row.

    A set is empty if even the most probable class is less probable than the threshold.
    """
    members: npt.NDArray[np.bool_] = probabilities >= threshold
    return members
