"""From which probability a label is taken to apply: by F1 or precision of left-out rows, or a fixed one."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError

Values = npt.NDArray[np.float64]

EVEN = 0.5
F1, PRECISION, FIXED = "f1", "precision", "fixed"
# A threshold is chosen by so many rows with a label, at least. Where a single row ranks in the middle, the
# highest F1 is that of giving the label to half of all rows.
FEWEST = 5


class ThresholdRule(NamedTuple):
    """How thresholds are chosen.

    Attributes
    ----------
    how : {"f1", "precision", "fixed"}
    value : float
        The precision to reach, or the fixed threshold; of no meaning for ``f1``.
    """

    how: str
    value: float = EVEN

    @classmethod
    def of(cls, text: str | float) -> "ThresholdRule":
        """Read ``f1``, ``precision:0.9`` or a number.

        Raises
        ------
        InputError
            For anything else, and for numbers that are not between 0 and 1.
        """
        word, _, number = str(text).strip().lower().rpartition(":")
        if number == F1 and not word:
            return cls(F1)
        try:
            value = float(number)
        except ValueError:
            value = np.nan
        if word not in ("", PRECISION) or not 0 < value < 1:
            raise InputError(
                f"threshold is {text!r}; give {F1}, a number between 0 and 1, or {PRECISION}:P with a "
                "precision P between 0 and 1",
                option="threshold",
            )
        return cls(word or FIXED, value)


def choose_thresholds(probabilities: Values, truth: Values, rule: ThresholdRule) -> Values:
    """Choose the threshold of each label by rows that the head was not fitted to.

    Parameters
    ----------
    probabilities : ndarray of float64, shape (n, n_labels)
    truth : ndarray of float64, shape (n, n_labels)
        1 where a label applies, 0 where it does not, NaN where unknown.
    rule : ThresholdRule
        ``f1`` takes the threshold of the highest F1; ``precision`` the lowest one whose precision is at least
        the value, or of none the one of the highest precision. A threshold lies halfway between two rows.

    Returns
    -------
    ndarray of float64, shape (n_labels,)
        0.5 for a label that fewer than 5 rows are known to have.

    Examples
    --------
    >>> probabilities = np.array([[0.1], [0.2], [0.3], [0.6], [0.7], [0.8], [0.9]])
    >>> choose_thresholds(probabilities, probabilities > 0.2, ThresholdRule("f1")).tolist()
    [0.25]
    """
    n_labels = truth.shape[1]
    if rule.how == FIXED:
        return np.full(n_labels, rule.value)
    found = np.full(n_labels, EVEN)
    for at in range(n_labels):
        known = ~np.isnan(truth[:, at])
        y, p = truth[known, at], probabilities[known, at]
        if y.sum() >= FEWEST:
            found[at] = _threshold(p, y, rule)
    return found


def _threshold(p: Values, y: Values, rule: ThresholdRule) -> float:
    order = np.argsort(-p, kind="stable")
    ranked, hits = p[order], np.cumsum(y[order])
    # A cut lies below each distinct probability; rows of one probability are on one side.
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    precision = hits[last] / (last + 1)
    if rule.how == F1:
        best = int((2 * hits[last] / (last + 1 + y.sum())).argmax())
    else:
        enough = np.flatnonzero(precision >= rule.value)
        best = int(enough[-1]) if len(enough) else int(precision.argmax())
    above = ranked[last[best]]
    below = ranked[last[best] + 1] if last[best] + 1 < len(ranked) else 0.0
    return float((above + below) / 2)
