"""The group lasso (Yuan & Lin 2006): its proximal step, its optimality conditions and a minimizer.

The problem is ``min_W loss(W) + c sum_j ||W_j||_2`` over W (d, k), where the row W_j holds the weights of
column j for the k classes. The norm is not squared, so whole rows become exactly 0: the penalty selects
columns. Head2Toe (Evci et al. 2022) ranks columns by ``||W_j||``.

The minimizer is proximal gradient descent with steps by Barzilai & Borwein (1988) and the non-monotone
acceptance of SpaRSA (Wright, Nowak & Figueiredo 2009).
"""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

# A step may raise the objective, but not above the largest of this many before it.
_MEMORY = 5
# Share of ``a ||step||^2 / 2`` by which the objective must fall below that largest one.
_SUFFICIENT = 1e-4
# Relative rounding of an objective: smaller rises are not rises.
_ROUNDING = 1e-12
# Bounds of the curvature a: beyond the upper one, steps no longer change W.
_CURVATURES = (1e-12, 1e12)


def group_norms(weights: Tensor) -> Tensor:
    """Return ``||W_j||``, the length over the classes of every column's weights: (..., d, k) to (..., d)."""
    norms: Tensor = weights.norm(dim=-1)
    return norms


def shrink(weights: Tensor, threshold: float) -> Tensor:
    """Apply the proximal step of ``t sum_j ||W_j||``: shorten every row by t, or set the row to 0.

    Parameters
    ----------
    weights : Tensor, shape (d, k)
    threshold : float
        t, the length that every row loses.

    Examples
    --------
    >>> import torch
    >>> shrink(torch.tensor([[3.0, 4.0], [0.1, 0.1]]), 2.5).tolist()
    [[1.5, 2.0], [0.0, 0.0]]
    """
    norms = group_norms(weights)
    return weights * (1 - threshold / norms.clamp(min=threshold)).clamp(min=0)[..., None]


def stationarity(weights: Tensor, gradient: Tensor, group_penalty: float) -> float:
    """Return the largest violation of the optimality conditions by any row, as a share of the penalty c.

    With G the gradient of the loss, W is optimal if ``||G_j|| <= c`` for every row j that is 0, and
    ``G_j = -c W_j / ||W_j||`` for every other row.

    Parameters
    ----------
    weights, gradient : Tensor, shape (d, k)
        W and G.
    group_penalty : float
        c.
    """
    norms, pulls = group_norms(weights), group_norms(gradient)
    directions = weights / norms.clamp(min=torch.finfo(weights.dtype).tiny)[:, None]
    of_kept = group_norms(gradient + group_penalty * directions)
    excess = torch.where(norms > 0, of_kept, (pulls - group_penalty).clamp(min=0))
    return float(excess.max()) / group_penalty if len(excess) else 0.0


@dataclass(frozen=True, kw_only=True)
class PathPoint:
    """The solution of a group lasso at one penalty.

    Attributes
    ----------
    weights : Tensor, shape (d, k)
        W.
    norms : Tensor, shape (d,)
        ``||W_j||`` of every column.
    pulls : Tensor, shape (d,)
        ``||G_j||``, the length of the loss's gradient; at the optimum at most the penalty where ``||W_j||``
        is 0.
    group_penalty : float
        c.
    residual : float
        `stationarity` of W: 0 at the optimum.
    n_steps : int
        Steps, or passes over the rows, that this penalty took.
    """

    weights: Tensor
    norms: Tensor
    pulls: Tensor
    group_penalty: float
    residual: float
    n_steps: int

    @classmethod
    def of(cls, weights: Tensor, gradient: Tensor, *, group_penalty: float, n_steps: int) -> "PathPoint":
        """Measure the weights and the loss's gradient (d, k) at them."""
        return cls(
            weights=weights,
            norms=group_norms(weights).double(),
            pulls=group_norms(gradient).double(),
            group_penalty=group_penalty,
            residual=stationarity(weights, gradient, group_penalty),
            n_steps=n_steps,
        )

    @property
    def scores(self) -> Tensor:
        """Return the scores (d,) that columns are ranked by.

        A column's score is ``||W_j||`` where that is above 0. All other columns are tied at 0 by the group
        lasso; they are ranked below, in the order in which they would join as the penalty falls, by
        ``||G_j|| / c - 1 <= 0``.
        """
        return torch.where(self.norms > 0, self.norms, self.pulls / self.group_penalty - 1)


class ProximalDescent:
    """One minimization of ``loss(W) + c sum_j ||W_j||`` over W (d, k), as a state machine.

    `trial` is the point at which loss and gradient are wanted next, and `tell` takes them: so several
    minimizations can share one pass over the rows. A step is a proximal gradient step
    ``shrink(W - G / a, c / a)``, with a the curvature along the last step (Barzilai & Borwein 1988). Such
    steps now and then raise the objective, and are accepted if the objective stays below the largest of the
    last few (SpaRSA: Wright, Nowak & Figueiredo 2009).

    Parameters
    ----------
    start : Tensor, shape (d, k)
        First W.
    group_penalty : float
        c.
    tolerance : float
        `stationarity` to reach.
    curvature : float
        a of the first step.

    Attributes
    ----------
    value, gradient : Tensor, shape (d, k)
        The last accepted point, and the loss's gradient there.
    residual : float
        `stationarity` of `value`.
    is_done : bool
        Whether the residual is within the tolerance, or no step changes the objective beyond rounding.
    """

    def __init__(self, start: Tensor, *, group_penalty: float, tolerance: float, curvature: float) -> None:
        self.group_penalty = group_penalty
        self.tolerance = tolerance
        self.value = self.trial = start
        self.gradient = torch.zeros_like(start)
        self.residual = float("inf")
        self.is_done = False
        self._curvature = curvature
        self._objectives: deque[float] = deque(maxlen=_MEMORY)

    def tell(self, loss: float, gradient: Tensor) -> None:
        """Take the loss and its gradient (d, k) at `trial`; accept or shorten the step; set a new trial."""
        objective = loss + self.group_penalty * float(group_norms(self.trial).sum())
        step = self.trial - self.value
        length = float(step.square().sum())
        if self._objectives:
            worst = max(self._objectives)
            allowed = worst - 0.5 * _SUFFICIENT * self._curvature * length
            # Rejected: the curvature was underestimated, so try half the step from the same point.
            if objective > allowed + _ROUNDING * abs(worst):
                self._curvature *= 2
                self.is_done = self._curvature > _CURVATURES[1]
                self._propose()
                return
            # Barzilai and Borwein's a: the mean curvature of the loss along the step just taken.
            bend = float((step * (gradient - self.gradient)).sum())
            if length > 0:
                self._curvature = min(max(bend / length, _CURVATURES[0]), _CURVATURES[1])
        self._objectives.append(objective)
        self.value, self.gradient = self.trial, gradient
        self.residual = stationarity(self.value, gradient, self.group_penalty)
        self.is_done = self.residual <= self.tolerance
        self._propose()

    def _propose(self) -> None:
        """Set the next trial: a proximal gradient step from `value` by the present curvature."""
        self.trial = shrink(
            self.value - self.gradient / self._curvature, self.group_penalty / self._curvature
        )
