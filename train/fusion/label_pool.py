"""Heads of several labels are weighed as heads of classes are: a row and a label make a row of two classes.

The pool of two classes is ``logit p = sum_m w_m logit p_m / T`` for the probabilities p_m that the heads give
a label. All labels share the weights and the temperature, as classes do.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from toptune.train.fusion.pool import Pool, logs_of

if TYPE_CHECKING:  # imports torch, which a pool that is only applied does not need
    from toptune.train.fusion.weights import LeftOutRows

Matrix = npt.NDArray[np.float64]


def pair_logs(probabilities: Matrix) -> Matrix:
    """Return the logarithms (n * n_labels, 2) of probabilities (n, n_labels): not to apply, and to apply."""
    flat = probabilities.ravel()
    return logs_of(np.stack([1 - flat, flat], axis=1))


def pair_rows(probabilities: Sequence[Matrix], truth: Matrix, folds: npt.NDArray[np.int64]) -> "LeftOutRows":
    """Return the pairs of left-out rows and known labels, for `toptune.train.fusion.weights.weigh`.

    Parameters
    ----------
    probabilities : sequence of ndarray, shape (n, n_labels)
        Of each head, for rows that it had left out.
    truth : ndarray of float64, shape (n, n_labels)
        1, 0, or NaN where unknown.
    folds : ndarray of int64, shape (n,)
    """
    from toptune.train.fusion.weights import LeftOutRows

    known = np.isfinite(truth).ravel()
    return LeftOutRows(
        logs=np.stack([pair_logs(each)[known] for each in probabilities]),
        codes=truth.ravel()[known].astype(np.int64),
        weights=np.ones(int(known.sum())),
        folds=np.repeat(folds, truth.shape[1])[known],
    )


def pooled(pool: Pool, probabilities: Sequence[Matrix]) -> Matrix:
    """Combine the probabilities (n, n_labels) of heads by the weights of a pool."""
    together = pool.probabilities(np.stack([pair_logs(each) for each in probabilities]))
    found: Matrix = together[:, 1].reshape(probabilities[0].shape)
    return found
