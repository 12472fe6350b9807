"""Block sums of one pass: all that penalties, folds and label sets need to know of the rows."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(kw_only=True)
class FoldSums:
    """Weighted sums over the rows of each fold of ``z = (phi, 1)`` and the targets y.

    The 1 appended to the features carries the intercept: its row of the sums holds the sums of
    features and targets and the weight of the rows, from which any set of folds can be centred
    without the rows. Sums only add, so blocks may come in any order, from anywhere, and be taken
    away again.

    Attributes
    ----------
    gram : Tensor of float64, shape (n_folds, r + 1, r + 1)
        Sum of w z z^T.
    cross : Tensor of float64, shape (n_folds, r + 1, n_targets)
        Sum of w z y^T.
    square : Tensor of float64, shape (n_folds,)
        Sum of w ||y||^2.
    """

    gram: Tensor
    cross: Tensor
    square: Tensor

    @classmethod
    def zeros(
        cls, *, n_folds: int, rank: int, n_targets: int, device: torch.device | None = None
    ) -> "FoldSums":
        """Make sums over no rows."""
        options = {"dtype": torch.float64, "device": device}
        return cls(
            gram=torch.zeros((n_folds, rank + 1, rank + 1), **options),  # type: ignore[arg-type]
            cross=torch.zeros((n_folds, rank + 1, n_targets), **options),  # type: ignore[arg-type]
            square=torch.zeros(n_folds, **options),  # type: ignore[arg-type]
        )

    def add(self, phi: Tensor, y: Tensor, weights: Tensor, folds: Tensor) -> None:
        """Add rows: features (b, r), targets (b, n_targets), weights (b,), folds (b,); float64."""
        rank = phi.shape[1]
        for fold in torch.unique(folds).tolist():
            rows = torch.nonzero(folds == fold)[:, 0]
            z, targets, w = phi[rows], y[rows], weights[rows]
            weighted = z * w[:, None]
            gram, cross = self.gram[fold], self.cross[fold]
            gram[:rank, :rank].addmm_(weighted.T, z)
            feature_sum = weighted.sum(dim=0)
            gram[:rank, rank] += feature_sum
            gram[rank, :rank] += feature_sum
            gram[rank, rank] += w.sum()
            cross[:rank].addmm_(weighted.T, targets)
            cross[rank] += w @ targets
            self.square[fold] += w @ targets.square().sum(dim=1)

    @property
    def weights(self) -> Tensor:
        """Weight of the rows of each fold, shape (n_folds,)."""
        return self.gram[:, -1, -1]


def sums_bytes(*, n_folds: int, rank: int, n_targets: int) -> int:
    """Bytes that `FoldSums` hold."""
    return 8 * n_folds * ((rank + 1) * (rank + 1) + (rank + 1) * n_targets + 1)
