"""Centred second moments of training rows: of sums over them, or of the rows where those are fewer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from toptune.train.cholesky import cholesky_with_jitter, solve_factored


class Moments(Protocol):
    """What squared-loss fits to some columns need to know of rows: X centred, Y centred, weighted.

    Attributes
    ----------
    cross : Tensor of float64, shape (d, n_targets)
        ``X^T Y / n``.
    variances : Tensor of float64, shape (d,)
        Diagonal of ``X^T X / n``.
    means, target_means : Tensor of float64, shapes (d,) and (n_targets,)
    """

    cross: Tensor
    means: Tensor
    target_means: Tensor

    @property
    def variances(self) -> Tensor: ...

    def gram(self, columns: Tensor) -> Tensor:
        """``X_A^T X_A / n`` of some columns, (k, k)."""
        ...

    def product(self, columns: Tensor, weights: Tensor) -> Tensor:
        """``X^T X_A W / n`` for W (k, n_targets): (d, n_targets)."""
        ...

    def ridge(self, columns: Tensor, penalties: Sequence[float]) -> Tensor:
        """Ridge regression on some columns: (n_penalties, k, n_targets), for centred X and Y."""
        ...


@dataclass(kw_only=True)
class GramMoments:
    """`Moments` from sums alone; the rows are not needed."""

    whole: Tensor
    cross: Tensor
    means: Tensor
    target_means: Tensor

    @classmethod
    def of(cls, gram: Tensor, cross: Tensor) -> "GramMoments":
        """Centre sums over rows of ``(x, 1)``: `gram` (d+1, d+1), `cross` (d+1, n_targets)."""
        gram, cross = gram / gram[-1, -1], cross / gram[-1, -1]
        means, target_means = gram[:-1, -1], cross[-1]
        return cls(
            whole=torch.addr(gram[:-1, :-1], means, means, alpha=-1),
            cross=torch.addr(cross[:-1], means, target_means, alpha=-1),
            means=means,
            target_means=target_means,
        )

    @property
    def variances(self) -> Tensor:
        return self.whole.diagonal()

    def gram(self, columns: Tensor) -> Tensor:
        return self.whole[columns][:, columns]

    def product(self, columns: Tensor, weights: Tensor) -> Tensor:
        return self.whole[:, columns] @ weights

    def ridge(self, columns: Tensor, penalties: Sequence[float]) -> Tensor:
        return _solve(self.gram(columns), self.cross[columns], penalties)


@dataclass(kw_only=True)
class RowMoments:
    """`Moments` from rows that are held: fewer than columns, they take less than their Gram matrix."""

    rows: Tensor
    targets: Tensor
    cross: Tensor
    variances: Tensor
    means: Tensor
    target_means: Tensor

    @classmethod
    def of(cls, rows: Tensor, targets: Tensor, weights: Tensor) -> "RowMoments":
        """Centre rows (n, d) and targets (n, n_targets) of some weights (n,)."""
        shares = weights / weights.sum()
        means, target_means = shares @ rows, shares @ targets
        roots = shares.sqrt()[:, None]
        centred, centred_targets = (rows - means).mul_(roots), (targets - target_means) * roots
        return cls(
            rows=centred,
            targets=centred_targets,
            cross=centred.T @ centred_targets,
            variances=centred.square().sum(dim=0),
            means=means,
            target_means=target_means,
        )

    def gram(self, columns: Tensor) -> Tensor:
        some = self.rows[:, columns]
        return some.T @ some

    def product(self, columns: Tensor, weights: Tensor) -> Tensor:
        return self.rows.T @ (self.rows[:, columns] @ weights)

    def ridge(self, columns: Tensor, penalties: Sequence[float]) -> Tensor:
        some = self.rows[:, columns]
        if some.shape[1] <= some.shape[0]:
            return _solve(some.T @ some, self.cross[columns], penalties)
        dual = _solve(some @ some.T, self.targets, penalties)
        return torch.matmul(some.T, dual)


def _solve(system: Tensor, right: Tensor, penalties: Sequence[float]) -> Tensor:
    """``(system + penalty I)^-1 right`` for every penalty, (n_penalties, m, n_targets)."""
    solutions = []
    for penalty in penalties:
        shifted = system.clone()
        shifted.diagonal().add_(penalty)
        factor, _ = cholesky_with_jitter(shifted, what=f"the ridge system at penalty {penalty:g}")
        solutions.append(solve_factored(factor, right))
    return torch.stack(solutions)
