"""Weights of several heads, chosen by the log-loss of rows that none of the heads was fitted to.

The fused probabilities of a row are ``softmax(sum_m w_m log p_m / T)`` for the calibrated probabilities p_m
of the heads: a logarithmic opinion pool (Genest & Zidek 1986, "Combining probability distributions"; Heskes
1998, "Selecting weighting factors in logarithmic opinion pools") with weights w_m >= 0 of sum 1 and one
temperature T. Choosing weights by rows that were left out is stacking (Wolpert 1992, "Stacked
generalization"). The log-loss is convex in ``w / T``, because the model is a multinomial logistic regression
with one coefficient a head: the minimum is found whatever the start.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from toptune.train.estimators.fit_report import LeftOutFigures
from toptune.train.fusion.pool import Pool
from toptune.train.numerics.calibration import fit_temperature
from toptune.train.passes.training_rows import even_sample
from toptune.train.solvers.selection import TIE_STANDARD_ERRORS

Matrix = npt.NDArray[np.float64]

# Only a weight a head is fitted, so that many rows of many classes say no more than a sample of them.
MOST_VALUES = 5_000_000
_TOLERANCE = 1e-10


@dataclass(frozen=True, kw_only=True, eq=False)
class LeftOutRows:
    """What several heads say of rows that they had left out.

    Attributes
    ----------
    logs : ndarray of float64, shape (n_members, n, n_classes)
        Logarithms of the calibrated probabilities.
    codes : ndarray of int64, shape (n,)
        True class of each row.
    weights : ndarray of float64, shape (n,)
        Weight of each row in the log-loss.
    folds : ndarray of int64, shape (n,)
        Fold that each row was left out with.
    """

    logs: Matrix
    codes: npt.NDArray[np.int64]
    weights: Matrix
    folds: npt.NDArray[np.int64]

    def of(self, rows: npt.NDArray[np.generic]) -> "LeftOutRows":
        """Return some of the rows, by a mask or by positions."""
        return LeftOutRows(
            logs=self.logs[:, rows],
            codes=self.codes[rows],
            weights=self.weights[rows],
            folds=self.folds[rows],
        )

    def sampled(self) -> "LeftOutRows":
        """Return evenly spread rows, so many that the values fit into `MOST_VALUES`."""
        members, n, n_classes = self.logs.shape
        return self.of(even_sample(n, max(1, MOST_VALUES // (members * n_classes))))

    def by_fold(self) -> "Iterator[tuple[npt.NDArray[np.bool_], LeftOutRows]]":
        """Yield for each fold the mask of its rows, and the rows of the other folds."""
        for fold in np.unique(self.folds):
            is_left = self.folds == fold
            yield is_left, self.of(~is_left)

    @property
    def n_folds(self) -> int:
        """Number of folds that have rows."""
        return len(np.unique(self.folds))

    def losses(self, pool: Pool) -> Matrix:
        """Return the log-loss (n,) of each row by some weights."""
        logs = log_softmax(pool.scores(self.logs) / pool.temperature, axis=1)
        losses: Matrix = -logs[np.arange(len(self.codes)), self.codes]
        return losses

    def mean(self, values: npt.ArrayLike) -> float:
        """Return the weighted mean over the rows."""
        return float(self.weights @ np.asarray(values, dtype=np.float64) / self.weights.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighing:
    """The weights that were chosen, and what left-out rows say of them.

    Attributes
    ----------
    pool : Pool
        The weights for new rows.
    left_out : LeftOutFigures
        Accuracy and log-loss of the fused head by weights that were chosen on the rows of the other folds.
    gain, standard_error : float
        By how much chosen weights lower the left-out log-loss below the one of equal weights (nats per
        row), and the standard error of that difference. Both are 0 where there are too few folds to tell.
    losses : ndarray of float64, shape (n,)
        Log-loss of each row, by weights that were chosen on the rows of the other folds.
    is_right : ndarray of bool, shape (n,)
        Whether the fused head, by such weights, gives the row its class.
    """

    pool: Pool
    left_out: LeftOutFigures
    gain: float
    standard_error: float
    losses: Matrix
    is_right: npt.NDArray[np.bool_]


def weigh(rows: LeftOutRows) -> Weighing:
    """Choose the weights of heads by rows that the heads had left out.

    All heads weigh the same, unless weights that were chosen without a row's fold lower its log-loss by more
    than half a standard error of the paired differences. The left-out figures are honest: for each fold, that
    decision and the weights come from the rows of the other folds alone.

    Parameters
    ----------
    rows : LeftOutRows
        At most `MOST_VALUES` log-probabilities are used, of evenly spread rows.

    Examples
    --------
    The first head is right three times of four, the second guesses; new rows are left to the first.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> codes = rng.integers(2, size=400)
    >>> right = np.where(rng.random(400) < 0.75, codes, 1 - codes)
    >>> good = np.where(np.arange(2) == right[:, None], 0.75, 0.25)
    >>> guess = np.where(np.arange(2) == rng.integers(2, size=400)[:, None], 0.6, 0.4)
    >>> found = weigh(
    ...     LeftOutRows(
    ...         logs=np.log([good, guess]), codes=codes, weights=np.ones(400), folds=np.arange(400) % 5
    ...     )
    ... )
    >>> found.pool.is_equal, (found.pool.weights > 0.9).tolist()
    (False, [True, False])
    """
    if rows.n_folds < 2:
        raise ValueError(f"rows of {rows.n_folds} folds; weights need rows of two folds at least")
    rows = rows.sampled()
    pool, gain, standard_error = _chosen(rows)
    scores = np.empty(rows.logs.shape[1:])
    losses = np.empty(len(rows.codes))
    for is_left, others in rows.by_fold():
        without = _chosen(others)[0]
        left = rows.of(is_left)
        scores[is_left], losses[is_left] = without.scores(left.logs), left.losses(without)
    is_right = scores.argmax(axis=1) == rows.codes
    return Weighing(
        pool=pool,
        left_out=LeftOutFigures(
            accuracy=rows.mean(is_right),
            log_loss=rows.mean(losses),
            n_rows=len(rows.codes),
        ),
        gain=gain,
        standard_error=standard_error,
        losses=losses,
        is_right=is_right,
    )


def without_members(rows: LeftOutRows, pool: Pool) -> Pool:
    """Return the weights of the heads that weigh something, with the temperature fitted anew."""
    kept = pool.weights > 0
    return _calibrated(replace(rows, logs=rows.logs[kept]), pool.weights[kept], is_equal=pool.is_equal)


def _chosen(rows: LeftOutRows) -> tuple[Pool, float, float]:
    """Return the weights that some rows choose, the gain over equal weights and its standard error."""
    members = len(rows.logs)
    equal = _calibrated(rows, np.full(members, 1 / members), is_equal=True)
    if members == 1 or rows.n_folds < 2:
        return equal, 0.0, 0.0
    gains = np.empty(len(rows.codes))
    for is_left, others in rows.by_fold():
        left = rows.of(is_left)
        same = _calibrated(others, equal.weights, is_equal=True)
        gains[is_left] = left.losses(same) - left.losses(_fitted(others))
    gain = rows.mean(gains)
    # The weighted mean of n differences; with equal weights the usual standard error.
    shares = rows.weights / rows.weights.sum()
    standard_error = float(np.sqrt(np.sum(np.square(shares * (gains - gain)))))
    pool = _fitted(rows) if gain > TIE_STANDARD_ERRORS * standard_error else equal
    return pool, gain, standard_error


def _calibrated(rows: LeftOutRows, weights: Matrix, *, is_equal: bool) -> Pool:
    """Fit the temperature of given weights."""
    pool = Pool(weights=weights, temperature=1.0, is_equal=is_equal)
    fitted = fit_temperature(pool.scores(rows.logs), rows.codes, rows.weights)
    return replace(pool, temperature=fitted.value)


def _fitted(rows: LeftOutRows) -> Pool:
    """Find the weights of least log-loss, and their temperature."""
    members, n, n_classes = rows.logs.shape
    shares = rows.weights / rows.weights.sum()
    # The targets are smoothed as those of the temperature are: rows that are all classified correctly would
    # otherwise drive the weights to infinity.
    doubt = 1 / (n + 2)
    of_truth = rows.logs[:, np.arange(n), rows.codes]
    of_others = (rows.logs.sum(axis=2) - of_truth) / max(1, n_classes - 1)
    targets = ((1 - doubt) * of_truth + doubt * of_others) @ shares

    def loss(weights: Matrix) -> tuple[float, Matrix]:
        scores = np.tensordot(weights, rows.logs, axes=1)
        normalizers = logsumexp(scores, axis=1)
        probabilities = np.exp(scores - normalizers[:, None])
        expected = np.einsum("mnc,nc,n->m", rows.logs, probabilities, shares)
        return float(shares @ normalizers - weights @ targets), expected - targets

    found = minimize(
        loss,
        np.full(members, 1 / members),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * members,
        options={"ftol": _TOLERANCE, "gtol": 1e-7},
    )
    total = float(found.x.sum())
    # Heads that are worse than no head at all, each and together, leave nothing to weigh.
    if total <= 0:
        return _calibrated(rows, np.full(members, 1 / members), is_equal=True)
    return _calibrated(rows, found.x / total, is_equal=False)
