"""Ridge regression from block sums, with an intercept that is not penalized."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toptune.errors import NumericalError
from toptune.train.numerics.cholesky import factor_made, solve_factored
from toptune.train.passes.peak_memory import is_lean
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
    renew : callable, optional
        Puts G into the memory of `gram`, which holds it at no other time. Systems are then put together and
        factored in that memory, and there is no `work`.
    """

    gram: Tensor
    cross: Tensor
    feature_mean: Tensor
    target_mean: Tensor
    weight: float
    metric: Tensor | None = None
    work: Tensor | None = None
    renew: Callable[[], None] | None = None

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
        return cls.bordered(gram[:-1, :-1], gram[:, -1], cross, metric, work=work)

    @classmethod
    def bordered(
        cls,
        gram: Tensor,
        border: Tensor,
        cross: Tensor,
        metric: Tensor | None = None,
        *,
        work: Tensor | None = None,
        renew: Callable[[], None] | None = None,
    ) -> "CenteredSystem":
        """Make the system of sums whose last row and column (r+1,) stand apart as `border`; see `of`."""
        weight = float(border[-1])
        if weight <= 0:
            raise NumericalError("no rows to fit: the sums of these folds are empty")
        mean, target_mean = border[:-1] / weight, cross[-1] / weight
        return cls(
            gram=gram,
            cross=torch.addr(cross[:-1], mean, target_mean, alpha=-weight),
            feature_mean=mean,
            target_mean=target_mean,
            weight=weight,
            metric=metric,
            work=work,
            renew=renew,
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
        if self.renew is not None:
            self.renew()
            system = self.gram.addr_(mean, mean, alpha=-self.weight)
        else:
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
        Coefficients of the best penalty and its neighbors, or of every penalty if all were tried on all
        folds, the intercept last; 0 for a fold without rows.
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
    trials.keep_only(window)
    # The best penalty may be at the edge of the window, with a better one beyond: the window follows the best
    # until both neighbors of the best are tried.
    while True:
        for fold in range(trials.n_folds):
            trials.attempt(fold, window)
        wider = _around(_best_of(trials.errors), len(penalties))
        if all(bool(trials.is_tried[index].all()) for index in wider):
            break
        window = wider
        trials.keep_only(window)
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
        self._cross, self._metric = sums.cross.sum(dim=0), sums.metric
        self._betas: dict[tuple[int, int], Tensor] = {}
        # Penalty and fold of coefficients that were let go; they are made again if they are wanted after all.
        self._let_go: set[tuple[int, int]] = set()
        self._n_clipped, self._jitter = 0, 0.0
        # Systems are put together in the same memory each time.
        rank = sums.gram.shape[1] - 1
        self._work = sums.gram.new_empty((rank, rank))
        # The sum over all folds, and memory for the sum without one.
        self._whole: tuple[Tensor, Tensor] | None = None
        if not is_lean(rank=rank, n_folds=self.n_folds):
            self._whole = sums.gram.sum(dim=0), torch.empty_like(sums.gram[0])

    def attempt(self, fold: int, wanted: Sequence[int]) -> None:
        """Fit all rows outside `fold` at each wanted penalty whose coefficients are not at hand."""
        untried = [
            index for index in wanted if not self.is_tried[index, fold] or (index, fold) in self._let_go
        ]
        self.is_tried[untried, fold] = True
        if not untried:
            return
        # Few groups leave folds empty. Nothing is left out then, and no error is made.
        if float(self._sums.weights[fold]) == 0:
            self.errors[untried, fold] = 0.0
            return
        system = self._without(fold)
        for index in untried:
            try:
                beta, jitter = system.solve(self._penalties[index])
            except NumericalError:
                # The error stays NaN, which rules the penalty out; larger penalties may still be solved.
                continue
            self._jitter = max(self._jitter, jitter)
            self._betas[index, fold] = beta
            self._let_go.discard((index, fold))
            error = float(
                self._sums.square[fold]
                - 2 * torch.sum(beta.mul(self._sums.cross[fold]))
                + torch.sum((self._sums.gram[fold] @ beta).mul_(beta))
            )
            # The three terms nearly cancel where the fit is almost perfect, and rounding can pass below 0.
            self._n_clipped += error < 0
            self.errors[index, fold] = max(error, 0.0)

    def _without(self, fold: int) -> CenteredSystem:
        """Return the system of all folds but one."""
        cross = self._cross - self._sums.cross[fold]
        if self._whole is not None:
            whole, rest = self._whole
            torch.sub(whole, self._sums.gram[fold], out=rest)
            return CenteredSystem.of(rest, cross, self._metric, self._work)
        others = [gram for other, gram in enumerate(self._sums.gram) if other != fold]

        def renew() -> None:
            self._work.zero_()
            for gram in others:
                self._work += gram[:-1, :-1]

        border = torch.stack([gram[:, -1] for gram in others]).sum(dim=0)
        return CenteredSystem.bordered(self._work, border, cross, self._metric, renew=renew)

    def keep_only(self, window: Sequence[int]) -> None:
        """Let go of the coefficients of other penalties: of many classes, they are large."""
        for key in [key for key in self._betas if key[0] not in window]:
            del self._betas[key]
            self._let_go.add(key)

    def coefficients(self) -> dict[int, Tensor]:
        """Return the coefficients that all folds have; each fold's are let go as they are copied."""
        found = {}
        for index in range(len(self._penalties)):
            keys = [(index, fold) for fold in range(self.n_folds)]
            if not bool(self.is_tried[index].all()) or not self._let_go.isdisjoint(keys):
                continue
            # The memory of an empty tensor is taken as it is filled, while that of each fold is given back.
            found[index] = self._cross.new_empty((self.n_folds, *self._cross.shape))
            for key in keys:
                # Folds without rows, and fits that failed, have no coefficients.
                beta = self._betas.pop(key, None)
                found[index][key[1]] = 0.0 if beta is None else beta
        return found

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
