"""`Blocks` of some columns, or of some rows, of other `Blocks`."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from toptune.store.features.blocks import Blocks, IndexedBlocks, row_numbers, row_slices
from toptune.train.rows.block_reading import check_finite


class SelectedBlocks(IndexedBlocks):
    """A view of chosen columns of other `Blocks`; iterating raises InputError at a value that is not finite.

    Parameters
    ----------
    blocks : Blocks, shape (n, d)
    columns : ndarray of int64, shape (k,)
    kept_dims : sequence of int, optional
        Number of chosen columns of each layer. If given, each row is divided, layer by layer, by the length
        of what is left of the layer, as Head2Toe's own code does once more after selecting. By default the
        values stay as they are.
    """

    def __init__(
        self, blocks: Blocks, columns: npt.NDArray[np.int64], kept_dims: Sequence[int] | None = None
    ) -> None:
        self.blocks = blocks
        self.columns = columns
        self.kept_dims = kept_dims

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and chosen columns."""
        return (self.blocks.shape[0], len(self.columns))

    @property
    def dtype(self) -> np.dtype[np.number]:
        return self.blocks.dtype

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[np.number]]]:
        """Yield ``(rows, values)`` of the chosen columns."""
        for rows, values in self.blocks.iterate(block_rows):
            check_finite(values, start=rows.start)
            yield rows, self._of(values)

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[np.number]:
        """Return the chosen columns of some rows."""
        return self._of(self.blocks.take(rows))

    def _of(self, values: npt.NDArray[np.number]) -> npt.NDArray[np.number]:
        """Pick the chosen columns of values (b, d), divided by the lengths of their layers if asked for."""
        # A copy, which may be divided in place.
        kept = values[:, self.columns]
        if self.kept_dims is None:
            return kept
        start = 0
        for dim in self.kept_dims:
            part = kept[:, start : start + dim]
            # A layer that is 0 in a row has no direction, and stays 0.
            length = np.linalg.norm(part, axis=1, keepdims=True)
            np.divide(part, length, out=part, where=length > 0)
            start += dim
        return kept


class SomeRows(IndexedBlocks):
    """A view of chosen rows of other `Blocks`, read where those lie.

    Parameters
    ----------
    blocks : Blocks, shape (n, d)
    rows : ndarray of int64, shape (m,)
        Numbers of the rows, in the order of the view.
    """

    def __init__(self, blocks: Blocks, rows: npt.NDArray[np.int64]) -> None:
        self.blocks = blocks
        self.rows = rows

    @property
    def shape(self) -> tuple[int, int]:
        """Chosen rows and columns."""
        return (len(self.rows), self.blocks.shape[1])

    @property
    def dtype(self) -> np.dtype[np.number]:
        return self.blocks.dtype

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[np.number]]]:
        """Yield ``(rows, values)``, the rows counted in the view."""
        for where in row_slices(self.shape, self.dtype, block_rows):
            yield where, self.blocks.take(self.rows[where])

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[np.number]:
        """Return the values of some rows, counted in the view."""
        return self.blocks.take(self.rows[row_numbers(rows, len(self.rows))])
