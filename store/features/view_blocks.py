"""`ViewBlocks`: rows of several caches, read in one order."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from toptune.store.features.blocks import BLOCK_BYTES, Blocks, IndexedBlocks, row_numbers, row_slices
from toptune.store.features.cache_blocks import CacheBlocks


class ViewBlocks(IndexedBlocks):
    """`Blocks` over rows of a `FeatureView`; made by `FeatureView.blocks`.

    All parts are read side by side from beginning to end, so that a pass reads a unit once where the view
    keeps the part's order.

    Parameters
    ----------
    pieces : sequence of CacheBlocks
        Rows of each part, in the order of the view.
    owner : array (n,) of int
        Position in `pieces` of each row's part.

    Attributes
    ----------
    columns : Mapping[str, slice]
        Place of each array's columns.
    """

    def __init__(self, pieces: Sequence[CacheBlocks], owner: npt.NDArray[np.intp]) -> None:
        self._pieces = tuple(pieces)
        self._owner = owner
        self._places = [np.flatnonzero(owner == number) for number in range(len(pieces))]
        # Each row of the view is looked up in its piece by position, because pieces are read in their own
        # order.
        self._within = np.empty(len(owner), dtype=np.intp)
        for places in self._places:
            self._within[places] = np.arange(len(places))
        self.columns: Mapping[str, slice] = pieces[0].columns
        self._shape = (len(owner), pieces[0].shape[1])
        self._dtype = np.result_type(*(piece.dtype for piece in pieces))

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def dtype(self) -> np.dtype[np.number]:
        return self._dtype

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[np.number]]]:
        row_bytes = max(1, self._shape[1] * self._dtype.itemsize)
        # All parts hold rows at the same time, and together these rows make up one block.
        rows = block_rows or max(1, BLOCK_BYTES // row_bytes)
        streams = [_Stream(piece, max(1, rows // len(self._pieces))) for piece in self._pieces]
        for block in row_slices(self._shape, self._dtype, block_rows):
            out = np.empty((block.stop - block.start, self._shape[1]), dtype=self._dtype)
            for places, stream in zip(self._places, streams, strict=True):
                first, last = np.searchsorted(places, [block.start, block.stop]).tolist()
                stream.read(places[first:last] - block.start, out)
            yield block, out

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[np.number]:
        wanted = row_numbers(rows, self._shape[0])
        out = np.empty((len(wanted), self._shape[1]), dtype=self._dtype)
        owner = self._owner[wanted]
        for number, piece in enumerate(self._pieces):
            places = np.flatnonzero(owner == number)
            if len(places):
                out[places] = piece.take(self._within[wanted[places]])
        return out


class _Stream:
    """Reads rows of `Blocks` one after the other, in portions of any size."""

    def __init__(self, blocks: Blocks, block_rows: int) -> None:
        self._values = (values for _, values in blocks.iterate(block_rows))
        self._held: npt.NDArray[np.number] = np.empty((0, blocks.shape[1]), dtype=blocks.dtype)

    def read(self, places: npt.NDArray[np.intp], out: npt.NDArray[np.number]) -> None:
        """Put the next rows into the given places of `out`."""
        done = 0
        while done < len(places):
            if not len(self._held):
                self._held = next(self._values)
            n = min(len(self._held), len(places) - done)
            out[places[done : done + n]] = self._held[:n]
            self._held = self._held[n:]
            done += n
