"""Turn scores of labels into probabilities: a sigmoid with a slope and an offset for each label.

``p = 1 / (1 + exp(-(a s + b)))`` for the score s of a label. This is Platt scaling (Platt 1999,
"Probabilistic outputs for support vector machines"), fitted to rows that were left out.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

Matrix = npt.NDArray[np.float64]

# Labels whose sigmoids are fitted together: the work arrays of more labels would take more memory than the
# scores do.
_TOGETHER = 32
_ITERATIONS = 60
_HALVINGS = 20
# Least slope, in units of one over the spread of a label's scores. Left-out scores may rank a label's rows
# against the truth by chance, and a negative slope would turn the order of every prediction round.
_LEAST_SLOPE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Sigmoids:
    """Fitted sigmoids, and the log-loss that they reach on the rows to which they were fitted.

    Attributes
    ----------
    slopes, offsets : ndarray of float64, shape (n_labels,)
    log_loss : float
        Mean negative log-probability of what is true, in nats per row and known label.
    """

    slopes: Matrix
    offsets: Matrix
    log_loss: float

    def log_odds(self, scores: npt.ArrayLike) -> Matrix:
        """Return the logarithms of the odds (n, n_labels) of scores (n, n_labels); above 0 is likely."""
        odds: Matrix = np.asarray(scores, dtype=np.float64) * self.slopes + self.offsets
        return odds

    def probabilities(self, scores: npt.ArrayLike) -> Matrix:
        """Return the probability of each label (n, n_labels) by scores (n, n_labels)."""
        found: Matrix = expit(self.log_odds(scores))
        return found


def fit_sigmoids(
    scores: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.NDArray[np.float64] | None = None
) -> Sigmoids:
    """Find the sigmoid of each label of least log-loss on rows that the head was not fitted to.

    Targets are smoothed as Platt (1999, section 2.2) smooths them: of the rows with the label, each counts as
    ``(n_with + 1) / (n_with + 2)``, and of the rows without it as ``1 / (n_without + 2)``. A label that no
    row has, or that every row has, thereby gets finite log-odds.

    Parameters
    ----------
    scores : array-like, shape (n, n_labels)
        Scores of rows that the fit behind them had left out.
    targets : array-like, shape (n, n_labels)
        1 where the label applies, 0 where it does not, NaN where nobody knows.
    weights : ndarray of float64, shape (n,), optional
        Weights of the rows in the log-loss; 1 by default.

    Examples
    --------
    A label whose score is 1 for three rows that have it in four, and 0 for three in four that lack it:

    >>> scores = np.array([[1.0], [1.0], [1.0], [1.0], [0.0], [0.0], [0.0], [0.0]])
    >>> targets = np.array([[1.0], [1.0], [1.0], [0.0], [0.0], [0.0], [0.0], [1.0]])
    >>> fit_sigmoids(scores, targets).probabilities([[1.0], [0.0]]).round(2).tolist()
    [[0.67], [0.33]]
    """
    scores, targets = np.asarray(scores), np.asarray(targets)
    n_labels = scores.shape[1]
    slopes, offsets = np.empty(n_labels), np.empty(n_labels)
    loss = total = 0.0
    for first in range(0, n_labels, _TOGETHER):
        some = slice(first, first + _TOGETHER)
        x, y = scores[:, some].astype(np.float64), targets[:, some].astype(np.float64)
        is_known = np.isfinite(y)
        w = is_known * (1.0 if weights is None else weights[:, None])
        y = np.where(is_known, y, 0.0)
        slopes[some], offsets[some] = _fitted(x, y, w)
        odds = x * slopes[some] + offsets[some]
        loss += float((w * (np.logaddexp(0.0, odds) - y * odds)).sum())
        total += float(w.sum())
    return Sigmoids(slopes=slopes, offsets=offsets, log_loss=loss / total if total else 0.0)


def _fitted(x: Matrix, y: Matrix, w: Matrix) -> tuple[Matrix, Matrix]:
    """Return slopes and offsets (k,) for scores, targets and weights (n, k), by Newton's method."""
    spread = x.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    middle = x.mean(axis=0)
    x = (x - middle) / spread
    is_there = w > 0
    n_with, n_without = (y * is_there).sum(axis=0), ((1 - y) * is_there).sum(axis=0)
    y = y * (n_with + 1) / (n_with + 2) + (1 - y) / (n_without + 2)
    w = w / np.maximum(w.sum(axis=0), 1e-300)
    a, b = np.zeros(x.shape[1]), _start(y, w)
    a, b = _newton(x, y, w, a, b, is_sloped=True)
    is_flat = a < _LEAST_SLOPE
    if is_flat.any():
        least = np.full(int(is_flat.sum()), _LEAST_SLOPE)
        mine = (x[:, is_flat], y[:, is_flat], w[:, is_flat])
        a[is_flat], b[is_flat] = _newton(*mine, least, _start(*mine[1:]), is_sloped=False)
    return a / spread, b - a * middle / spread


def _start(y: Matrix, w: Matrix) -> Matrix:
    # A label of which nothing is known starts, and stays, at even odds.
    mean = np.where(w.sum(axis=0) > 0, (w * y).sum(axis=0), 0.5)
    start: Matrix = logit(np.clip(mean, 1e-12, 1 - 1e-12))
    return start


def _loss(x: Matrix, y: Matrix, w: Matrix, a: Matrix, b: Matrix) -> Matrix:
    odds = x * a + b
    of_labels: Matrix = (w * (np.logaddexp(0.0, odds) - y * odds)).sum(axis=0)
    return of_labels


def _newton(
    x: Matrix, y: Matrix, w: Matrix, a: Matrix, b: Matrix, *, is_sloped: bool
) -> tuple[Matrix, Matrix]:
    """Descend from slopes a and offsets b (k,); slopes stay where they are unless `is_sloped`."""
    loss = _loss(x, y, w, a, b)
    for _ in range(_ITERATIONS):
        p = expit(x * a + b)
        residual, curvature = w * (p - y), w * p * (1 - p)
        # The smallest addition keeps the equations of constant scores solvable.
        ga, gb = (residual * x).sum(axis=0), residual.sum(axis=0)
        haa, hab = (curvature * x * x).sum(axis=0) + 1e-12, (curvature * x).sum(axis=0)
        hbb = curvature.sum(axis=0) + 1e-12
        if is_sloped:
            determinant = np.maximum(haa * hbb - hab**2, 1e-24)
            da, db = (hbb * ga - hab * gb) / determinant, (haa * gb - hab * ga) / determinant
        else:
            da, db = np.zeros_like(ga), gb / hbb
        step = np.ones_like(a)
        for _ in range(_HALVINGS):
            new = _loss(x, y, w, a - step * da, b - step * db)
            is_worse = new > loss + 1e-15
            if not is_worse.any():
                break
            step = np.where(is_worse, step / 2, step)
        a, b = a - step * da * ~is_worse, b - step * db * ~is_worse
        gained, loss = float((loss - np.minimum(new, loss)).max()), np.minimum(new, loss)
        if gained < 1e-12:
            break
    return a, b
