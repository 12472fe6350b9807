"""Stored features as a torch data set that streams."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from toptune.errors import InputError
from toptune.store.features.blocks import Blocks


class FeatureDataset(IterableDataset[tuple[torch.Tensor, int]]):
    """Rows of `Blocks` with labels, block after block, for ``torch.utils.data.DataLoader``.

    Memory holds one block at a time. Each worker of the loader reads a consecutive part of the rows, so that
    every row comes once; the last batch of a worker may be short. Workers may be spawned. With a `seed`, the
    order of the blocks and the rows within a block are shuffled; `set_epoch` chooses another order, which
    workers kept between epochs (``persistent_workers``) do not notice.

    Rows of images that failed are NaN; ``cache.blocks(names, rows)`` leaves them out.

    Parameters
    ----------
    blocks : Blocks, shape (n, d)
        Features, as `toptune.store` reads them.
    labels : sequence of int (n,), optional
        Class numbers; by default -1 for every row.
    block_rows : int
        Rows that are read, and shuffled, at a time.
    seed : int, optional
        Seed of the order; by default rows come as they are stored.
    """

    def __init__(
        self,
        blocks: Blocks,
        labels: Sequence[int] | None = None,
        *,
        block_rows: int = 4096,
        seed: int | None = None,
    ) -> None:
        n = blocks.shape[0]
        self.labels = np.full(n, -1) if labels is None else np.asarray(labels, dtype=np.int64)
        if self.labels.shape != (n,):
            raise InputError(f"labels have shape {self.labels.shape}; {n} rows need ({n},)")
        if block_rows < 1:
            raise InputError(f"block_rows is {block_rows}; it must be at least 1")
        self.blocks, self.block_rows, self.seed = blocks, block_rows, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.blocks.shape[0]

    def set_epoch(self, epoch: int) -> None:
        """Choose another order for the next pass; without a seed the order stays the same."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        worker = get_worker_info()
        part, parts = (0, 1) if worker is None else (worker.id, worker.num_workers)
        n = len(self)
        n_blocks = -(-n // self.block_rows)
        mine = np.arange(n_blocks * part // parts, n_blocks * (part + 1) // parts)
        rng = None if self.seed is None else np.random.default_rng([self.seed, self.epoch, part])
        for block in mine if rng is None else rng.permutation(mine):
            rows = np.arange(block * self.block_rows, min((block + 1) * self.block_rows, n))
            values = torch.from_numpy(np.array(self.blocks.take(rows), dtype=np.float32))
            for place in range(len(rows)) if rng is None else rng.permutation(len(rows)):
                yield values[place], int(self.labels[rows[place]])
