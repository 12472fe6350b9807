"""Centered second moments of training rows, from sums over them or from the rows themselves.

Letters: X (n, d) and Y (n, n_targets) are centered by weighted means; sums over rows are weighted and divided
by the total weight, written ``/ n``. A is a subset of k columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from toptune.train.numerics.cholesky import cholesky_with_jitter, solve_factored


class Moments(Protocol):
    """What squared-loss fits to subsets of the columns need to know of the rows.

    Attributes
    ----------
    cross : Tensor of float64, shape (d, n_targets)
        ``X^T Y / n``.
    variances : Tensor of float64, shape (d,)
        Diagonal of ``X^T X / n``.
    means, target_means : Tensor of float64, shapes (d,) and (n_targets,)
        What was subtracted from columns and targets.
    """

    cross: Tensor
    target_means: Tensor

    @property
    def means(self) -> Tensor:
        """Weighted mean of every column."""
        ...

    @property
    def variances(self) -> Tensor:
        """Weighted variance of every column."""
        ...

    def gram(self, columns: Tensor) -> Tensor:
        """Return ``X_A^T X_A / n`` (k, k) of the columns A."""
        ...

    def product(self, columns: Tensor, weights: Tensor) -> Tensor:
        """Return ``X^T X_A W / n`` (d, n_targets) for weights W (k, n_targets) of the columns A."""
        ...

    def ridge(self, columns: Tensor, penalties: Sequence[float]) -> Tensor:
        """Return the ridge coefficients (n_penalties, k, n_targets) of Y on the columns A of X."""
        ...


@dataclass(kw_only=True)
class GramMoments:
    """`Moments` from sums alone; the rows are not needed.

    Attributes
    ----------
    whole : Tensor of float64, shape (d, d)
        ``X^T X / n``.
    cross, means, target_means : Tensor of float64
        As in `Moments`.
    """

    whole: Tensor
    cross: Tensor
    means: Tensor
    target_means: Tensor

    @classmethod
    def of(cls, gram: Tensor, cross: Tensor) -> "GramMoments":
        """Center sums over rows of ``z = (x, 1)``.

        Parameters
        ----------
        gram : Tensor of float64, shape (d + 1, d + 1)
            Sum of ``w z z^T``.
        cross : Tensor of float64, shape (d + 1, n_targets)
            Sum of ``w z y^T``.
        """
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
    """`Moments` from rows that are held; fewer rows than columns take less than their Gram matrix.

    Attributes
    ----------
    values : Tensor of float64, shape (d, n)
        The data less `center`, transposed: one column of the data per row. Moments of several sets of rows
        share it.
    center : Tensor of float64, shape (d,)
        What was subtracted from the columns.
    shares : Tensor of float64, shape (n,)
        Weight of every row, summing to 1; 0 for rows that do not count.
    offset : Tensor of float64, shape (d,)
        Means of the values by these shares.
    targets : Tensor of float64, shape (n, n_targets)
        Centered targets.
    cross, variances, target_means : Tensor of float64
        As in `Moments`.
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
        """Center rows (n, d) and targets (n, n_targets) by their means under weights (n,)."""
        shares = weights / weights.sum()
        center = shares @ rows
        values = (rows - center).T.contiguous()
        target_means = shares @ targets
        centered = targets - target_means
        return cls(
            values=values,
            center=center,
            shares=shares,
            offset=torch.zeros_like(center),
            targets=centered,
            cross=values @ (shares[:, None] * centered),
            variances=values.square() @ shares,
            target_means=target_means,
        )

    @property
    def means(self) -> Tensor:
        """Weighted mean of every column."""
        return self.center + self.offset

    def gram(self, columns: Tensor) -> Tensor:
        some, offset = self.values[columns], self.offset[columns]
        return torch.addr((some * self.shares) @ some.T, offset, offset, alpha=-1)

    def product(self, columns: Tensor, weights: Tensor) -> Tensor:
        # X^T (X_A W) by products with the rows; the d x d matrix is never formed.
        scores = (weights.T @ self.values[columns]).mul_(self.shares)
        return torch.addr(self.values @ scores.T, self.offset, self.offset[columns] @ weights, alpha=-1)

    def ridge(self, columns: Tensor, penalties: Sequence[float]) -> Tensor:
        if len(columns) <= len(self.shares):
            return solve_shifted(self.gram(columns), self.cross[columns], penalties)
        # The dual form: (A^T A + penalty I)^-1 A^T y = A^T (A A^T + penalty I)^-1 y, with the smaller system
        # (n, n).
        roots = self.shares.sqrt()
        some = (self.values[columns] - self.offset[columns, None]).mul_(roots)
        dual = solve_shifted(some.T @ some, roots[:, None] * self.targets, penalties)
        return some @ dual


def solve_shifted(system: Tensor, right: Tensor, penalties: Sequence[float]) -> Tensor:
    """Return ``(system + penalty I)^-1 right`` for every penalty.

    Parameters
    ----------
    system : Tensor of float64, shape (m, m)
        Symmetric. Its diagonal is overwritten.
    right : Tensor of float64, shape (m, n_targets)
    penalties : sequence of float

    Returns
    -------
    Tensor of float64, shape (n_penalties, m, n_targets)

    Raises
    ------
    NumericalError
        If a system is not positive definite even with jitter.
    """
    diagonal = system.diagonal().clone()
    solutions = []
    for penalty in penalties:
        system.diagonal().copy_(diagonal + penalty)
        factor, _ = cholesky_with_jitter(system, what=f"the ridge system at penalty {penalty:g}")
        solutions.append(solve_factored(factor, right))
    return torch.stack(solutions)
