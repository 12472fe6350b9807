"""Ridge regression from block sums, with an intercept that is not penalized."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toptune.errors import NumericalError
from toptune.train.numerics.cholesky import factor_made, solve_factored
from toptune.train.passes.sums import FoldSums


@dataclass(frozen=True, kw_only=True)
class CenteredSystem:
    """Normal equations of ridge regression with the intercept eliminated.

    Let n be the weight of the rows, and s and t the sums of features and targets. Without the intercept, the
    system is ``(G - s s^T / n + n penalty I) beta = B - s t^T / n``, which is ridge regression on centered
    features and centered targets; the intercept is ``(t - s^T beta) / n``. Any set of folds has its own means
    in closed form, so a fold that is left out has no part in the fit that predicts it.

    Attributes
    ----------
    gram : Tensor of float64, shape (r, r)
        G, which is centered only as a system is put together.
    cross : Tensor of float64, shape (r, n_targets)
        ``B - s t^T / n``.
    feature_mean, target_mean : Tensor of float64, shapes (r,) and (n_targets,)
    weight : float
        The weight n of the rows.
    metric : Tensor of float64, shape (r, r), or None
        Coefficients b are penalized by ``b^T metric b``; None is the identity.
    work : Tensor of float64, shape (r, r), or None
        Memory in which systems are put together and factored. To allocate it anew for each system takes a
        third of the time that factoring takes.
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
        """Make the system of the sums over rows of ``(phi, 1)``: `gram` (r+1, r+1), `cross` (r+1, n_targets).

        Raises
        ------
        NumericalError
            If the rows have no weight.
        """
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
        """Return the lower factor (r, r) of the system at a penalty, and the jitter that factoring took.

        Jitter is a share of the system's mean diagonal. It is 0 where the penalty alone makes the system
        positive definite; otherwise it is raised tenfold from rounding level until it does. Where there is a
        `work`, the next factor takes the place of this one.

        Raises
        ------
        NumericalError
            If no jitter helps.
        """
        return factor_made(lambda: self._system(penalty), what=f"the ridge system at penalty {penalty:g}")

    def _system(self, penalty: float) -> Tensor:
        # Means are taken out as the system is put together, not before: a centered copy of G would be another
        # matrix (r, r), and the work matrix receives the result anyway.
        mean = self.feature_mean
        system = torch.addr(self.gram, mean, mean, alpha=-self.weight, out=self.work)
        if self.metric is None:
            system.diagonal().add_(self.weight * penalty)
            return system
        return system.add_(self.metric, alpha=self.weight * penalty)

    def solve(self, penalty: float, factor: Tensor | None = None) -> tuple[Tensor, float]:
        """Return the coefficients (r + 1, n_targets), the intercept last, and the jitter of factoring.

        `factor` is the result of `self.factor(penalty)`, for a caller that has factored the system already.

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
        where the fit failed or was not tried, 0 for a fold without rows.
    is_tried : Tensor of bool, shape (n_penalties, n_folds)
        Which fits were tried.
    n_clipped : int
        Errors that canceled to below 0 and were set to 0.
    jitter : float
        Largest jitter that any fit took.
    coefficients : dict of int to Tensor of float64, shape (n_folds, r + 1, n_targets)
        Coefficients of each penalty that was tried on all folds, the intercept last; 0 for a fold without
        rows.
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
        """Index of the penalty with the least error, among penalties that every fold tried and could fit."""
        return _best_of(self.errors)


def left_out(
    sums: FoldSums, penalties: Sequence[float], *, is_exhaustive: bool = True, bound: float = math.inf
) -> LeftOut:
    """Return the left-out squared errors of penalties and folds, from the sums alone.

    With b fitted to all folds but f, the error on f is ``tr(Y_f^T Y_f) - 2 tr(b^T B_f) + tr(b^T G_f b)``. The
    sums G_f and B_f over the rows of f are of ``(phi, 1)``, so that b has the intercept.

    Parameters
    ----------
    sums : FoldSums
        Sums of one feature map, fold by fold. Rows that take no part in cross-validation have no part here.
    penalties : sequence of float
        Ascending.
    is_exhaustive : bool
        Try every penalty on every fold. Otherwise one fold tries every penalty, and the others try the best
        penalty of that fold and its two neighbors, and then the next one for as long as the best has a
        neighbor that they have not tried.
    bound : float
        The other folds try no penalty if every error of the first fold is above this.
    """
    sums = sums.validated()
    trials = _Trials(sums, penalties)
    everything = range(len(penalties))
    # The heaviest fold tells the others which penalties to try, because its errors are the surest.
    first = int(sums.weights.argmax())
    trials.attempt(first, everything)
    of_first = trials.errors[:, first].nan_to_num(torch.inf)
    first_error = float(of_first.min())
    if first_error > bound:
        return trials.result(first_error, {})
    window = everything if is_exhaustive else _around(int(of_first.argmin()), len(penalties))
    # The best penalty may be at the edge of the window, with a better one beyond: the window follows the best
    # until both neighbors of the best are tried.
    while True:
        for fold in range(trials.n_folds):
            trials.attempt(fold, window)
        wider = _around(_best_of(trials.errors), len(penalties))
        if all(bool(trials.is_tried[index].all()) for index in wider):
            break
        window = wider
    return trials.result(first_error, trials.coefficients())


class _Trials:
    """Fits that leave out a fold, tried one after the other.

    Attributes
    ----------
    errors, is_tried : Tensor, shape (n_penalties, n_folds)
        As in `LeftOut`.
    """

    def __init__(self, sums: FoldSums, penalties: Sequence[float]) -> None:
        shape = (len(penalties), len(sums.gram))
        self.errors = torch.full(shape, torch.nan, dtype=torch.float64)
        self.is_tried = torch.zeros(shape, dtype=torch.bool)
        self.n_folds = len(sums.gram)
        self._sums, self._penalties = sums, penalties
        self._gram, self._cross, self._metric = sums.gram.sum(dim=0), sums.cross.sum(dim=0), sums.metric
        self._betas: dict[tuple[int, int], Tensor] = {}
        self._n_clipped, self._jitter = 0, 0.0
        # The sums of the other folds, and the systems, are put together in the same memory each time.
        self._others = torch.empty_like(self._gram)
        self._work = self._gram.new_empty((len(self._gram) - 1, len(self._gram) - 1))

    def attempt(self, fold: int, wanted: Sequence[int]) -> None:
        """Fit all rows outside `fold` at each wanted penalty that was not tried yet."""
        untried = [index for index in wanted if not self.is_tried[index, fold]]
        self.is_tried[untried, fold] = True
        if not untried:
            return
        # Few groups leave folds empty. Nothing is left out then, and no error is made.
        if float(self._sums.weights[fold]) == 0:
            self.errors[untried, fold] = 0.0
            return
        torch.sub(self._gram, self._sums.gram[fold], out=self._others)
        system = CenteredSystem.of(
            self._others, self._cross - self._sums.cross[fold], self._metric, self._work
        )
        for index in untried:
            try:
                beta, jitter = system.solve(self._penalties[index])
            except NumericalError:
                # The error stays NaN, which rules the penalty out; larger penalties may still be solved.
                continue
            self._jitter = max(self._jitter, jitter)
            self._betas[index, fold] = beta
            error = float(
                self._sums.square[fold]
                - 2 * (beta * self._sums.cross[fold]).sum()
                + (beta * (self._sums.gram[fold] @ beta)).sum()
            )
            # The three terms nearly cancel where the fit is almost perfect, and rounding can pass below 0.
            self._n_clipped += error < 0
            self.errors[index, fold] = max(error, 0.0)

    def coefficients(self) -> dict[int, Tensor]:
        """Return the coefficients of the penalties that all folds tried; they are handed over, not copied."""
        return {
            index: torch.stack(
                [
                    self._betas.pop((index, fold), torch.zeros_like(self._cross))
                    for fold in range(self.n_folds)
                ]
            )
            for index in range(len(self._penalties))
            if bool(self.is_tried[index].all())
        }

    def result(self, first_error: float, coefficients: dict[int, Tensor]) -> LeftOut:
        """Return the errors of all trials, with the coefficients given."""
        return LeftOut(
            errors=self.errors,
            is_tried=self.is_tried,
            n_clipped=self._n_clipped,
            jitter=self._jitter,
            coefficients=coefficients,
            first_error=first_error,
        )


def _best_of(errors: Tensor) -> int:
    totals = errors.sum(dim=1)
    return int(torch.where(torch.isfinite(totals), totals, torch.inf).argmin())


def _around(index: int, count: int) -> range:
    return range(max(0, index - 1), min(count, index + 2))
