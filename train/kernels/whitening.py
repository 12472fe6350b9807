"""Whiten the kernel matrix of the centers: find W with ``W W^T = pinv(K_MM)``.

K_MM (M, M) holds the kernel's values among M centers. With its Cholesky factor L, ``K_MM = L L^T``, the
whitened features of a row are ``phi(x) = k(x, C) L^-T``, and their inner products are the Nystrom kernel
``k(x, C) pinv(K_MM) k(C, x')`` (Williams & Seeger 2001). Centers that depend on the others to rounding make
K_MM singular; a pivoted factorization (Higham 2002, §10.3) finds and drops them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import lapack
from torch import Tensor

from toptune.errors import NumericalError

# The plain factorization is used if all of its pivots are this many times the tolerance: without pivoting,
# the smallest pivot is only a hint of how close the matrix is to losing rank.
_CLEAR = 10.0


@dataclass(frozen=True, kw_only=True)
class Whitening:
    """Cholesky factor L of K_MM on the centers that are kept.

    ``K[kept][:, kept] = L L^T``, so ``k(x, C[kept]) L^-T`` are features whose inner products are the Nystrom
    kernel. Dropping a center whose pivot is small leaves out a direction that the other centers span to
    rounding.

    Attributes
    ----------
    kept : ndarray of int64, shape (rank,)
        Centers kept: by decreasing pivot, or in their own order where none is dropped.
    factor : Tensor of float64, shape (rank, rank)
        L, lower triangular, on the device of K.
    n_dropped : int
        Centers that are, to rounding, combinations of those kept.
    smallest_pivot : float
        Smallest pivot kept, relative to the largest.
    """

    kept: npt.NDArray[np.int64]
    factor: Tensor
    n_dropped: int
    smallest_pivot: float

    @property
    def rank(self) -> int:
        """Number of centers kept, which is the number of features."""
        return len(self.kept)

    @property
    def is_whole(self) -> bool:
        """Whether all centers are kept in their own order, so that no columns need be picked."""
        return self.n_dropped == 0 and bool((np.diff(self.kept) > 0).all())


def whiten(gram: Tensor, *, tolerance: float) -> Whitening:
    """Factor the kernel matrix of the centers, dropping centers that depend on the others.

    A plain Cholesky factorization is six times as fast as the pivoted one (LAPACK ``dpstrf``; Higham 2002,
    §10.3) and is used where its pivots show full rank by a clear margin. A CUDA device factors a matrix that
    lies there itself, by cuSOLVER; only a matrix that fails is copied to main memory, for LAPACK.

    Parameters
    ----------
    gram : Tensor of float64, shape (M, M)
        K_MM: symmetric, positive semi-definite to rounding.
    tolerance : float
        Pivots at or below this share of the largest are dropped.

    Raises
    ------
    NumericalError
        If the matrix is not finite.

    Examples
    --------
    The second of two equal centers is dropped.

    >>> import torch
    >>> found = whiten(torch.ones(2, 2).double(), tolerance=1e-12)
    >>> found.kept.tolist(), found.n_dropped
    ([0], 1)
    """
    if not bool(torch.isfinite(gram).all()):
        raise NumericalError(
            "the kernel matrix of the centers is not finite: the features overflow; standardize them"
        )
    n_centers = len(gram)
    largest = float(gram.diagonal().max()) if n_centers else 0.0
    if largest <= 0:
        return Whitening(
            kept=np.zeros(0, np.int64), factor=gram[:0, :0].clone(), n_dropped=n_centers, smallest_pivot=0.0
        )
    plain, failed = torch.linalg.cholesky_ex(gram)
    smallest = float(plain.diagonal().min() ** 2) / largest
    if int(failed) == 0 and smallest > _CLEAR * tolerance:
        return Whitening(kept=np.arange(n_centers), factor=plain, n_dropped=0, smallest_pivot=smallest)
    del plain
    # Scaled to a largest pivot of 1, so that LAPACK's absolute tolerance is the relative one.
    scaled = gram.cpu().numpy() / largest
    packed, pivots, rank, info = lapack.dpstrf(scaled, lower=1, tol=tolerance)
    if info < 0:
        raise NumericalError(f"LAPACK dpstrf refused argument {-info}")
    factor = np.tril(packed[:rank, :rank])
    return Whitening(
        kept=pivots[:rank].astype(np.int64) - 1,
        factor=torch.from_numpy(factor * np.sqrt(largest)).to(gram.device),
        n_dropped=n_centers - int(rank),
        smallest_pivot=float(factor.diagonal().min() ** 2),
    )
