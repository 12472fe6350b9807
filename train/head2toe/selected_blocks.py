"""The columns that a selection keeps, as `Blocks`."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store.features.blocks import Blocks, row_numbers, row_slices
from toptune.train.rows.block_reading import check_finite


class SelectedBlocks:
    """`Blocks` of some columns of another's, all of which must be finite.

    Parameters
    ----------
    blocks : Blocks
    columns : ndarray of int64, shape (k,)
    kept_dims : sequence of int, optional
        How many columns are left of each layer: rows are divided, layer by layer, by the length of what is
        left, as Head2Toe does once more after selecting (Evci et al. 2022, appendix B). Without it they stay
        as they are.
    """

    def __init__(
        self, blocks: Blocks, columns: npt.NDArray[np.int64], kept_dims: Sequence[int] | None = None
    ) -> None:
        self.blocks = blocks
        self.columns = columns
        self.kept_dims = kept_dims

    @property
    def shape(self) -> tuple[int, int]:
        return (self.blocks.shape[0], len(self.columns))

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.blocks.dtype

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        for rows, values in self.blocks.iterate(block_rows):
            check_finite(values, start=rows.start)
            yield rows, self._of(values)

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[Any]:
        return self._of(self.blocks.take(rows))

    def _of(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        kept = values[:, self.columns]
        if self.kept_dims is None:
            return kept
        start = 0
        for dim in self.kept_dims:
            part = kept[:, start : start + dim]
            length = np.linalg.norm(part, axis=1, keepdims=True)
            np.divide(part, length, out=part, where=length > 0)
            start += dim
        return kept


class SomeRows:
    """`Blocks` of some rows of another's, read where they lie."""

    def __init__(self, blocks: Blocks, rows: npt.NDArray[np.int64]) -> None:
        self.blocks = blocks
        self.rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        return (len(self.rows), self.blocks.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.blocks.dtype

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        for where in row_slices(self.shape, self.dtype, block_rows):
            yield where, self.blocks.take(self.rows[where])

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[Any]:
        return self.blocks.take(self.rows[row_numbers(rows, len(self.rows))])
