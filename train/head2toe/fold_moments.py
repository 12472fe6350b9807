"""Moments without each fold, and what ridge regressions on them err on it: the contract, and from sums."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.train.head2toe.columns import Columns
from toptune.train.head2toe.moments import GramMoments, Moments, solve_shifted
from toptune.train.kernels.maps import IdentityMap
from toptune.train.passes.passes import accumulate, predict_left_out
from toptune.train.passes.sums import FoldSums
from toptune.train.passes.training_rows import OutOfFold, TrainingRows


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Ridge regressions at several penalties, fitted without a fold.

    Attributes
    ----------
    errors : Tensor of float64, shape (n_penalties,)
        Squared error summed over the fold's rows.
    fits : Tensor of float64, shape (n_penalties, ...)
        What the fold's predictions are made of: `FoldMoments` that gave it knows how.
    """

    errors: Tensor
    fits: Tensor


# Of a fold and penalties; these are in units of the columns' total variance where it is asked to.
Fit = Callable[[int, Sequence[float]], Trials]
# Columns selected without each fold, and one of the `Trials.fits` of each fold that has rows.
Finalist = tuple[Sequence[Columns], dict[int, Tensor]]


class FoldMoments(Protocol):
    """The rows of every fold, as far as squared-loss fits need them."""

    def without(self, fold: int | None) -> Moments:
        """Moments of the rows of all other folds; of all rows where `fold` is None."""
        ...

    def ridge(self, columns: Sequence[Columns], *, is_relative: bool) -> Fit:
        """Ridge regression on the columns selected without each fold."""
        ...

    def left_out(self, finalists: Sequence[Finalist]) -> tuple[list[OutOfFold], npt.NDArray[np.int64]]:
        """Every row scored by the fit that left its fold out, as `predict_left_out` gives it."""
        ...


@dataclass(frozen=True, kw_only=True)
class SubsetSums:
    """Ridge regression on some of the columns that there are sums of."""

    sums: FoldSums

    @cached_property
    def total(self) -> FoldSums:
        return self.sums.total()

    def coefficients(
        self, fold: int, columns: Tensor, penalties: Sequence[float], *, is_relative: bool
    ) -> Tensor:
        """Fit without a fold: (n_penalties, k + 1, n_targets), the intercept last."""
        of = _and_intercept(columns, self.sums)
        moments = GramMoments.of(
            _block(self.total.gram[0], of) - _block(self.sums.gram[fold], of),
            self.total.cross[0, of] - self.sums.cross[fold, of],
        )
        unit = (float(moments.variances.sum()) or 1.0) if is_relative else 1.0
        found = solve_shifted(moments.whole, moments.cross, [unit * penalty for penalty in penalties])
        return torch.cat([found, (moments.target_means - moments.means @ found)[:, None]], dim=1)

    def errors(self, fold: int, columns: Tensor, coefficients: Tensor) -> Tensor:
        """Squared error of fits summed over a fold's rows, (n_fits,)."""
        of = _and_intercept(columns, self.sums)
        gram, cross = _block(self.sums.gram[fold], of), self.sums.cross[fold, of]
        errors = self.sums.square[fold] - 2 * (coefficients * cross).sum(dim=(1, 2))
        return (errors + (coefficients * (gram @ coefficients)).sum(dim=(1, 2))).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class SummedFolds:
    """`FoldMoments` from sums of ``(x, 1)``; `Trials.fits` are coefficients, the intercept last."""

    subsets: SubsetSums
    rows: TrainingRows
    block_rows: int
    device: torch.device

    @classmethod
    def over(cls, rows: TrainingRows, *, block_rows: int, device: torch.device) -> "SummedFolds":
        """Add up the rows in one pass."""
        (sums,) = accumulate(
            rows, IdentityMap(rows.blocks.shape[1]), [0], block_rows=block_rows, device=device
        )
        return cls(subsets=SubsetSums(sums=sums), rows=rows, block_rows=block_rows, device=device)

    def without(self, fold: int | None) -> Moments:
        total, sums = self.subsets.total, self.subsets.sums
        if fold is None:
            return GramMoments.of(total.gram[0], total.cross[0])
        return GramMoments.of(total.gram[0] - sums.gram[fold], total.cross[0] - sums.cross[fold])

    def ridge(self, columns: Sequence[Columns], *, is_relative: bool) -> Fit:
        def fit(fold: int, penalties: Sequence[float]) -> Trials:
            of = torch.from_numpy(columns[fold]).to(self.device)
            found = self.subsets.coefficients(fold, of, penalties, is_relative=is_relative)
            return Trials(errors=self.subsets.errors(fold, of, found), fits=found)

        return fit

    def left_out(self, finalists: Sequence[Finalist]) -> tuple[list[OutOfFold], npt.NDArray[np.int64]]:
        d = self.rows.blocks.shape[1]
        shape = (self.rows.n_folds, d + 1, self.rows.n_classes)
        betas = []
        for columns, fits in finalists:
            beta = torch.zeros(shape, dtype=torch.float64, device=self.device)
            for fold, found in fits.items():
                beta[fold, torch.from_numpy(columns[fold]).to(self.device)] = found[:-1]
                beta[fold, -1] = found[-1]
            betas.append((0, beta))
        return predict_left_out(
            self.rows, IdentityMap(d), betas, block_rows=self.block_rows, device=self.device
        )


def _and_intercept(columns: Tensor, sums: FoldSums) -> Tensor:
    return torch.cat([columns, columns.new_tensor([sums.gram.shape[1] - 1])])


def _block(gram: Tensor, of: Tensor) -> Tensor:
    return gram[of][:, of]
