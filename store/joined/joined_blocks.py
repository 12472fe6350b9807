"""`JoinedBlocks`: the columns of several `Blocks` side by side."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from toptune.store.features.blocks import Blocks, IndexedBlocks, row_numbers, row_slices


class JoinedBlocks(IndexedBlocks):
    """`Blocks` whose rows are the rows of several others, end to end.

    Iterating reads all of them side by side, the same rows of each at a time.

    Parameters
    ----------
    pieces : sequence of Blocks, at least one
        Blocks of equally many rows. Values have the widest of their types, which holds all values exactly.
    """

    def __init__(self, pieces: Sequence[Blocks]) -> None:
        self._pieces = tuple(pieces)
        self._n_rows = pieces[0].shape[0]
        ends = np.cumsum([piece.shape[1] for piece in pieces]).tolist()
        self._columns = [slice(end - piece.shape[1], end) for piece, end in zip(pieces, ends, strict=True)]
        self._dtype = np.result_type(*(piece.dtype for piece in pieces))

    @property
    def shape(self) -> tuple[int, int]:
        return (self._n_rows, self._columns[-1].stop)

    @property
    def dtype(self) -> np.dtype[np.number]:
        return self._dtype

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[np.number]]]:
        slices = list(row_slices(self.shape, self.dtype, block_rows))
        # Every piece is given the rows of a block: each would choose others by its own width and units.
        rows = slices[0].stop if slices else None
        streams = [piece.iterate(rows) for piece in self._pieces]
        for block in slices:
            yield block, self._side_by_side([next(stream)[1] for stream in streams])

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[np.number]:
        wanted = row_numbers(rows, self._n_rows)
        return self._side_by_side([piece.take(wanted) for piece in self._pieces])

    def _side_by_side(self, parts: Sequence[npt.NDArray[np.number]]) -> npt.NDArray[np.number]:
        out = np.empty((len(parts[0]), self.shape[1]), dtype=self._dtype)
        for columns, part in zip(self._columns, parts, strict=True):
            out[:, columns] = part
        return out
