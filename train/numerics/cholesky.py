"""Factor symmetric matrices by Cholesky, also where rounding has made them slightly indefinite.

``A + j m I = L L^T`` with L lower triangular, m the mean of A's diagonal and j the *jitter*: 0 where the
plain factorization succeeds, else raised tenfold until it does. Jitter changes the matrix, so it is always
returned and ends up in reports.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from toptune.errors import NumericalError

# A panel has an eighth of the rows, within bounds: narrow panels compute little that lies above the diagonal,
# and wide panels run at the full rate of matrix products.
_COUNT = 8
_BOUNDS = (128, 640)

# The last of six steps is 1e-10 times the number of rows: beyond, the answer would belong to another problem.
_JITTER_STEPS = 6


def cholesky_with_jitter(system: Tensor, *, what: str) -> tuple[Tensor, float]:
    """Factor a symmetric matrix and return its lower factor with the jitter that was needed.

    Parameters
    ----------
    system : Tensor of float64, shape (r, r)
        Symmetric and positive definite up to rounding. Its values are kept.
    what : str
        Name of the matrix in errors.

    Returns
    -------
    Tensor of float64, shape (r, r)
        L, lower triangular.
    float
        Jitter, as a share of the mean diagonal; 0 where none was needed.

    Raises
    ------
    NumericalError
        As `factor_made` does.

    Examples
    --------
    >>> import torch
    >>> factor, jitter = cholesky_with_jitter(torch.tensor([[4.0, 2.0], [2.0, 5.0]]).double(), what="A")
    >>> factor.tolist(), jitter
    ([[2.0, 0.0], [1.0, 2.0]], 0.0)
    """
    return factor_made(system.clone, what=what)


def factor_made(make: Callable[[], Tensor], *, what: str) -> tuple[Tensor, float]:
    """Factor the matrix that `make` returns, in that matrix's own memory.

    At 20,000 centers a matrix takes 3 GiB, so no copy is kept for a second attempt: `make` is called again
    instead.

    Parameters
    ----------
    make : callable
        Returns a symmetric, contiguous matrix (r, r) of float64. Every attempt overwrites the matrix that it
        factors, so `make` must return a fresh one each time.
    what : str
        Name of the matrix in errors.

    Returns
    -------
    Tensor of float64, shape (r, r)
        L, lower triangular.
    float
        Jitter, as a share of the mean diagonal: 0, or raised tenfold from rounding level (``1e-15 r``) until
        the factorization succeeds.

    Raises
    ------
    NumericalError
        If the largest jitter does not help, or if the matrix is not finite, which no jitter can mend.
    """
    jitter = 0.0
    for step in range(_JITTER_STEPS + 1):
        system = make()
        mean_diagonal = float(system.diagonal().mean()) if len(system) else 0.0
        if not math.isfinite(mean_diagonal):
            raise NumericalError(f"{what} is not finite: the features overflow; standardize them")
        system.diagonal().add_(jitter * mean_diagonal)
        # LAPACK stores by columns, torch by rows. For a symmetric matrix the transposed view holds the same
        # values in the order that LAPACK wants, so nothing is copied and the factor takes the matrix's place.
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
    """Solve ``L L^T x = b`` by two triangular solves.

    ``torch.cholesky_solve`` does the same and takes up to a hundred times as long on a CPU.

    Parameters
    ----------
    factor : Tensor, shape (r, r)
        L, lower triangular.
    right : Tensor, shape (r, m)
        Columns b.
    """
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    solution: Tensor = torch.linalg.solve_triangular(factor.T, half, upper=True)
    return solution


def product_of_factor(factor: Tensor) -> Tensor:
    """Multiply a lower factor L (r, r) with its transpose: ``L L^T``.

    Blocks that are 0 above the diagonal are skipped and symmetry gives the other half, so that this takes a
    sixth of the operations of the plain product.
    """
    product = torch.empty_like(factor)
    cuts = panels(len(factor))
    for at, rows in enumerate(cuts):
        for columns in cuts[: at + 1]:
            block = factor[rows, : columns.stop] @ factor[columns, : columns.stop].T
            product[rows, columns] = block
            product[columns, rows] = block.T
    return product


def panels(size: int) -> list[slice]:
    """Cut the rows of a square matrix of `size` rows into slices, the panels of a blocked product."""
    step = min(max(size // _COUNT, _BOUNDS[0]), _BOUNDS[1])
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]
