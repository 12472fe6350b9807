"""The rows of each fold within a block, found on the host, where the folds are known.

A search on a CUDA device (`unique`, `nonzero`, a mask as an index) makes the host wait until the device has
done all that was launched before.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.train.rows.block_reading import sent_ahead


@dataclass(frozen=True, kw_only=True)
class FoldPart:
    """The rows of one fold within a block.

    Attributes
    ----------
    fold : int
    rows : ndarray of int64, or slice
        Their numbers within the block, ascending; a slice if all rows of the block are of this fold.
    there : Tensor of int64, or slice
        The same numbers on the device of the block.
    """

    fold: int
    rows: npt.NDArray[np.int64] | slice
    there: Tensor | slice


def fold_parts(folds: npt.NDArray[np.int64], device: torch.device) -> list[FoldPart]:
    """Return the rows of each fold that a block has, folds ascending.

    Parameters
    ----------
    folds : ndarray of int64, shape (b,)
        Fold of each row.
    device : torch.device
        Where the block lies.

    Examples
    --------
    >>> parts = fold_parts(np.array([2, 0, 2]), torch.device("cpu"))
    >>> [(part.fold, part.rows.tolist()) for part in parts]
    [(0, [1]), (2, [0, 2])]
    """
    counts = np.bincount(folds)
    present = np.flatnonzero(counts).tolist()
    if len(present) == 1:
        return [FoldPart(fold=present[0], rows=slice(None), there=slice(None))]
    order = np.argsort(folds, kind="stable")
    there = sent_ahead(torch.from_numpy(order), device)
    stops = np.cumsum(counts)
    where = [slice(int(stops[fold] - counts[fold]), int(stops[fold])) for fold in present]
    return [
        FoldPart(fold=fold, rows=order[some], there=there[some])
        for fold, some in zip(present, where, strict=True)
    ]
