"""Exact nearest neighbors by cosine, out of core: rows are streamed, and each pair is multiplied once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.errors import InputError
from toptune.machine.memory import shown_bytes
from toptune.machine.precision import full_precision
from toptune.store.features.blocks import Blocks
from toptune.train.estimators.nearest_neighbors import nearness_of, ready
from toptune.train.rows.block_reading import read_ahead

# Returns the rows of a range as blocks, in their order.
Read = Callable[[slice], Blocks]

# Similarities of a tile of held rows to a block of streamed rows are in memory at a time. Larger tiles save
# no time, because products of this size run at the speed of the processor already.
_TILE_ROWS = 1024
_BLOCK_ROWS = 2048
# A block of wide rows has fewer of them, so that its values take about this much memory.
_BLOCK_BYTES = 64 * 2**20
_LEAST_BLOCK_ROWS = 64
# What the allocator keeps of blocks that are done, beside the blocks at work, in the threads that read and
# multiply.
_SPARE_BYTES = 32 * 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbors:
    """The nearest rows of each row, the nearest first; no row is a neighbor of its own.

    Attributes
    ----------
    cosines : ndarray of float32, shape (n, k)
        Cosines of the angles to the neighbors.
    rows : ndarray of int64, shape (n, k)
        Numbers of the neighbors.
    """

    cosines: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class NeighborPlan:
    """How rows are compared within a limit on memory.

    Attributes
    ----------
    n, d, k : int
        Rows, columns, and neighbors of each row.
    held_rows : int
        Rows that are held at a time, while the rows after them are streamed.
    block_rows : int
        Streamed rows of a block.
    peak_bytes : int
        Projected peak of the search.
    """

    n: int
    d: int
    k: int
    held_rows: int
    block_rows: int
    peak_bytes: int

    @property
    def n_sweeps(self) -> int:
        """Times that rows are streamed; 1 if all rows are held at once."""
        return -(-self.n // self.held_rows)

    @property
    def n_pairs(self) -> int:
        """Pairs of rows that are compared."""
        return self.n * (self.n - 1) // 2

    def __str__(self) -> str:
        sweeps = "one sweep" if self.n_sweeps == 1 else f"{self.n_sweeps} sweeps"
        return (
            f"neighbors: {self.k} of each of {self.n} rows of {self.d} columns, exact, in {sweeps} over the "
            f"rows, in about {shown_bytes(self.peak_bytes)}"
        )


def plan_neighbors(*, n: int, d: int, k: int, limit_bytes: int) -> NeighborPlan:
    """Decide how many rows are held at a time: all of them, or as many as the limit has room for.

    Parameters
    ----------
    n, d : int
        Rows and columns.
    k : int
        Neighbors of each row, at most n - 1.
    limit_bytes : int
        Memory that the search may take.

    Raises
    ------
    InputError
        If not even one tile of rows fits beside the neighbors.

    Examples
    --------
    >>> plan = plan_neighbors(n=100_000, d=768, k=10, limit_bytes=2**30)
    >>> plan.n_sweeps, plan.peak_bytes < 2**30
    (1, True)
    >>> plan_neighbors(n=1_000_000, d=768, k=10, limit_bytes=2**30).n_sweeps
    5
    """
    block_rows = min(_BLOCK_ROWS, max(_LEAST_BLOCK_ROWS, _BLOCK_BYTES // (4 * d)), n)
    tile_rows = min(_TILE_ROWS, n)
    # A block as stored, after the steps, copied and of unit length, and the block that is read meanwhile.
    fixed = _SPARE_BYTES + 8 * 4 * block_rows * d
    # The cosines of a tile, these the other way round, and what the search for the largest makes of them.
    fixed += 4 * 4 * tile_rows * block_rows
    # Cosines and numbers of the neighbors, with the ones that are merged, and a copy that is returned.
    fixed += 2 * 12 * n * k + 3 * 12 * 2 * k * max(tile_rows, block_rows)
    row_bytes = 4 * d
    most = (limit_bytes - fixed) // row_bytes
    if most < tile_rows:
        needed = fixed + tile_rows * row_bytes
        raise InputError(
            f"the search for {k} neighbors of {n} rows of {d} columns needs at least {shown_bytes(needed)} "
            f"of memory, and {shown_bytes(max(limit_bytes, 1))} may be taken; raise --memory-limit, or take "
            "fewer --layers",
            option="memory_limit",
        )
    # Sweeps of equal length, so that the last one is not spent on a few rows.
    sweeps = -(-n // min(n, most))
    held_rows = -(-n // sweeps)
    return NeighborPlan(
        n=n, d=d, k=k, held_rows=held_rows, block_rows=block_rows, peak_bytes=fixed + held_rows * row_bytes
    )


def nearest_neighbors(
    read: Read,
    plan: NeighborPlan,
    *,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Neighbors:
    """Find the nearest rows of each row by cosine, exactly.

    Some rows are held, and the rows after them are streamed past. A tile of the product serves both sides:
    its rows are searched for the neighbors of the held rows, and its columns for those of the streamed rows,
    so that each pair of rows is multiplied once, which is half of the whole product. Where all rows fit into
    the memory of the plan, they are read once.

    Parameters
    ----------
    read : callable
        Returns the rows of a range as `Blocks`; rows are finite.
    plan : NeighborPlan
    device : torch.device, optional
        Where rows are held and multiplied; by default the CPU.
    progress : callable, optional
        Called with the pairs that are compared so far, and the number of all pairs.

    Raises
    ------
    InputError
        If a value is not finite.

    Examples
    --------
    >>> from toptune.store.features.blocks import ArrayBlocks
    >>> values = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1]], dtype=np.float32)
    >>> plan = plan_neighbors(n=3, d=2, k=1, limit_bytes=2**30)
    >>> nearest_neighbors(lambda some: ArrayBlocks(values[some]), plan).rows.tolist()
    [[2], [2], [0]]
    """
    search = _Search(plan, device or torch.device("cpu"), progress)
    with full_precision():
        for start in range(0, plan.n, plan.held_rows):
            search.sweep(read, start, min(start + plan.held_rows, plan.n))
    return Neighbors(cosines=search.cosines.cpu().numpy(), rows=search.rows.cpu().numpy())


class _Search:
    """The best neighbors so far of all rows."""

    def __init__(
        self, plan: NeighborPlan, device: torch.device, progress: Callable[[int, int], None] | None
    ) -> None:
        self._plan, self._device, self._progress = plan, device, progress
        self._n_done = 0
        # All sweeps share the memory: two sweeps' rows would stand side by side where it is not given back.
        self._held = torch.empty((plan.held_rows, plan.d), device=device)
        self.cosines = torch.full((plan.n, plan.k), -torch.inf, device=device)
        self.rows = torch.full((plan.n, plan.k), -1, dtype=torch.int64, device=device)

    def sweep(self, read: Read, start: int, stop: int) -> None:
        """Compare the rows from `start` to `stop` with one another and with all rows after them."""
        held = self._held[: stop - start]
        for where, values in self._blocks(read(slice(start, stop))):
            held[where] = values
            # A block is compared with the held rows before it as soon as the block is read.
            for low in range(0, where.stop, _TILE_ROWS):
                tile = slice(low, min(low + _TILE_ROWS, where.stop))
                self._compare(held[tile], start + low, values, start + where.start)
        if stop == self._plan.n:
            return
        for where, values in self._blocks(read(slice(stop, self._plan.n))):
            for low in range(0, len(held), _TILE_ROWS):
                self._compare(held[low : low + _TILE_ROWS], start + low, values, stop + where.start)

    def _blocks(self, blocks: Blocks) -> Iterator[tuple[slice, Tensor]]:
        for where, values in read_ahead(
            blocks, block_rows=self._plan.block_rows, dtype=torch.float32, device=self._device
        ):
            yield where, ready(values, "cosine")

    def _compare(self, left: Tensor, first: int, right: Tensor, second: int) -> None:
        """Compare a tile of held rows, from row `first` on, with a block, from row `second` on."""
        cosines = nearness_of(left, right, "cosine")
        overlap = first + len(left) - second
        if overlap > 0:
            # Where both sides hold the same rows, only pairs with the held row before the other one count;
            # the others are these pairs once more, or rows beside themselves.
            at = torch.arange(first, first + len(left), device=self._device)[:, None]
            other = torch.arange(second, second + len(right), device=self._device)
            cosines.masked_fill_(at >= other, -torch.inf)
        self._merge(first, cosines, second)
        self._merge(second, cosines.T.contiguous(), first)
        self._n_done += self._pairs(first, len(left), second, len(right))
        if self._progress is not None:
            self._progress(self._n_done, self._plan.n_pairs)

    @staticmethod
    def _pairs(first: int, n_left: int, second: int, n_right: int) -> int:
        """Count the pairs of a held row and a later row of a block."""
        lefts = np.arange(first, first + n_left)
        return int((second + n_right - np.maximum(lefts + 1, second)).clip(min=0).sum())

    def _merge(self, start: int, cosines: Tensor, others: int) -> None:
        """Keep the best of the neighbors so far and of new ones, for consecutive rows from `start` on."""
        where = slice(start, start + len(cosines))
        k = self._plan.k
        best, at = cosines.topk(min(k, cosines.shape[1]), dim=1)
        both = torch.cat([self.cosines[where], best], dim=1)
        rows = torch.cat([self.rows[where], at + others], dim=1)
        self.cosines[where], chosen = both.topk(k, dim=1)
        self.rows[where] = rows.gather(1, chosen)
