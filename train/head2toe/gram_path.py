"""Squared-loss group lasso from second moments alone, along a path of falling penalties.

``min_W 1/(2n) ||Y - X W||_F^2 + c sum_j ||W_j||_2`` for centered X (n, d) and one-hot Y (n, n_targets). This
is the group-lasso ranking of Head2Toe (Evci et al. 2022, §3) with the squared loss in place of the
cross-entropy, so that the rows are needed only for the moments ``X^T X / n`` and ``X^T Y / n``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from toptune.train.head2toe.moments import Moments
from toptune.train.numerics.cholesky import cholesky_with_jitter, solve_factored
from toptune.train.numerics.group_lasso import PathPoint, ProximalDescent, group_norms, stationarity

TOLERANCE = 1e-2
MAX_STEPS = 3000
# Between the penalties wanted the path falls by this factor, solved to a loose tolerance: so few columns join
# at a time.
_RATIO = 0.6
_LOOSE = 0.1
# Every so many proximal steps, one step of the quadratic bound is tried.
_EVERY = 10


def largest_penalty(moments: Moments) -> float:
    """Return the smallest penalty c at which W is 0: the largest ``||(X^T Y / n)_j||``."""
    return float(group_norms(moments.cross).max())


def squared_path(
    moments: Moments,
    group_penalties: Sequence[float],
    *,
    starts: Sequence[Tensor] | None = None,
    tolerance: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
) -> list[PathPoint]:
    """Minimize ``1/(2n) ||Y - X W||^2 + c sum_j ||W_j||`` for falling c, each from the solution before.

    Only the columns of an active set are solved for. Columns whose gradient is longer than c join the set
    until there are none, so that the result is that of all columns. A point has converged if its
    `stationarity` is within `tolerance`; the residual reached is stored in every point.

    Parameters
    ----------
    moments : Moments
        Moments of centered X and Y, which leaves the intercept free.
    group_penalties : sequence of float
        c, descending.
    starts : sequence of Tensor (d, n_targets), optional
        Solutions of a similar problem at each of the penalties, such as all rows where a fold is left out.
        They affect only how soon the tolerance is met.
    tolerance : float
        Residual to reach, as a share of c.
    max_steps : int
        Proximal steps for each c.

    Examples
    --------
    Of two uncorrelated columns of unit variance, one carries the target. The penalty takes 0.5 off its
    weight.

    >>> import torch
    >>> from toptune.train.head2toe.moments import RowMoments
    >>> X = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    >>> moments = RowMoments.of(X, 2 * X[:, :1], torch.ones(4).double())
    >>> (point,) = squared_path(moments, [0.5])
    >>> [round(norm, 3) for norm in point.norms.tolist()]
    [1.5, 0.0]
    """
    d, n_targets = moments.cross.shape
    weights = moments.cross.new_zeros((d, n_targets))
    gradient = -moments.cross
    points = []
    at = largest_penalty(moments)
    for number, c in enumerate(group_penalties):
        n_steps = 0
        if starts is not None:
            # Just above c, so that the loop below runs once, at c itself.
            weights, at = starts[number], 1.1 * c
            kept = torch.nonzero(group_norms(weights))[:, 0]
            gradient = moments.product(kept, weights[kept]) - moments.cross
        while at > c:
            at = max(c, _RATIO * at)
            goal = tolerance if at == c else _LOOSE
            while n_steps < max_steps:
                # The optimality conditions of all columns: a column that is 0 may stay out if its gradient is
                # short.
                active = torch.nonzero((group_norms(weights) > 0) | (group_norms(gradient) > at))[:, 0]
                found, steps = _descend(moments, active, weights[active], at, goal, max_steps - n_steps)
                n_steps += steps
                weights = torch.zeros_like(weights).index_copy_(0, active, found)
                gradient = moments.product(active, found) - moments.cross
                if stationarity(weights, gradient, at) <= goal:
                    break
        points.append(PathPoint.of(weights, gradient, group_penalty=c, n_steps=n_steps))
    return points


def _descend(
    moments: Moments, active: Tensor, start: Tensor, c: float, tolerance: float, max_steps: int
) -> tuple[Tensor, int]:
    """Minimize over the columns of the active set alone; return their weights and the number of steps."""
    gram, cross = moments.gram(active), moments.cross[active]
    descent = ProximalDescent(
        start, group_penalty=c, tolerance=tolerance / 2, curvature=float(gram.diagonal().sum()) or 1.0
    )
    for step in range(max_steps):
        product = gram @ descent.trial
        loss = float((descent.trial * (0.5 * product - cross)).sum())
        descent.tell(loss, product - cross)
        if descent.is_done:
            return descent.value, step + 1
        if step % _EVERY == _EVERY - 1:
            descent.trial = _bound_step(descent.value, gram, cross, c)
    return descent.value, max_steps


def _bound_step(value: Tensor, gram: Tensor, cross: Tensor, c: float) -> Tensor:
    """Minimize the quadratic bound that touches the objective at `value`, over the rows that are not 0.

    ``||W_j|| <= (||W_j||^2 / v_j + v_j) / 2``, with equality where v_j is the length at `value`. So the
    bound's minimum does not raise the objective, and finding it takes one factorization for all classes. Such
    a step overcomes what slows proximal steps down, columns that are much alike; proximal steps overcome what
    slows this one down, rows on their way to 0.
    """
    norms = group_norms(value)
    kept = torch.nonzero(norms)[:, 0]
    system = gram[kept][:, kept]
    system.diagonal().add_(c / norms[kept])
    factor, _ = cholesky_with_jitter(system, what=f"the bound of the group lasso at penalty {c:g}")
    return torch.zeros_like(value).index_copy_(0, kept, solve_factored(factor, cross[kept]))
