"""Cholesky factors of matrices that rounding may have made slightly indefinite."""

import torch
from torch import Tensor

from toptune.store import NumericalError
from toptune.train.panels import panels

_JITTER_STEPS = 6


def cholesky_with_jitter(system: Tensor, *, what: str) -> tuple[Tensor, float]:
    """Lower factor (r, r) of a symmetric matrix, and the jitter that it took.

    Jitter is a share of the mean diagonal, 0 where none is needed; otherwise raised tenfold from
    rounding level until the factorisation succeeds. `system` is overwritten.

    Parameters
    ----------
    system : Tensor of float64, shape (r, r)
    what : str
        Named in the error.

    Raises
    ------
    NumericalError
        If no jitter helps, or the matrix is not finite (which jitter cannot mend).
    """
    mean_diagonal = float(system.diagonal().mean()) if len(system) else 0.0
    if mean_diagonal != mean_diagonal or mean_diagonal == float("inf"):
        raise NumericalError(f"{what} is not finite: the features overflow; standardise them")
    jitter = 0.0
    for step in range(_JITTER_STEPS + 1):
        factor, info = torch.linalg.cholesky_ex(system)
        if int(info) == 0:
            return factor, jitter
        raised = 10.0 ** (step - 15) * max(1, len(system))
        system.diagonal().add_((raised - jitter) * mean_diagonal)
        jitter = raised
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
