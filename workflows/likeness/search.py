"""The nearest stored rows of some given rows, exactly: stored rows are streamed once."""

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError
from toptune.machine.memory import check_memory
from toptune.machine.precision import full_precision
from toptune.store.features.blocks import Blocks
from toptune.train.estimators.nearest_neighbors import nearness_of, ready
from toptune.train.rows.block_reading import read_ahead

# Given rows that are compared with a block at a time, and stored rows of a block.
_TILE_ROWS = 1024
_BLOCK_ROWS = 2048

Rows = npt.NDArray[np.int64]


def nearest_rows(
    queries: npt.NDArray[np.float32],
    blocks: Blocks,
    k: int,
    *,
    own: Rows | None = None,
    device: torch.device | None = None,
    limit_bytes: int | None = None,
) -> tuple[npt.NDArray[np.float32], Rows]:
    """Return the cosines (q, k) and the numbers (q, k) of the nearest rows, the nearest first.

    Memory does not grow with the stored rows: the queries, a block, and the products of a tile are held.

    Parameters
    ----------
    queries : ndarray of float32, shape (q, d)
        Given rows.
    blocks : Blocks, shape (n, d)
        Stored rows, all finite.
    k : int
        Neighbors of each query, at most n; of a query that is a stored row at most n - 1.
    own : ndarray of int64, shape (q,), optional
        Number of each query among the stored rows, which is no neighbor of its own; -1 for none.
    device : torch.device, optional
    limit_bytes : int, optional
        Limit on what is held.

    Raises
    ------
    InputError
        If the projected memory is above the limit, or `k` is above the number of rows.

    Examples
    --------
    >>> from toptune.store import ArrayBlocks
    >>> stored = ArrayBlocks(np.array([[1.0, 0], [0, 1], [1, 1]], dtype=np.float32))
    >>> cosines, rows = nearest_rows(np.array([[2.0, 0.2]], dtype=np.float32), stored, 2)
    >>> rows.tolist(), [f"{cosine:.2f}" for cosine in cosines[0].tolist()]
    ([[0, 2]], ['1.00', '0.77'])
    """
    (q, d), n = queries.shape, blocks.shape[0]
    where = device or torch.device("cpu")
    own = np.full(q, -1, dtype=np.int64) if own is None else own
    most = n - int((own >= 0).any())
    if k > most:
        raise InputError(f"k is {k}, and there are {most} other images with features; lower -k", option="k")
    check_memory(
        4 * (2 * q * d + 4 * _BLOCK_ROWS * d + 4 * _TILE_ROWS * _BLOCK_ROWS + 6 * q * k),
        limit_bytes=limit_bytes,
        what=f"the search for {k} neighbors of {q} images",
        instead="raise --memory-limit, give fewer images or fewer --layers",
    )
    best = torch.full((q, k), -torch.inf, device=where)
    rows = torch.full((q, k), -1, dtype=torch.int64, device=where)
    with full_precision():
        given = ready(torch.from_numpy(np.ascontiguousarray(queries)).to(where), "cosine")
        selves = torch.from_numpy(own).to(where)
        for at, values in read_ahead(blocks, block_rows=_BLOCK_ROWS, dtype=torch.float32, device=where):
            block = ready(values, "cosine")
            numbers = torch.arange(at.start, at.stop, device=where)
            for low in range(0, q, _TILE_ROWS):
                tile = slice(low, low + _TILE_ROWS)
                cosines = nearness_of(given[tile], block, "cosine")
                cosines.masked_fill_(selves[tile, None] == numbers, -torch.inf)
                both = torch.cat([best[tile], cosines], dim=1)
                names = torch.cat([rows[tile], numbers.expand(len(cosines), -1)], dim=1)
                best[tile], chosen = both.topk(k, dim=1)
                rows[tile] = names.gather(1, chosen)
    return best.cpu().numpy(), rows.cpu().numpy()
