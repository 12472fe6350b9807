"""The rows that a head is trained on, as passes see them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.store.features.blocks import Blocks
from toptune.train.kernels.maps import Maps
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.passes.sums import FoldSums
from toptune.train.rows.block_reading import read_ahead


class Cluster(Protocol):
    """Workers among which the passes are divided."""

    def accumulate(
        self,
        rows: "TrainingRows",
        maps: Maps,
        wanted: Sequence[int],
        *,
        block_rows: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[FoldSums]:
        """Do what `accumulate` does."""
        ...

    def predict_left_out(
        self,
        rows: "TrainingRows",
        maps: Maps,
        finalists: Sequence[tuple[int, Tensor]],
        *,
        block_rows: int,
        progress: Callable[[int], None] | None = None,
    ) -> "tuple[list[OutOfFold], npt.NDArray[np.int64]]":
        """Do what `predict_left_out` does."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingRows:
    """Rows to train on and what is known of each: class, weight and fold.

    Attributes
    ----------
    blocks : Blocks
        Features, shape (n, d).
    codes : ndarray of int64, shape (n,)
        Class of each row, 0 to n_classes - 1.
    weights : ndarray of float64, shape (n,)
        Weight in the loss, mean 1.
    folds : ndarray of int64, shape (n,)
        Fold of each row, 0 to n_folds - 1.
    offset : int
        Number of the first row, for messages.
    cluster : Cluster, optional
        Workers that do the passes in place of this process.
    """

    blocks: Blocks
    codes: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    folds: npt.NDArray[np.int64]
    n_classes: int
    n_folds: int
    offset: int = 0
    cluster: "Cluster | None" = None

    @property
    def n(self) -> int:
        return len(self.codes)


def batches(
    rows: TrainingRows, *, block_rows: int, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Do what `read_ahead` does with training rows."""
    return read_ahead(rows.blocks, block_rows=block_rows, dtype=dtype, device=device, offset=rows.offset)


@dataclass(kw_only=True)
class OutOfFold:
    """What one finalist's left-out predictions amount to.

    Attributes
    ----------
    correct, squared_error : float
        Weighted sums over all rows.
    scores : ndarray of float32, shape (n_kept, n_classes)
        Left-out scores of the rows kept for calibration.
    """

    correct: float
    squared_error: float
    scores: npt.NDArray[np.float32]


def calibration_rows(n: int) -> npt.NDArray[np.int64]:
    """Rows whose left-out scores a temperature is fitted to: all, or an even spread of `CALIBRATION_ROWS`."""
    return np.unique(np.linspace(0, n - 1, min(n, CALIBRATION_ROWS)).astype(np.int64))
