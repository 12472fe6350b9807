"""Whitening of the centres' kernel matrix: W with W W^T = pinv(K_MM)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import lapack

from toptune.errors import NumericalError

Matrix = npt.NDArray[np.float64]

# A plain factorization is trusted to have lost no rank if its pivots are this far above the tolerance.
_CLEAR = 10.0


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """Cholesky factor of K_MM on the centers that carry it, pivoted where any are to be dropped.

    With ``kept`` the pivots above the tolerance and ``L = factor``, ``K[kept][:, kept] = L L^T``, so
    ``k(x, C[kept]) L^-T`` are features whose inner products are the Nystrom kernel. Dropping a
    center whose pivot is small leaves out a direction that the others already span to rounding.

    Attributes
    ----------
    kept : ndarray of int64, shape (rank,)
        Centers kept, in the order of their pivots; in their own order where all are.
    factor : ndarray of float64, shape (rank, rank)
        Lower triangular.
    n_dropped : int
        Centers that are, to rounding, combinations of those kept.
    smallest_pivot : float
        Smallest pivot kept, relative to the largest.
    """

    kept: npt.NDArray[np.int64]
    factor: Matrix
    n_dropped: int
    smallest_pivot: float

    @property
    def rank(self) -> int:
        return len(self.kept)

    @property
    def is_whole(self) -> bool:
        """Whether all centers are kept in their own order."""
        return self.n_dropped == 0 and bool((np.diff(self.kept) > 0).all())


def whiten(gram: Matrix, *, tolerance: float) -> Whitening:
    """Factor the (M, M) kernel matrix of the centers (Higham 2002, §10.3; LAPACK ``dpstrf``).

    A plain Cholesky factorization, six times as fast, is kept where it shows full rank by a clear margin.

    Parameters
    ----------
    gram : ndarray of float64, shape (M, M)
        Symmetric, positive semi-definite to rounding.
    tolerance : float
        Pivots at or below this share of the largest are dropped.

    Raises
    ------
    NumericalError
        If the matrix is not finite.
    """
    if not np.isfinite(gram).all():
        raise NumericalError(
            "the kernel matrix of the centers is not finite: the features overflow; standardise them"
        )
    n_centers = len(gram)
    largest = float(gram.diagonal().max(initial=0.0))
    if largest <= 0:
        return Whitening(
            kept=np.zeros(0, np.int64), factor=np.zeros((0, 0)), n_dropped=n_centers, smallest_pivot=0.0
        )
    plain, failed = torch.linalg.cholesky_ex(torch.from_numpy(gram))
    smallest = float(plain.diagonal().min() ** 2) / largest
    if int(failed) == 0 and smallest > _CLEAR * tolerance:
        return Whitening(
            kept=np.arange(n_centers), factor=plain.numpy(), n_dropped=0, smallest_pivot=smallest
        )
    packed, pivots, rank, info = lapack.dpstrf(gram / largest, lower=1, tol=tolerance)
    if info < 0:
        raise NumericalError(f"LAPACK dpstrf refused argument {-info}")
    factor = np.tril(packed[:rank, :rank])
    return Whitening(
        kept=pivots[:rank].astype(np.int64) - 1,
        factor=factor * np.sqrt(largest),
        n_dropped=n_centers - int(rank),
        smallest_pivot=float(factor.diagonal().min() ** 2),
    )
