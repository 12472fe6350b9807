"""Approximate nearest neighbors of very many rows, by faiss, with the recall that was measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.machine.memory import shown_bytes
from toptune.machine.precision import full_precision
from toptune.store.features.blocks import Blocks
from toptune.train.estimators.nearest_neighbors import ready
from toptune.train.rows.block_reading import read_ahead
from toptune.workflows.inspection.neighbors import Neighbors, Read

# Rows of which the exact neighbors are known as well, and the share of these that the search has to find.
_SAMPLE_ROWS = 500
_WANTED_RECALL = 0.99
# Cells by the square root of the number of rows, and rows that each cell is fitted to, as faiss advises.
_CELLS, _ROWS_OF_A_CELL = 4, 40
# Cells that are looked through for a row, at first and at most: beyond, exact search takes no longer.
_FEW_CELLS, _MOST_CELLS = 8, 0.25
_BLOCK_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class ApproximatePlan:
    """How many cells the rows are put into, and what memory that takes."""

    n: int
    d: int
    k: int
    n_cells: int
    peak_bytes: int

    def __str__(self) -> str:
        return (
            f"neighbors: {self.k} of each of {self.n} rows of {self.d} columns, approximate by faiss, in "
            f"{self.n_cells} cells, in about {shown_bytes(self.peak_bytes)}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ApproximateNeighbors:
    """Neighbors, the share of exact ones among those of a sample, and the cells that were looked through."""

    neighbors: Neighbors
    recall: float
    n_probed: int


def plan_approximate(*, n: int, d: int, k: int) -> ApproximatePlan:
    """Decide into how many cells rows are put.

    Examples
    --------
    >>> plan_approximate(n=1_000_000, d=768, k=10).n_cells
    4000
    """
    n_cells = max(1, min(int(_CELLS * n**0.5), n // _ROWS_OF_A_CELL))
    fitted = min(n, _ROWS_OF_A_CELL * n_cells)
    # The index holds all rows with their numbers; the rows that cells are fitted to stand beside it.
    peak = (4 * d + 8) * n + 4 * d * (2 * fitted + n_cells + 4 * _BLOCK_ROWS) + 2 * 12 * n * k
    return ApproximatePlan(n=n, d=d, k=k, n_cells=n_cells, peak_bytes=peak)


def faiss_or_none() -> ModuleType | None:
    """Return faiss, or None where it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    module: ModuleType = faiss
    return module


def approximate_neighbors(read: Read, plan: ApproximatePlan, *, seed: int = 0) -> ApproximateNeighbors:
    """Find nearly all of the nearest rows of each row by cosine, with an inverted file.

    Rows are put into cells by k-means (Jegou, Douze & Schmid 2011, without the compression of that paper),
    and those of the nearest cells are compared. More cells are looked through until 99 % of the exact
    neighbors of 500 rows are found, or a quarter of all cells is looked through.

    Parameters
    ----------
    read : callable
        Returns the rows of a range as `Blocks`; rows are finite.
    plan : ApproximatePlan
    seed : int
        Seed of the draws: rows that cells are fitted to, and rows whose exact neighbors are found.
    """
    faiss = faiss_or_none()
    assert faiss is not None, "the caller has looked for faiss"
    faiss.omp_set_num_threads(torch.get_num_threads())
    rng = np.random.default_rng(seed)
    index = _filled_index(faiss, read, plan, rng)
    sample = np.sort(rng.choice(plan.n, min(_SAMPLE_ROWS, plan.n), replace=False))
    values = _taken(read, plan, sample)
    exact = _exact(read, plan, values, sample).rows
    most = min(plan.n_cells, max(_FEW_CELLS, int(_MOST_CELLS * plan.n_cells)))
    index.nprobe = min(_FEW_CELLS, most)
    while (recall := _recall(_search(index, values, sample, plan.k).rows, exact)) < _WANTED_RECALL:
        if index.nprobe >= most:
            break
        index.nprobe = min(2 * index.nprobe, most)
    cosines = np.empty((plan.n, plan.k), dtype=np.float32)
    rows = np.empty((plan.n, plan.k), dtype=np.int64)
    for where, block in _blocks(read(slice(0, plan.n))):
        found = _search(index, block.numpy(), np.arange(where.start, where.stop), plan.k)
        cosines[where], rows[where] = found.cosines, found.rows
    _complete(read, plan, cosines, rows)
    return ApproximateNeighbors(
        neighbors=Neighbors(cosines=cosines, rows=rows), recall=recall, n_probed=int(index.nprobe)
    )


def _filled_index(faiss: ModuleType, read: Read, plan: ApproximatePlan, rng: np.random.Generator) -> Any:
    """Fit the cells to some rows, and put all rows into them."""
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(plan.d), plan.d, plan.n_cells, faiss.METRIC_INNER_PRODUCT)
    fitted = rng.choice(plan.n, min(plan.n, _ROWS_OF_A_CELL * plan.n_cells), replace=False)
    index.train(_taken(read, plan, np.sort(fitted)))
    for _, block in _blocks(read(slice(0, plan.n))):
        index.add(block.numpy())
    return index


def _blocks(blocks: Blocks) -> Iterator[tuple[slice, Tensor]]:
    for where, values in read_ahead(
        blocks, block_rows=_BLOCK_ROWS, dtype=torch.float32, device=torch.device("cpu")
    ):
        yield where, ready(values, "cosine").contiguous()


def _taken(read: Read, plan: ApproximatePlan, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return some rows (m, d), of unit length, in a pass over all."""
    values = np.empty((len(rows), plan.d), dtype=np.float32)
    for where, block in _blocks(read(slice(0, plan.n))):
        first, last = np.searchsorted(rows, [where.start, where.stop])
        values[first:last] = block.numpy()[rows[first:last] - where.start]
    return values


def _search(index: Any, values: npt.NDArray[np.float32], own: npt.NDArray[np.int64], k: int) -> Neighbors:
    """Return the neighbors of rows whose numbers are `own`; a neighbor that was not found is -1."""
    cosines, rows = index.search(np.ascontiguousarray(values), k + 1)
    return _without_own(cosines, rows, own, k)


def _without_own(
    cosines: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], own: npt.NDArray[np.int64], k: int
) -> Neighbors:
    """Leave each row out of its own k + 1 neighbors, or the farthest one where the row is not among them."""
    is_own = rows == own[:, None]
    is_own[~is_own.any(axis=1), k] = True
    kept = np.argsort(is_own, axis=1, kind="stable")[:, :k]
    return Neighbors(
        cosines=np.take_along_axis(cosines, kept, axis=1), rows=np.take_along_axis(rows, kept, axis=1)
    )


def _exact(
    read: Read, plan: ApproximatePlan, values: npt.NDArray[np.float32], own: npt.NDArray[np.int64]
) -> Neighbors:
    """Return the exact neighbors of some rows, in a pass over all."""
    left = torch.from_numpy(values)
    best = torch.full((len(own), plan.k + 1), -torch.inf)
    rows = torch.full((len(own), plan.k + 1), -1, dtype=torch.int64)
    with full_precision():
        for where, block in _blocks(read(slice(0, plan.n))):
            both = torch.cat([best, left @ block.T], dim=1)
            numbers = torch.arange(where.start, where.stop).expand(len(own), -1)
            best, at = both.topk(plan.k + 1, dim=1)
            rows = torch.cat([rows, numbers], dim=1).gather(1, at)
    return _without_own(best.numpy(), rows.numpy(), own, plan.k)


def _complete(
    read: Read, plan: ApproximatePlan, cosines: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]
) -> None:
    """Give rows whose cells hold too few others their exact neighbors."""
    lacking = np.flatnonzero((rows < 0).any(axis=1))
    for start in range(0, len(lacking), _BLOCK_ROWS):
        own = lacking[start : start + _BLOCK_ROWS]
        found = _exact(read, plan, _taken(read, plan, own), own)
        cosines[own], rows[own] = found.cosines, found.rows


def _recall(found: npt.NDArray[np.int64], exact: npt.NDArray[np.int64]) -> float:
    return float((found[:, :, None] == exact[:, None, :]).any(axis=2).mean())
