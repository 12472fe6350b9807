"""Ridge regression from block sums, with an intercept that no penalty touches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from toptune.errors import NumericalError
from toptune.train.numerics.cholesky import factor_made, solve_factored
from toptune.train.passes.sums import FoldSums


@dataclass(frozen=True, kw_only=True)
class CenteredSystem:
    """Normal equations of ridge regression with the intercept eliminated.

    With ``n`` the weight of the rows, means of features and targets taken out of the sums leave
    ``(G - s s^T / n + n penalty I) beta = B - s t^T / n``. That is ridge regression on centered
    features and centered targets; the intercept is ``(t - s^T beta) / n``. Any set of folds has its
    own means, in closed form, so left-out folds are predicted from nothing of theirs.

    Attributes
    ----------
    gram : Tensor of float64, shape (r, r)
        G, not centered: that is done as a system is put together.
    cross : Tensor of float64, shape (r, n_targets)
        ``B - s t^T / n``.
    feature_mean, target_mean : Tensor of float64, shapes (r,) and (n_targets,)
    weight : float
        n.
    metric : Tensor of float64, shape (r, r), or None
        Coefficients b are penalized by ``b^T metric b``; None is the identity.
    work : Tensor of float64, shape (r, r), or None
        Where systems are put together and factored: memory that is fetched anew for each costs as much as a
        third of factoring it.
    """

    gram: Tensor
    cross: Tensor
    feature_mean: Tensor
    target_mean: Tensor
    weight: float
    metric: Tensor | None = None
    work: Tensor | None = None

    @classmethod
    def of(
        cls, gram: Tensor, cross: Tensor, metric: Tensor | None = None, work: Tensor | None = None
    ) -> "CenteredSystem":
        """Take sums over rows of ``(phi, 1)``: `gram` (r+1, r+1), `cross` (r+1, n_targets)."""
        weight = float(gram[-1, -1])
        if weight <= 0:
            raise NumericalError("no rows to fit: the sums of these folds are empty")
        mean, target_mean = gram[:-1, -1] / weight, cross[-1] / weight
        return cls(
            gram=gram[:-1, :-1],
            cross=torch.addr(cross[:-1], mean, target_mean, alpha=-weight),
            feature_mean=mean,
            target_mean=target_mean,
            weight=weight,
            metric=metric,
            work=work,
        )

    @property
    def variances(self) -> Tensor:
        """Variance of each feature, shape (r,)."""
        return self.gram.diagonal() / self.weight - self.feature_mean.square()

    @property
    def scale(self) -> float:
        """Variance of the features summed over them: the natural unit of the penalty."""
        return float(self.variances.sum())

    def factor(self, penalty: float) -> tuple[Tensor, float]:
        """Lower factor (r, r) of the system at a penalty, and the jitter that it took.

        Jitter is a share of the system's mean diagonal, 0 where the penalty alone makes it positive
        definite; otherwise raised tenfold from rounding level until it does. Where there is a `work`, the
        next factor takes the place of this one.

        Raises
        ------
        NumericalError
            If no jitter helps.
        """
        return factor_made(lambda: self._system(penalty), what=f"the ridge system at penalty {penalty:g}")

    def _system(self, penalty: float) -> Tensor:
        mean = self.feature_mean
        system = torch.addr(self.gram, mean, mean, alpha=-self.weight, out=self.work)
        if self.metric is None:
            system.diagonal().add_(self.weight * penalty)
            return system
        return system.add_(self.metric, alpha=self.weight * penalty)

    def solve(self, penalty: float, factor: Tensor | None = None) -> tuple[Tensor, float]:
        """Coefficients (r + 1, n_targets), the intercept last, and the jitter that it took.

        `factor` is that of `self.factor(penalty)` where it is at hand.

        Raises
        ------
        NumericalError
            If no jitter helps or the solution is not finite.
        """
        jitter = 0.0
        if factor is None:
            factor, jitter = self.factor(penalty)
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
        where that fit failed or was not tried, 0 for a fold without rows.
    is_tried : Tensor of bool, shape (n_penalties, n_folds)
    n_clipped : int
        Errors that canceled to below 0 and were set to 0.
    jitter : float
        Largest jitter that any fit took.
    coefficients : dict of int to Tensor of float64, shape (n_folds, r + 1, n_targets)
        Of each penalty that was tried on all folds, the intercept last; 0 for a fold without rows.
    first_error : float
        Least error of any penalty on the fold that tries every one.
    """

    errors: Tensor
    is_tried: Tensor
    n_clipped: int
    jitter: float
    coefficients: dict[int, Tensor]
    first_error: float

    @property
    def best(self) -> int:
        """Penalty of least error among those tried on all folds and fitted on each."""
        totals = self.errors.sum(dim=1)
        return int(torch.where(torch.isfinite(totals), totals, torch.inf).argmin())


def left_out(
    sums: FoldSums, penalties: Sequence[float], *, is_exhaustive: bool = True, bound: float = math.inf
) -> LeftOut:
    """Left-out squared errors of penalties and folds, from the sums alone.

    With ``b`` fitted to all folds but f, the error on f is
    ``tr(Y_f^T Y_f) - 2 tr(b^T B_f) + tr(b^T G_f b)`` (sums of ``(phi, 1)``, so b has the intercept).

    Not `is_exhaustive`, one fold tries every penalty; the others try the best of it and its two
    neighbors, and then the next one for as long as the best has a neighbor that they have not tried. They
    try none where no penalty has an error below `bound` on the one fold.
    """
    n_folds, device = len(sums.gram), sums.gram.device
    metric = sums.metric
    gram, cross = sums.gram.sum(dim=0), sums.cross.sum(dim=0)
    shape = (len(penalties), n_folds)
    found = LeftOut(
        errors=torch.full(shape, torch.nan, dtype=torch.float64),
        is_tried=torch.zeros(shape, dtype=torch.bool),
        n_clipped=0,
        jitter=0.0,
        coefficients={},
        first_error=math.inf,
    )
    betas: dict[tuple[int, int], Tensor] = {}
    others, work = torch.empty_like(gram), gram.new_empty((len(gram) - 1, len(gram) - 1))
    n_clipped, largest_jitter = 0, 0.0

    def attempt(fold: int, wanted: Sequence[int]) -> None:
        nonlocal n_clipped, largest_jitter
        untried = [index for index in wanted if not found.is_tried[index, fold]]
        found.is_tried[untried, fold] = True
        if not untried:
            return
        if float(sums.weights[fold]) == 0:
            found.errors[untried, fold] = 0.0
            return
        torch.sub(gram, sums.gram[fold], out=others)
        system = CenteredSystem.of(others, cross - sums.cross[fold], metric, work)
        for index in untried:
            try:
                beta, jitter = system.solve(penalties[index])
            except NumericalError:
                continue
            largest_jitter = max(largest_jitter, jitter)
            betas[index, fold] = beta
            error = float(
                sums.square[fold]
                - 2 * (beta * sums.cross[fold]).sum()
                + (beta * (sums.gram[fold] @ beta)).sum()
            )
            n_clipped += error < 0
            found.errors[index, fold] = max(error, 0.0)

    everything = range(len(penalties))
    first = int(sums.weights.argmax())
    attempt(first, everything)
    of_first = found.errors[:, first].nan_to_num(torch.inf)
    found = replace(found, first_error=float(of_first.min()))
    if found.first_error > bound:
        return replace(found, n_clipped=n_clipped, jitter=largest_jitter)
    window = everything if is_exhaustive else _around(int(of_first.argmin()), len(penalties))
    while True:
        for fold in range(n_folds):
            attempt(fold, window)
        wider = _around(found.best, len(penalties))
        if all(bool(found.is_tried[index].all()) for index in wider):
            break
        window = wider
    for index in everything:
        if bool(found.is_tried[index].all()):
            found.coefficients[index] = torch.stack(
                [betas.pop((index, fold), torch.zeros_like(cross, device=device)) for fold in range(n_folds)]
            )
    return replace(found, n_clipped=n_clipped, jitter=largest_jitter)


def _around(index: int, count: int) -> range:
    return range(max(0, index - 1), min(count, index + 2))
