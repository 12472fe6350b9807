"""`Blocks`: the interface by which training reads features."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

# Blocks of this size stay in the processor's caches, and the allocator hands their memory out again.
BLOCK_BYTES = 8 * 2**20


@runtime_checkable
class Blocks(Protocol):
    """Rows of features that are read block after block and never held whole.

    Any block size gives the same rows in the same order. Iterating again starts again.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """``(n, d)``: rows and columns."""
        ...

    @property
    def dtype(self) -> np.dtype[np.number]:
        """Type of the arrays that iterating yields."""
        ...

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[np.number]]]:
        """Yield ``(rows, values)``: consecutive row ranges and their ``(rows, d)`` values.

        Parameters
        ----------
        block_rows : int, optional
            Rows a block; by default as many as make up 8 MiB.
        """
        ...

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[np.number]:
        """Return the ``(len(rows), d)`` values of some rows, in the order given.

        Raises
        ------
        IndexError
            If a row is not one of ``0 .. n - 1``.
        TypeError
            If `rows` are not whole numbers; a mask is not a list of rows.
        """
        ...


class ArrayBlocks:
    """`Blocks` over an array in memory or memory-mapped; nothing is copied."""

    def __init__(self, values: npt.NDArray[np.number]) -> None:
        self.values = values

    @property
    def shape(self) -> tuple[int, int]:
        return (self.values.shape[0], self.values.shape[1])

    @property
    def dtype(self) -> np.dtype[np.number]:
        return self.values.dtype

    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[np.number]]]:
        for rows in row_slices(self.shape, self.dtype, block_rows):
            yield rows, self.values[rows]

    def take(self, rows: npt.ArrayLike) -> npt.NDArray[np.number]:
        return np.asarray(self.values[row_numbers(rows, self.shape[0])])


def row_numbers(rows: npt.ArrayLike, n: int) -> npt.NDArray[np.intp]:
    """Return `rows` as an array of row numbers in ``0 .. n - 1``, or raise as `Blocks.take` does."""
    given = np.asarray(rows)
    if given.ndim != 1:
        raise TypeError(f"rows have shape {given.shape}; a list of row numbers is needed")
    # A mask would be taken for the row numbers 0 and 1 and give wrong rows without an error.
    if len(given) and given.dtype.kind not in "iu":
        raise TypeError(
            f"rows are {given.dtype}; row numbers are needed (np.flatnonzero turns a mask into them)"
        )
    numbers = given.astype(np.intp)
    # numpy would count negative numbers from the end; in a list of rows they are a mistake.
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= n):
        odd = numbers.min() if numbers.min() < 0 else numbers.max()
        raise IndexError(f"row {odd} is not one of the {n} rows, which count from 0")
    return numbers


def row_slices(
    shape: tuple[int, int], dtype: np.dtype[np.number], block_rows: int | None = None
) -> Iterator[slice]:
    """Split ``shape[0]`` rows into consecutive slices of `block_rows` (default: 8 MiB of values)."""
    n, d = shape
    if block_rows is None:
        block_rows = max(1, BLOCK_BYTES // max(1, d * dtype.itemsize))
    if block_rows < 1:
        raise ValueError(f"block_rows is {block_rows}; it must be at least 1")
    for start in range(0, n, block_rows):
        yield slice(start, min(start + block_rows, n))
