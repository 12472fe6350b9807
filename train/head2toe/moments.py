"""Centred second moments of training rows: of sums over them, or of the rows where those are fewer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from toptune.train.numerics.cholesky import cholesky_with_jitter, solve_factored


class Moments(Protocol):
    """What squared-loss fits to some columns need to know of rows: X centered, Y centered, weighted.

    Attributes
    ----------
    cross : Tensor of float64, shape (d, n_targets)
        ``X^T Y / n``.
    variances : Tensor of float64, shape (d,)
        Diagonal of ``X^T X / n``.
    means, target_means : Tensor of float64, shapes (d,) and (n_targets,)
    """

    cross: Tensor
    target_means: Tensor

    @property
    def means(self) -> Tensor: ...

    @property
    def variances(self) -> Tensor: ...

    def gram(self, columns: Tensor) -> Tensor:
        """``X_A^T X_A / n`` of some columns, (k, k)."""
        ...

    def product(self, columns: Tensor, weights: Tensor) -> Tensor:
        """``X^T X_A W / n`` for W (k, n_targets): (d, n_targets)."""
        ...

    def ridge(self, columns: Tensor, penalties: Sequence[float]) -> Tensor:
        """Ridge regression on some columns: (n_penalties, k, n_targets), for centered X and Y."""
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
        return solve_shifted(self.gram(columns), self.cross[columns], penalties)


@dataclass(kw_only=True)
class RowMoments:
    """`Moments` from rows that are held: fewer than columns, they take less than their Gram matrix.

    Attributes
    ----------
    values : Tensor of float64, shape (d, n)
        A column of the data in each row, less its entry of `center`; moments of several sets of rows share
        them.
    shares : Tensor of float64, shape (n,)
        Weight of every row, summing to 1; 0 for those that do not count.
    offset : Tensor of float64, shape (d,)
        Means of the values by these shares.
    targets : Tensor of float64, shape (n, n_targets)
        Centered.
    """

    values: Tensor
    center: Tensor
    shares: Tensor
    offset: Tensor
    targets: Tensor
    cross: Tensor
    variances: Tensor
    target_means: Tensor

    @classmethod
    def of(cls, rows: Tensor, targets: Tensor, weights: Tensor) -> "RowMoments":
        """Centre rows (n, d) and targets (n, n_targets) of some weights (n,)."""
        shares = weights / weights.sum()
        center = shares @ rows
        values = (rows - center).T.contiguous()
        target_means = shares @ targets
        centred = targets - target_means
        return cls(
            values=values,
            center=center,
            shares=shares,
            offset=torch.zeros_like(center),
            targets=centred,
            cross=values @ (shares[:, None] * centred),
            variances=values.square() @ shares,
            target_means=target_means,
        )

    @property
    def means(self) -> Tensor:
        return self.center + self.offset

    def gram(self, columns: Tensor) -> Tensor:
        some, offset = self.values[columns], self.offset[columns]
        return torch.addr((some * self.shares) @ some.T, offset, offset, alpha=-1)

    def product(self, columns: Tensor, weights: Tensor) -> Tensor:
        scores = (weights.T @ self.values[columns]).mul_(self.shares)
        return torch.addr(self.values @ scores.T, self.offset, self.offset[columns] @ weights, alpha=-1)

    def ridge(self, columns: Tensor, penalties: Sequence[float]) -> Tensor:
        if len(columns) <= len(self.shares):
            return solve_shifted(self.gram(columns), self.cross[columns], penalties)
        roots = self.shares.sqrt()
        some = (self.values[columns] - self.offset[columns, None]).mul_(roots)
        dual = solve_shifted(some.T @ some, roots[:, None] * self.targets, penalties)
        return some @ dual


def solve_shifted(system: Tensor, right: Tensor, penalties: Sequence[float]) -> Tensor:
    """``(system + penalty I)^-1 right`` for every penalty, (n_penalties, m, n_targets).

    The diagonal of `system` is overwritten.
    """
    diagonal = system.diagonal().clone()
    solutions = []
    for penalty in penalties:
        system.diagonal().copy_(diagonal + penalty)
        factor, _ = cholesky_with_jitter(system, what=f"the ridge system at penalty {penalty:g}")
        solutions.append(solve_factored(factor, right))
    return torch.stack(solutions)
