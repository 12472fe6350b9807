"""Cholesky factors of matrices that rounding may have made slightly indefinite."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from toptune.errors import NumericalError

# An eighth of the rows, within bounds: narrow panels compute little above the diagonal, wide ones run at the
# matrix product's full rate.
_COUNT = 8
_BOUNDS = (128, 640)

_JITTER_STEPS = 6


def cholesky_with_jitter(system: Tensor, *, what: str) -> tuple[Tensor, float]:
    """Lower factor (r, r) of a symmetric matrix, and the jitter that it took; see `factor_made`."""
    return factor_made(system.clone, what=what)


def factor_made(make: Callable[[], Tensor], *, what: str) -> tuple[Tensor, float]:
    """Lower factor (r, r) in the place of the matrix that `make` gives, and the jitter that it took.

    Jitter is a share of the mean diagonal, 0 where none is needed; otherwise raised tenfold from
    rounding level until the factorization succeeds.

    Parameters
    ----------
    make : callable
        Gives a symmetric matrix (r, r) of float64, contiguous, for every attempt anew: the last one has
        overwritten it.
    what : str
        Named in the error.

    Raises
    ------
    NumericalError
        If no jitter helps, or the matrix is not finite (which jitter cannot mend).
    """
    jitter = 0.0
    for step in range(_JITTER_STEPS + 1):
        system = make()
        mean_diagonal = float(system.diagonal().mean()) if len(system) else 0.0
        if not math.isfinite(mean_diagonal):
            raise NumericalError(f"{what} is not finite: the features overflow; standardise them")
        system.diagonal().add_(jitter * mean_diagonal)
        # LAPACK's columns are the rows of a symmetric matrix, which need not be copied then.
        factor, info = system.mT, torch.empty((), dtype=torch.int32, device=system.device)
        torch.linalg.cholesky_ex(factor, out=(factor, info))
        if int(info) == 0:
            return factor, jitter
        if step < _JITTER_STEPS:
            jitter = 10.0 ** (step - 15) * max(1, len(system))
    raise NumericalError(
        f"{what} is not positive definite even with jitter {jitter:g} of its mean diagonal; raise the penalty"
    )


def solve_factored(factor: Tensor, right: Tensor) -> Tensor:
    """Solve ``L L^T x = right`` for a lower factor (r, r) and columns (r, m).

    Two triangular solves: ``torch.cholesky_solve`` takes up to a hundred times as long here.
    """
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    solution: Tensor = torch.linalg.solve_triangular(factor.T, half, upper=True)
    return solution


def product_of_factor(factor: Tensor) -> Tensor:
    """``L L^T`` of a lower factor (r, r): a sixth of the plain product's work, blocks of 0 being left out."""
    product = torch.empty_like(factor)
    cuts = panels(len(factor))
    for at, rows in enumerate(cuts):
        for columns in cuts[: at + 1]:
            block = factor[rows, : columns.stop] @ factor[columns, : columns.stop].T
            product[rows, columns] = block
            product[columns, rows] = block.T
    return product


def panels(size: int) -> list[slice]:
    """Cut the rows of a square matrix into consecutive ones."""
    step = min(max(size // _COUNT, _BOUNDS[0]), _BOUNDS[1])
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]
