"""Block sums of one pass: all that penalties, folds and label sets need to know of the rows."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

# Columns of a panel of the symmetric product: only panels on and below the diagonal are computed.
PANEL = 256
# Rows of a fold that wait to be multiplied together, unless as many as half come at once, and the memory
# that waiting rows may take.
BATCH_ROWS = 2048
BATCH_BYTES = 128 * 2**20


@dataclass(frozen=True, kw_only=True)
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
    factor : Tensor of float64, shape (r, r), or None
        L where phi stands for plain kernel values: features are ``phi L^-T``, and the penalty of
        coefficients b is ``b^T L L^T b``. None where phi are features.
    """

    gram: Tensor
    cross: Tensor
    square: Tensor
    factor: Tensor | None = None

    def __add__(self, other: "FoldSums") -> "FoldSums":
        return replace(
            self,
            gram=self.gram + other.gram,
            cross=self.cross + other.cross,
            square=self.square + other.square,
        )

    def __sub__(self, other: "FoldSums") -> "FoldSums":
        return replace(
            self,
            gram=self.gram - other.gram,
            cross=self.cross - other.cross,
            square=self.square - other.square,
        )

    def whitened(self) -> "FoldSums":
        """Turn sums over kernel values into sums over features, in place."""
        if self.factor is None:
            return self
        for gram, cross in zip(self.gram, self.cross, strict=True):
            half = torch.linalg.solve_triangular(self.factor, gram[:-1], upper=False)
            gram[:-1, :-1] = torch.linalg.solve_triangular(self.factor, half[:, :-1].T, upper=False)
            gram[:-1, -1] = gram[-1, :-1] = half[:, -1]
            cross[:-1] = torch.linalg.solve_triangular(self.factor, cross[:-1], upper=False)
        return replace(self, factor=None)

    def total(self) -> "FoldSums":
        """Sum of all folds, as one."""
        return replace(
            self,
            gram=self.gram.sum(dim=0, keepdim=True),
            cross=self.cross.sum(dim=0, keepdim=True),
            square=self.square.sum(dim=0, keepdim=True),
        )

    def fold(self, number: int) -> "FoldSums":
        """Copy of one fold's."""
        one = slice(number, number + 1)
        return replace(
            self, gram=self.gram[one].clone(), cross=self.cross[one].clone(), square=self.square[one].clone()
        )

    def cpu(self) -> "FoldSums":
        """Give the same in main memory."""
        return replace(
            self,
            gram=self.gram.cpu(),
            cross=self.cross.cpu(),
            square=self.square.cpu(),
            factor=None if self.factor is None else self.factor.cpu(),
        )

    @property
    def weights(self) -> Tensor:
        """Weight of the rows of each fold, shape (n_folds,)."""
        return self.gram[:, -1, -1]


class SumsBuilder:
    """Adds rows up to `FoldSums`.

    All in float64. Rows wait until a fold has a batch of them. Products in float32 (of whitened features)
    would take half the time of this step and move scores by about 2e-6: less than float32 kernel values
    do, but more than may be between sums over the same rows that came together in different ways.

    Parameters
    ----------
    n_folds, rank, n_targets : int
    n_rows : int
        Rows to come, at most; batches are no larger.
    """

    def __init__(
        self,
        *,
        n_folds: int,
        rank: int,
        n_targets: int,
        n_rows: int = BATCH_ROWS,
        device: torch.device | None = None,
    ) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.gram = zeros(n_folds, rank + 1, rank + 1)
        self.cross = zeros(n_folds, rank + 1, n_targets)
        self.square = zeros(n_folds)
        self.weight = zeros(n_folds)
        self.capacity = batch_rows(n_folds=n_folds, rank=rank, n_rows=n_rows)
        options: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self._features = torch.empty((n_folds, self.capacity, rank), **options)
        self._targets = torch.empty((n_folds, self.capacity, n_targets), **options)
        self._roots = torch.empty((n_folds, self.capacity), **options)
        self._waiting = [0] * n_folds

    def add(self, phi: Tensor, y: Tensor, weights: Tensor, folds: Tensor) -> None:
        """Add rows: features (b, r), targets (b, n_targets), weights (b,), folds (b,)."""
        self.weight.index_add_(0, folds, weights)
        self.square.index_add_(0, folds, weights * y.square().sum(dim=1))
        roots = weights.sqrt()
        is_plain = bool((weights == 1).all())
        present = torch.unique(folds).tolist()
        for fold in present:
            rows = torch.nonzero(folds == fold)[:, 0] if len(present) > 1 else slice(None)
            z, targets, root = phi[rows], y[rows], roots[rows]
            if not is_plain:
                z, targets = z * root[:, None], targets * root[:, None]
            if 2 * len(z) >= self.capacity:
                self._multiply(fold, z, targets, root)
                continue
            if self._waiting[fold] + len(z) > self.capacity:
                self._flush(fold)
            at = self._waiting[fold]
            where = slice(at, at + len(z))
            self._features[fold, where], self._targets[fold, where] = z, targets
            self._roots[fold, where] = root
            self._waiting[fold] += len(z)

    def result(self) -> FoldSums:
        """Give the sums of all rows added so far."""
        for fold in range(len(self._waiting)):
            self._flush(fold)
        for gram, weight in zip(self.gram, self.weight, strict=True):
            below = gram.tril(-1)
            gram.tril_().add_(below.T)
            gram[-1, -1] = weight
        return FoldSums(gram=self.gram, cross=self.cross, square=self.square)

    def _flush(self, fold: int) -> None:
        count, self._waiting[fold] = self._waiting[fold], 0
        if count:
            parts = (each[fold, :count] for each in (self._features, self._targets, self._roots))
            self._multiply(fold, *parts)

    def _multiply(self, fold: int, z: Tensor, targets: Tensor, roots: Tensor) -> None:
        """Add rows of features, targets and 1 that have been scaled by the roots of their weights."""
        gram, cross, rank = self.gram[fold], self.cross[fold], z.shape[1]
        for start in range(0, rank, PANEL):
            end = min(start + PANEL, rank)
            gram[start:end, :end].addmm_(z[:, start:end].T, z[:, :end])
        gram[-1, :-1] += roots @ z
        cross[:-1].addmm_(z.T, targets)
        cross[-1] += roots @ targets


def batch_rows(*, n_folds: int, rank: int, n_rows: int) -> int:
    """Rows of each fold that wait for a common product, at most."""
    affordable = BATCH_BYTES // (8 * n_folds * (rank + 1))
    return max(1, min(n_rows, BATCH_ROWS, max(64, affordable)))


def sums_bytes(*, n_folds: int, rank: int, n_targets: int) -> int:
    """Bytes that `FoldSums` hold."""
    return 8 * n_folds * ((rank + 1) * (rank + 1) + (rank + 1) * n_targets + 1)
