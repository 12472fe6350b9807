"""Principal components of all columns, from their covariance taken in one pass."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from toptune.errors import NumericalError
from toptune.machine.memory import check_memory
from toptune.train.preprocessing.finite_rows import FiniteRows
from toptune.train.preprocessing.steps import Layers, Values

# Bytes of a block in float64: so many rows that adding to the d x d sums costs less than the product
# of the rows.
_BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True, kw_only=True)
class PrincipalComponents:
    """``(x - mean) @ axes``; step ``whiten`` divides each component by its deviation.

    Attributes
    ----------
    mean : ndarray of float64, shape (d,)
    axes : ndarray of float64, shape (d, k)
        Eigenvectors of the covariance, largest variance first, each with its largest entry positive; divided
        by the deviation of the component if `is_whitened`.
    is_whitened : bool
    asked : int, float or None
        What was asked for: a number of components, a share of the variance, or all components.
    rank : int
        Rank of the covariance, up to rounding.
    variance_share : float
        Share of the k components in the total variance.
    """

    name: ClassVar[str] = "pca"
    mean: Values
    axes: Values
    is_whitened: bool
    asked: int | float | None
    rank: int
    variance_share: float

    def layers(self, layer_dims: Layers) -> Layers:
        d = sum(layer_dims)
        if self.mean.shape != (d,) or self.axes.ndim != 2 or len(self.axes) != d:
            raise ValueError(f"step {self.name} is for {len(self.mean)} columns, not {d}")
        return (self.axes.shape[1],)

    def apply(self, values: npt.NDArray[np.number]) -> npt.NDArray[np.number]:
        result: npt.NDArray[np.number] = (values - self.mean) @ self.axes
        return result

    def to_dict(self) -> dict[str, Any]:
        d, n_components = self.axes.shape
        return {
            "name": "whiten" if self.is_whitened else self.name,
            "n_components": n_components,
            "variance_share": self.variance_share,
            "rank": self.rank,
            "n_dropped_rank": d - self.rank,
        }

    @property
    def warnings(self) -> list[str]:
        """Components that were asked for and do not exist."""
        if isinstance(self.asked, int) and self.asked > self.rank:
            return [
                f"{self.asked} principal components were asked for, the training rows have {self.rank}; "
                "those are all kept [TT409]"
            ]
        return []


def fit_principal_components(
    rows: FiniteRows,
    asked: int | float | None,
    *,
    is_whitened: bool,
    memory_limit_bytes: int | None = None,
) -> PrincipalComponents:
    """Take the covariance in one pass in float64, and find its eigenvectors.

    Directions whose variance is below ``max(n, d) eps`` of the largest variance are rounding and dropped.

    Parameters
    ----------
    rows : FiniteRows
        Rows of d columns.
    asked : int, float or None
        Number of components to keep; or a share of the variance, which the fewest components that reach the
        share have; or None for all.

    Raises
    ------
    InputError
        If the d x d matrices are above the memory limit.
    NumericalError
        If no column varies.
    """
    # scipy.linalg is imported by fits that need it: other steps are fitted without.
    from scipy.linalg import eigh

    d = rows.n_columns
    check_memory(
        peak_bytes(rows.blocks.shape[1], d),
        limit_bytes=memory_limit_bytes,
        what=f"the covariance of {d} features (step {'whiten' if is_whitened else 'pca'})",
        instead="take fewer layers, or leave the step out",
    )
    n, mean, scatter = _scatter(rows)
    variances, axes = eigh(scatter, lower=True, overwrite_a=True, check_finite=False)
    # LAPACK gives eigenvalues in ascending order. A covariance has none below zero, but for rounding.
    variances, axes = np.maximum(variances[::-1] / max(1, n), 0.0), axes[:, ::-1]
    rank = int((variances > max(n, d) * np.finfo(np.float64).eps * variances[0]).sum())
    if rank == 0:
        raise NumericalError(
            "no feature varies over the training rows, so there are no principal components; "
            "check the features, or leave steps pca and whiten out"
        )
    shares = np.cumsum(variances[:rank]) / variances.sum()
    n_components = _number(asked, shares)
    kept = axes[:, :n_components]
    largest = np.abs(kept).argmax(axis=0)
    kept = kept * np.sign(kept[largest, np.arange(n_components)])
    if is_whitened:
        kept /= np.sqrt(variances[:n_components])
    return PrincipalComponents(
        mean=mean,
        axes=np.ascontiguousarray(kept),
        is_whitened=is_whitened,
        asked=asked,
        rank=rank,
        variance_share=float(shares[n_components - 1]),
    )


def peak_bytes(n_inputs: int, d: int) -> int:
    """Return the projected peak: eigenvectors, the 2 d^2 numbers of LAPACK's workspace, and a block."""
    return 8 * 4 * d * d + 4 * max(_BLOCK_BYTES, 8 * max(n_inputs, d))


def _scatter(rows: FiniteRows) -> tuple[int, Values, Values]:
    """Return the number of rows, the mean (d,), and the lower half of the scatter (d, d) about the mean.

    Blocks are merged as in `moments`; the difference of the means enters as one more row of the block.
    """
    from scipy.linalg.blas import dsyrk

    d = rows.n_columns
    count, mean, scatter = 0, np.zeros(d), np.zeros((d, d), order="F")
    for block in rows.iterate(_BLOCK_BYTES):
        block_mean = block.mean(axis=0)
        delta = block_mean - mean
        total = count + len(block)
        between = delta * np.sqrt(count * len(block) / total)
        centered = np.vstack([block - block_mean, between])
        scatter = dsyrk(1.0, centered.T, beta=1.0, c=scatter, lower=True, overwrite_c=True)
        mean += delta * (len(block) / total)
        count = total
    return count, mean, scatter


def _number(asked: int | float | None, shares: Values) -> int:
    if asked is None:
        return len(shares)
    if isinstance(asked, int):
        return min(asked, len(shares))
    # Rounding must not ask for one component more than there are.
    return min(int(np.searchsorted(shares, asked)) + 1, len(shares))
