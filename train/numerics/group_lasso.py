"""The group lasso: its proximal step, and a minimizer that is told losses and gradients."""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

# Objectives that a step may rise above: the largest of so many before it.
_MEMORY = 5
_SUFFICIENT = 1e-4
_ROUNDING = 1e-12
_CURVATURES = (1e-12, 1e12)


def group_norms(weights: Tensor) -> Tensor:
    """Length over the classes of every feature's weights: (..., d, k) to (..., d)."""
    norms: Tensor = weights.norm(dim=-1)
    return norms


def shrink(weights: Tensor, threshold: float) -> Tensor:
    """Proximal step of ``threshold * sum_j ||W_j||`` (Yuan & Lin 2006): shorten every row, or make it 0."""
    norms = group_norms(weights)
    return weights * (1 - threshold / norms.clamp(min=threshold)).clamp(min=0)[..., None]


def stationarity(weights: Tensor, gradient: Tensor, group_penalty: float) -> float:
    """Largest distance of any row's gradient from what optimality asks for, as a share of the penalty.

    Of rows (d, k) that are 0 the loss's gradient must be no longer than the penalty c; of others it must be
    ``-c W_j / ||W_j||``.
    """
    norms, pulls = group_norms(weights), group_norms(gradient)
    directions = weights / norms.clamp(min=torch.finfo(weights.dtype).tiny)[:, None]
    of_kept = group_norms(gradient + group_penalty * directions)
    excess = torch.where(norms > 0, of_kept, (pulls - group_penalty).clamp(min=0))
    return float(excess.max()) / group_penalty if len(excess) else 0.0


@dataclass(frozen=True, kw_only=True)
class PathPoint:
    """A group lasso's solution at one penalty.

    Attributes
    ----------
    weights : Tensor, shape (d, k)
    norms : Tensor, shape (d,)
        ``||W_j||`` of every column.
    pulls : Tensor, shape (d,)
        Length of the loss's gradient; at most the penalty where ``||W_j||`` is 0.
    group_penalty : float
    residual : float
        `stationarity`: 0 at the optimum.
    n_steps : int
    """

    weights: Tensor
    norms: Tensor
    pulls: Tensor
    group_penalty: float
    residual: float
    n_steps: int

    @classmethod
    def of(cls, weights: Tensor, gradient: Tensor, *, group_penalty: float, n_steps: int) -> "PathPoint":
        """Take the lengths of weights and gradient (d, k)."""
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
        """What columns are ranked by.

        ``||W_j||`` where that is above 0. Others, which the group lasso leaves tied, follow in the order in
        which they would join as the penalty falls: by their pull, as a share of the penalty less 1.
        """
        return torch.where(self.norms > 0, self.norms, self.pulls / self.group_penalty - 1)


class ProximalDescent:
    """One minimization of ``loss(W) + c sum_j ||W_j||`` over W (d, k), as a state machine.

    `trial` is where it wants loss and gradient next; `tell` takes them, so that several minimizations can
    share a pass over rows. Proximal gradient steps, each as long as the curvature along the last one says
    (Barzilai & Borwein 1988), which may raise the objective a little now and then (SpaRSA: Wright, Nowak &
    Figueiredo 2009, with their non-monotone criterion).

    Attributes
    ----------
    value, gradient : Tensor, shape (d, k)
        The last point accepted and the loss's gradient there.
    residual : float
        `stationarity` of it.
    is_done : bool
        Whether that is within the tolerance, or no step changes the objective beyond rounding.
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
        """Take loss and gradient at `trial`."""
        objective = loss + self.group_penalty * float(group_norms(self.trial).sum())
        step = self.trial - self.value
        length = float(step.square().sum())
        if self._objectives:
            worst = max(self._objectives)
            allowed = worst - 0.5 * _SUFFICIENT * self._curvature * length
            if objective > allowed + _ROUNDING * abs(worst):
                self._curvature *= 2
                self.is_done = self._curvature > _CURVATURES[1]
                self._propose()
                return
            bend = float((step * (gradient - self.gradient)).sum())
            if length > 0:
                self._curvature = min(max(bend / length, _CURVATURES[0]), _CURVATURES[1])
        self._objectives.append(objective)
        self.value, self.gradient = self.trial, gradient
        self.residual = stationarity(self.value, gradient, self.group_penalty)
        self.is_done = self.residual <= self.tolerance
        self._propose()

    def _propose(self) -> None:
        self.trial = shrink(
            self.value - self.gradient / self._curvature, self.group_penalty / self._curvature
        )
