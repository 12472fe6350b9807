"""`Pool`: weights of heads with one temperature, which combine what the heads say of rows.

`toptune.train.fusion.weights` chooses the weights. This module imports no torch, so that a run that is
refused is refused at once.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

Matrix = npt.NDArray[np.float64]

# Probabilities below this one count as this one: a weight times the logarithm of 0 would have no value.
LEAST_PROBABILITY = 1e-300


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Weights of heads, and the temperature of what they say together.

    Attributes
    ----------
    weights : ndarray of float64, shape (n_members,)
        At least 0, of sum 1.
    temperature : float
    is_equal : bool
        Whether all heads weigh the same because the rows do not tell them apart.
    """

    weights: Matrix
    temperature: float
    is_equal: bool

    def scores(self, logs: Matrix) -> Matrix:
        """Return the scores (n, n_classes) of log-probabilities (n_members, n, n_classes)."""
        scores: Matrix = np.tensordot(self.weights, logs, axes=1)
        return scores

    def probabilities(self, logs: Matrix) -> Matrix:
        """Return the probabilities (n, n_classes) of log-probabilities (n_members, n, n_classes)."""
        probabilities: Matrix = softmax(self.scores(logs) / self.temperature, axis=1)
        return probabilities


def logs_of(probabilities: npt.ArrayLike) -> Matrix:
    """Return the logarithms of probabilities, none of which counts as less than `LEAST_PROBABILITY`."""
    logs: Matrix = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), LEAST_PROBABILITY))
    return logs
