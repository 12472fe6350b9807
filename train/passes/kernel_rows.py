"""Products with the kernel values K_nM of all training rows against the centers, block after block.

FALKON (Rudi, Carratino & Rosasco 2017) needs ``K_nM^T (K_nM v)`` once per iteration. The n M values are kept
in memory where they fit; else every product computes them again, block by block.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toptune.train.kernels.kernels import Linear, Radial, ReferenceRows
from toptune.train.passes.training_rows import TrainingRows, batches
from toptune.train.rows.block_reading import sent_ahead

# Rows of kept kernel values that are multiplied at a time: so many are copied to float64, never all.
CACHED_ROWS = 4096


class KernelRows:
    """Kernel values k(X, C) of all training rows X against centers C (r, d), one block at a time.

    Parameters
    ----------
    rows : TrainingRows
    kernel : kernel
    centers : Tensor, shape (r, d)
        C; its type and device are those of the values.
    block_rows : int
        Rows of a block that is read and computed.
    is_cached : bool
        Whether the first pass keeps the values, so that the rows are read only once.
    cached_rows : int
        Rows of a block of values that were kept.

    Attributes
    ----------
    n_passes : int
        Times that the rows were read.
    """

    def __init__(
        self,
        rows: TrainingRows,
        kernel: Radial | Linear,
        centers: Tensor,
        *,
        block_rows: int,
        is_cached: bool,
        cached_rows: int = CACHED_ROWS,
    ) -> None:
        self.rows = rows
        self.kernel = kernel
        self.centers = centers
        self.block_rows = block_rows
        self.is_cached = is_cached
        self.cached_rows = cached_rows
        self.n_passes = 0
        self._kept: Tensor | None = None

    @property
    def rank(self) -> int:
        """Number of centers r."""
        return len(self.centers)

    @property
    def device(self) -> torch.device:
        """Device on which values are computed."""
        return self.centers.device

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield ``(rows, values)``: kernel values (b, r) of consecutive rows, in the type of the centers."""
        if self._kept is not None:
            # These blocks are views of the cache, larger than blocks that are read: large products run
            # faster.
            for start in range(0, self.rows.n, self.cached_rows):
                where = slice(start, min(start + self.cached_rows, self.rows.n))
                yield where, self._kept[where]
            return
        self.n_passes += 1
        centers = self.centers
        reference = ReferenceRows.of(centers)
        kept = centers.new_empty((self.rows.n, len(centers))) if self.is_cached else None
        for where, values in batches(
            self.rows, block_rows=self.block_rows, dtype=centers.dtype, device=centers.device
        ):
            block = self.kernel(values, reference)
            if kept is not None:
                kept[where] = block
            yield where, block
        # Only now: a pass that was abandoned halfway has not filled the cache.
        self._kept = kept


@dataclass(frozen=True, kw_only=True)
class CenteredRows:
    """Weighted second moments S of whitened, centered features, available as products ``S v`` only.

    With ``phi = k(x, C) L^-T`` (L the factor of the centers' kernel matrix), weights w that sum to n and Z
    the rows phi less their weighted mean, ``S = Z' W Z / n`` is applied without ever being formed: kernel
    ridge regression solves ``(S + penalty I) beta = cross``. Rows are centered before they are multiplied,
    not after, so that a large mean costs no digits.

    Attributes
    ----------
    kernel_rows : KernelRows
    factor : Tensor of float64, shape (r, r)
        L, lower triangular.
    weights : Tensor of float64, shape (n,)
        w.
    kernel_mean : Tensor of float64, shape (r,)
        Weighted mean of k(x, C).
    target_mean : Tensor of float64, shape (n_targets,)
        Weighted mean of the targets: of classes, their shares.
    cross : Tensor of float64, shape (r, n_targets)
        ``Z' W (Y - mean) / n`` for targets Y.
    """

    kernel_rows: KernelRows
    factor: Tensor
    weights: Tensor
    kernel_mean: Tensor
    target_mean: Tensor
    cross: Tensor

    @classmethod
    def of(cls, kernel_rows: KernelRows, factor: Tensor) -> "CenteredRows":
        """Compute means and right-hand sides of the targets in one pass."""
        rows, device = kernel_rows.rows, factor.device
        weights = torch.from_numpy(rows.weights).to(device)
        total = float(weights.sum())
        target_mean = _target_mean(rows).to(device)
        r = len(factor)
        kernel_mean = torch.zeros(r, dtype=torch.float64, device=device)
        cross = torch.zeros((r, rows.n_classes), dtype=torch.float64, device=device)
        for where, values in kernel_rows.blocks():
            block, w = values.double(), weights[where]
            # Centered targets, so that the features need not be centered for the right-hand side.
            targets = sent_ahead(rows.targets_of(where), device) - target_mean
            kernel_mean.addmv_(block.T, w)
            cross.addmm_(block.T, targets * w[:, None])
        return cls(
            kernel_rows=kernel_rows,
            factor=factor,
            weights=weights,
            kernel_mean=kernel_mean / total,
            target_mean=target_mean,
            # Z' W (Y - mean) = Phi' W (Y - mean), because the centered targets sum to 0.
            cross=torch.linalg.solve_triangular(factor, cross / total, upper=False),
        )

    def product(self, columns: Tensor, *, is_exact: bool = True) -> Tensor:
        """Return ``S v`` for columns v (r, k), in one pass over the rows.

        Parameters
        ----------
        columns : Tensor of float64, shape (r, k)
            v.
        is_exact : bool
            Whether products are taken in float64; else in the type of the kernel values.
        """
        dual = torch.linalg.solve_triangular(self.factor.T, columns, upper=True)
        # Z v = k(x, C) (L^-T v) - mean' (L^-T v): whitening is applied to the few columns, not to the rows.
        offset = self.kernel_mean @ dual
        total = torch.zeros_like(dual)
        weight_sum = torch.zeros_like(offset)
        dtype = torch.float64 if is_exact else self.kernel_rows.centers.dtype
        small_dual, small_offset, weights = dual.to(dtype), offset.to(dtype), self.weights.to(dtype)
        for where, values in self.kernel_rows.blocks():
            block = values.to(dtype)
            scores = torch.addmm(-small_offset, block, small_dual).mul_(weights[where, None])
            total += block.T @ scores
            weight_sum += scores.sum(dim=0)
        # Z' = Phi' - mean 1'. In exact arithmetic the weighted scores sum to 0 and this subtracts nothing;
        # here it removes the rounding of their sum, which a large mean would magnify.
        total.addr_(self.kernel_mean, weight_sum, alpha=-1)
        total.div_(float(self.weights.sum()))
        moments: Tensor = torch.linalg.solve_triangular(self.factor, total, upper=False)
        return moments

    def intercept(self, beta: Tensor) -> Tensor:
        """Return the intercepts (n_targets,) that belong to coefficients (r, n_targets)."""
        dual = torch.linalg.solve_triangular(self.factor.T, beta, upper=True)
        intercept: Tensor = self.target_mean - self.kernel_mean @ dual
        return intercept


def _target_mean(rows: TrainingRows) -> Tensor:
    """Return the weighted mean (n_classes,) of the targets, in main memory."""
    if rows.targets is not None:
        targets, w = rows.targets, rows.weights
        total = sum(w[some] @ targets.filled(some) for some in targets.parts_of_rows())
        return torch.from_numpy(total / w.sum())
    counts = np.bincount(rows.codes, weights=rows.weights, minlength=rows.n_classes)
    return torch.from_numpy(counts / rows.weights.sum())
