"""Pass over the features of a linear map again and again, keeping them in memory where they fit.

Iterative solvers (softmax regression by L-BFGS) need dozens of passes. If the features fit, only the first
pass reads the store.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.train.kernels.linear_maps import LinearMaps
from toptune.train.kernels.maps import IdentityMap
from toptune.train.passes.training_rows import TrainingRows, batches
from toptune.train.rows.block_reading import to_tensor


class FeatureRows:
    """Features (n, r) of all training rows, made one block at a time.

    Parameters
    ----------
    rows : TrainingRows
    maps : IdentityMap or NystromMaps
        Linear map with one set of features.
    block_rows : int
        Rows of a block.
    is_cached : bool
        Whether the first pass keeps the features, so that the rows are read only once. Columns are kept in
        the type in which they are stored, coordinates in float64.
    device : torch.device
        Where the features are computed and kept.

    Attributes
    ----------
    rank : int
        Number of features r.
    n_passes : int
        Times that the rows were read.
    dtype : torch.dtype
        Type of the features.
    """

    def __init__(
        self,
        rows: TrainingRows,
        maps: LinearMaps,
        *,
        block_rows: int,
        is_cached: bool,
        device: torch.device,
    ) -> None:
        self.rows = rows
        self.maps = maps
        self.rank = maps.ranks[0]
        self.block_rows = block_rows
        self.is_cached = is_cached
        self.device = device
        self.n_passes = 0
        self._kept: Tensor | None = None
        # Columns that are stored in half or single precision lose nothing in float32 and take half the
        # memory.
        is_single = isinstance(maps, IdentityMap) and rows.blocks.dtype != "float64"
        self.dtype = torch.float32 if is_single else torch.float64

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield ``(rows, values)``: features (b, r) of consecutive rows."""
        if self._kept is not None:
            for start in range(0, self.rows.n, self.block_rows):
                where = slice(start, min(start + self.block_rows, self.rows.n))
                yield where, self._kept[where]
            return
        self.n_passes += 1
        kept = None
        if self.is_cached:
            kept = torch.empty((self.rows.n, self.rank), dtype=self.dtype, device=self.device)
        for where, values in batches(
            self.rows, block_rows=self.block_rows, dtype=self.dtype, device=self.device
        ):
            (block,) = self.maps.features(values, [0])
            if kept is not None:
                kept[where] = block
            yield where, block
        # Only now: a pass that was abandoned halfway has not filled the cache.
        self._kept = kept

    def sample(self, numbers: npt.NDArray[np.int64]) -> Tensor:
        """Return the features (s, r), in float64, of the rows with these `numbers` (s,)."""
        values = self.rows.blocks.take(numbers)
        (block,) = self.maps.features(to_tensor(values, dtype=torch.float64, device=self.device), [0])
        return block
