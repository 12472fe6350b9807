"""`Blocks`: the interface by which training reads features."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import EllipsisType
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


class IndexedBlocks(ABC):
    """What Python and numpy do with `Blocks`: `len`, indexing, iteration over rows, and `numpy.asarray`.

    Rows are indexed as those of an array: ``blocks[3]`` is a row, ``blocks[-3:]``, ``blocks[[0, 7]]`` and
    ``blocks[mask]`` are arrays of rows, which are read when they are asked for. ``numpy.asarray(blocks)``
    reads all of them.

    Examples
    --------
    >>> blocks = ArrayBlocks(np.arange(6.0).reshape(3, 2))
    >>> len(blocks), blocks[-1].tolist(), blocks[1:].shape
    (3, [4.0, 5.0], (2, 2))
    >>> blocks
    ArrayBlocks(shape=(3, 2), dtype=float64)
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]: ...

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[np.number]: ...

    @abstractmethod
    def iterate(self, block_rows: int | None = None) -> Iterator[tuple[slice, npt.NDArray[np.number]]]: ...

    @abstractmethod
    def take(self, rows: npt.ArrayLike) -> npt.NDArray[np.number]: ...

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype})"

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[npt.NDArray[np.number]]:
        # Without this method Python would read every row by a call of its own.
        for _, values in self.iterate():
            yield from values

    def __getitem__(self, rows: int | slice | npt.ArrayLike) -> npt.NDArray[np.number]:
        n = len(self)
        if isinstance(rows, slice):
            return self.take(np.arange(*rows.indices(n)))
        if isinstance(rows, tuple | EllipsisType | None):
            raise TypeError(
                f"{rows!r:.80} is no index of rows; columns are chosen in the rows that come, as in "
                "blocks[rows][:, 0]"
            )
        numbers = np.asarray(rows)
        if numbers.dtype == np.bool_:
            if numbers.shape != (n,):
                raise IndexError(f"a mask of shape {numbers.shape} does not fit {n} rows")
            return self.take(np.flatnonzero(numbers))
        if numbers.dtype.kind in "iu" and np.any((numbers < -n) | (numbers >= n)):
            raise IndexError(f"row {rows!r:.80} is not one of the {n} rows")
        if numbers.dtype.kind in "iu":
            numbers = np.where(numbers < 0, numbers + n, numbers)
        return self.take(numbers) if numbers.ndim else self.take(numbers[None])[0]

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[np.number]:
        if copy is False:
            raise ValueError("blocks are read from their place, and cannot be an array without a copy")
        values: npt.NDArray[np.number] = np.empty(self.shape, self.dtype if dtype is None else dtype)
        for rows, block in self.iterate():
            values[rows] = block
        return values


class ArrayBlocks(IndexedBlocks):
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
