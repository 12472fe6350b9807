"""Moments without each fold, and what fits to them err on it: from sums, or from rows that are held."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from toptune.train.maps import IdentityMap
from toptune.train.moments import GramMoments, Moments, RowMoments
from toptune.train.passes import TrainingRows, accumulate, batches
from toptune.train.sums import FoldSums


class FoldMoments(Protocol):
    """The rows of every fold, as far as squared-loss fits need them."""

    def without(self, fold: int | None) -> Moments:
        """Moments of the rows of all other folds; of all rows where `fold` is None."""
        ...

    def errors(self, fold: int, columns: Tensor, coefficients: Tensor, intercepts: Tensor) -> Tensor:
        """Squared error of several fits summed over a fold's rows, (n_fits,).

        `coefficients` are (n_fits, k, n_classes) and `intercepts` (n_fits, n_classes).
        """
        ...


@dataclass(frozen=True)
class SummedFolds:
    """`FoldMoments` from sums of ``(x, 1)``."""

    sums: FoldSums

    @classmethod
    def over(cls, rows: TrainingRows, *, block_rows: int, device: torch.device) -> "SummedFolds":
        """Add up the rows in one pass."""
        d = rows.blocks.shape[1]
        return cls(accumulate(rows, IdentityMap(d), [0], block_rows=block_rows, device=device)[0])

    def without(self, fold: int | None) -> Moments:
        gram, cross = self.sums.gram.sum(dim=0), self.sums.cross.sum(dim=0)
        if fold is not None:
            gram, cross = gram.sub_(self.sums.gram[fold]), cross.sub_(self.sums.cross[fold])
        return GramMoments.of(gram, cross)

    def errors(self, fold: int, columns: Tensor, coefficients: Tensor, intercepts: Tensor) -> Tensor:
        of = torch.cat([columns, columns.new_tensor([self.sums.gram.shape[1] - 1])])
        gram, cross = self.sums.gram[fold][of][:, of], self.sums.cross[fold][of]
        beta = torch.cat([coefficients, intercepts[:, None]], dim=1)
        errors = self.sums.square[fold] - 2 * (beta * cross).sum(dim=(1, 2))
        return (errors + (beta * (gram @ beta)).sum(dim=(1, 2))).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class HeldFolds:
    """`FoldMoments` from rows in memory, (n, d) in float64."""

    values: Tensor
    targets: Tensor
    weights: Tensor
    folds: Tensor

    @classmethod
    def over(cls, rows: TrainingRows, *, block_rows: int, device: torch.device) -> "HeldFolds":
        """Read the rows in one pass."""
        values = torch.empty(rows.blocks.shape, dtype=torch.float64, device=device)
        for where, block in batches(rows, block_rows=block_rows, dtype=torch.float64, device=device):
            values[where] = block
        codes, weights, folds = (
            torch.from_numpy(each).to(device) for each in (rows.codes, rows.weights, rows.folds)
        )
        targets = one_hot(codes, rows.n_classes).double()
        return cls(values=values, targets=targets, weights=weights, folds=folds)

    def without(self, fold: int | None) -> Moments:
        if fold is None:
            return RowMoments.of(self.values, self.targets, self.weights)
        others = torch.nonzero(self.folds != fold)[:, 0]
        return RowMoments.of(self.values[others], self.targets[others], self.weights[others])

    def errors(self, fold: int, columns: Tensor, coefficients: Tensor, intercepts: Tensor) -> Tensor:
        mine = torch.nonzero(self.folds == fold)[:, 0]
        scores = self.values[mine[:, None], columns] @ coefficients + intercepts[:, None]
        errors: Tensor = self.weights[mine] @ (self.targets[mine] - scores).square_().sum(dim=2).T
        return errors
