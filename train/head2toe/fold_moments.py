"""The contract of moments without each fold, and its implementation from sums over the rows of every fold.

Two implementations, here and in `held_folds`, do the same from sums (many rows) and from rows in memory (few
rows). The penalty of every ridge regression here is that of ``(1/n) squared error + penalty ||b||^2``.
"""

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
    """Ridge regressions at several penalties, fitted without one fold.

    Attributes
    ----------
    errors : Tensor of float64, shape (n_penalties,)
        Squared error, summed over the rows of the fold.
    fits : Tensor of float64, shape (n_penalties, ...)
        What the predictions of the fold are made of; its form is known to the `FoldMoments` that returned it.
    """

    errors: Tensor
    fits: Tensor


# (fold, penalties) -> Trials. Penalties may be relative to the total variance of the columns.
Fit = Callable[[int, Sequence[float]], Trials]


@dataclass(frozen=True)
class Finalist:
    """A selection and a penalty whose left-out predictions are taken.

    Attributes
    ----------
    columns : sequence of ndarray of int64
        Columns selected without each fold.
    fits : dict of int to Tensor
        By fold, the entry of `Trials.fits` that belongs to the penalty. A fold without rows has none.
    """

    columns: Sequence[Columns]
    fits: dict[int, Tensor]


class FoldMoments(Protocol):
    """The rows of every fold, as far as squared-loss fits need to know them."""

    def without(self, fold: int | None) -> Moments:
        """Return the moments of the rows outside a fold; of all rows where `fold` is None."""
        ...

    def ridge(self, columns: Sequence[Columns], *, is_relative: bool) -> Fit:
        """Prepare ridge regressions on the columns selected without each fold.

        Parameters
        ----------
        columns : sequence of ndarray of int64
            Columns selected without each fold.
        is_relative : bool
            Whether penalties are in units of the total variance of the columns.
        """
        ...

    def left_out(self, finalists: Sequence[Finalist]) -> tuple[list[OutOfFold], npt.NDArray[np.int64]]:
        """Score every row by the fit that left its fold out; returns what `predict_left_out` does."""
        ...


@dataclass(frozen=True, kw_only=True)
class SubsetSums:
    """Ridge regression on subsets of the columns, from sums over all columns.

    Attributes
    ----------
    sums : FoldSums
        Sums of ``z = (x, 1)`` over each fold.
    """

    sums: FoldSums

    @cached_property
    def total(self) -> FoldSums:
        """Sums over the rows that take part in cross-validation."""
        return self.sums.validated().total()

    def coefficients(
        self, fold: int, columns: Tensor, penalties: Sequence[float], *, is_relative: bool
    ) -> Tensor:
        """Fit without one fold.

        Parameters
        ----------
        fold : int
        columns : Tensor of int64, shape (k,)
        penalties : sequence of float
        is_relative : bool
            Whether penalties are in units of the total variance of the columns.

        Returns
        -------
        Tensor of float64, shape (n_penalties, k + 1, n_targets)
            Coefficients, the intercept last.
        """
        of = _and_intercept(columns, self.sums)
        # Only the rows and columns of the selection are subtracted: k^2 numbers instead of d^2.
        moments = GramMoments.of(
            _block(self.total.gram[0], of) - _block(self.sums.gram[fold], of),
            self.total.cross[0, of] - self.sums.cross[fold, of],
        )
        unit = (float(moments.variances.sum()) or 1.0) if is_relative else 1.0
        found = solve_shifted(moments.whole, moments.cross, [unit * penalty for penalty in penalties])
        return torch.cat([found, (moments.target_means - moments.means @ found)[:, None]], dim=1)

    def errors(self, fold: int, columns: Tensor, coefficients: Tensor) -> Tensor:
        """Return the squared error (n_fits,) of fits (n_fits, k + 1, n_targets) over the rows of a fold."""
        of = _and_intercept(columns, self.sums)
        gram, cross = _block(self.sums.gram[fold], of), self.sums.cross[fold, of]
        # ||y - z b||^2 summed over the fold is s - 2 <b, c> + <b, G b>.
        errors = self.sums.square[fold] - 2 * (coefficients * cross).sum(dim=(1, 2))
        return (errors + (coefficients * (gram @ coefficients)).sum(dim=(1, 2))).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class SummedFolds:
    """`FoldMoments` from sums of ``(x, 1)``; `Trials.fits` are coefficients, the intercept last.

    Attributes
    ----------
    subsets : SubsetSums
        Sums over every fold.
    rows : TrainingRows
        Read once more for the predictions of the finalists.
    block_rows : int
        Rows of a block.
    device : torch.device
    """

    subsets: SubsetSums
    rows: TrainingRows
    block_rows: int
    device: torch.device

    @classmethod
    def over(cls, rows: TrainingRows, *, block_rows: int, device: torch.device) -> "SummedFolds":
        """Sum the rows in one pass."""
        (sums,) = accumulate(
            rows, IdentityMap(rows.blocks.shape[1]), [0], block_rows=block_rows, device=device
        )
        return cls(subsets=SubsetSums(sums=sums), rows=rows, block_rows=block_rows, device=device)

    def without(self, fold: int | None) -> Moments:
        sums = self.subsets.sums
        if fold is None:
            whole = sums.total()
            return GramMoments.of(whole.gram[0], whole.cross[0])
        total = self.subsets.total
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
        # Coefficients of the columns kept are spread over all columns, so that one pass scores every
        # finalist.
        betas = []
        for finalist in finalists:
            beta = torch.zeros(shape, dtype=torch.float64, device=self.device)
            for fold, found in finalist.fits.items():
                beta[fold, torch.from_numpy(finalist.columns[fold]).to(self.device)] = found[:-1]
                beta[fold, -1] = found[-1]
            betas.append((0, beta))
        return predict_left_out(
            self.rows, IdentityMap(d), betas, block_rows=self.block_rows, device=self.device
        )


def _and_intercept(columns: Tensor, sums: FoldSums) -> Tensor:
    """Append the position of the intercept's 1, which stands behind all columns of the sums."""
    return torch.cat([columns, columns.new_tensor([sums.gram.shape[1] - 1])])


def _block(gram: Tensor, of: Tensor) -> Tensor:
    """Return the rows and columns `of` of a matrix."""
    return gram[of][:, of]
