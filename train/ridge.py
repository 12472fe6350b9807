"""Ridge regression from block sums, with an intercept that no penalty touches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toptune.store import NumericalError
from toptune.train.cholesky import cholesky_with_jitter, solve_factored
from toptune.train.sums import FoldSums


@dataclass(frozen=True, kw_only=True)
class CentredSystem:
    """Normal equations of ridge regression with the intercept eliminated.

    With ``n`` the weight of the rows, means of features and targets taken out of the sums leave
    ``(G - s s^T / n + n penalty I) beta = B - s t^T / n``. That is ridge regression on centred
    features and centred targets; the intercept is ``(t - s^T beta) / n``. Any set of folds has its
    own means, in closed form, so left-out folds are predicted from nothing of theirs.
    """

    gram: Tensor
    cross: Tensor
    feature_mean: Tensor
    target_mean: Tensor
    weight: float

    @classmethod
    def of(cls, gram: Tensor, cross: Tensor) -> "CentredSystem":
        """Centre sums over rows of ``(phi, 1)``: `gram` (r+1, r+1), `cross` (r+1, n_targets)."""
        weight = float(gram[-1, -1])
        if weight <= 0:
            raise NumericalError("no rows to fit: the sums of these folds are empty")
        mean, target_mean = gram[:-1, -1] / weight, cross[-1] / weight
        return cls(
            gram=torch.addr(gram[:-1, :-1], mean, mean, alpha=-weight),
            cross=torch.addr(cross[:-1], mean, target_mean, alpha=-weight),
            feature_mean=mean,
            target_mean=target_mean,
            weight=weight,
        )

    @property
    def scale(self) -> float:
        """Variance of the features summed over them: the natural unit of the penalty."""
        return float(self.gram.diagonal().sum()) / self.weight

    def solve(self, penalty: float) -> tuple[Tensor, float]:
        """Coefficients (r + 1, n_targets), the intercept last, and the jitter that it took.

        Jitter is a share of the system's mean diagonal, 0 where the penalty alone makes it positive
        definite; otherwise raised tenfold from rounding level until it does.

        Raises
        ------
        NumericalError
            If no jitter helps or the solution is not finite.
        """
        system = self.gram.clone()
        system.diagonal().add_(self.weight * penalty)
        factor, jitter = cholesky_with_jitter(system, what=f"the ridge system at penalty {penalty:g}")
        beta = solve_factored(factor, self.cross)
        if not bool(torch.isfinite(beta).all()):
            raise NumericalError(
                f"the ridge solution at penalty {penalty:g} is not finite; raise the penalty"
            )
        intercept = self.target_mean - self.feature_mean @ beta
        return torch.cat([beta, intercept[None]]), jitter


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Squared errors of left-out folds for one feature map.

    Attributes
    ----------
    errors : Tensor of float64, shape (n_penalties, n_folds)
        Weighted sum over a fold's rows of ``||y - f(x)||^2`` for f fitted to the other folds; NaN
        where that fit failed, 0 for a fold without rows.
    n_clipped : int
        Errors that cancelled to below 0 and were set to 0.
    jitter : float
        Largest jitter that any fit took.
    coefficients : list of Tensor of float64, shape (n_folds, r + 1, n_targets)
        One a penalty, the intercept last; 0 for a fold without rows.
    """

    errors: Tensor
    n_clipped: int
    jitter: float
    coefficients: list[Tensor]


def left_out(sums: FoldSums, penalties: Sequence[float]) -> LeftOut:
    """Left-out squared errors of every penalty and fold, from the sums alone.

    With ``b`` fitted to all folds but f, the error on f is
    ``tr(Y_f^T Y_f) - 2 tr(b^T B_f) + tr(b^T G_f b)`` (sums of ``(phi, 1)``, so b has the intercept).
    """
    gram, cross = sums.gram.sum(dim=0), sums.cross.sum(dim=0)
    errors = torch.zeros((len(penalties), len(sums.gram)), dtype=torch.float64)
    coefficients = [torch.zeros_like(sums.cross) for _ in penalties]
    n_clipped, largest_jitter = 0, 0.0
    for fold in range(len(sums.gram)):
        if float(sums.weights[fold]) == 0:
            continue
        system = CentredSystem.of(gram - sums.gram[fold], cross - sums.cross[fold])
        for index, penalty in enumerate(penalties):
            try:
                beta, jitter = system.solve(penalty)
            except NumericalError:
                errors[index, fold] = float("nan")
                continue
            largest_jitter = max(largest_jitter, jitter)
            coefficients[index][fold] = beta
            error = float(
                sums.square[fold]
                - 2 * (beta * sums.cross[fold]).sum()
                + (beta * (sums.gram[fold] @ beta)).sum()
            )
            n_clipped += error < 0
            errors[index, fold] = max(error, 0.0)
    return LeftOut(errors=errors, n_clipped=n_clipped, jitter=largest_jitter, coefficients=coefficients)
