"""`DeviceRows`: rows that a CUDA device keeps, in their stored type, from one pass to the next."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from toptune.store.features.blocks import Blocks, row_slices
from toptune.train.rows.block_reading import rows_not_finite, sent_ahead

# Types that torch has under the same name; of others the rows are read again in every pass.
KEPT_TYPES = ("float16", "float32", "float64")


class DeviceRows:
    """Rows (n, d) that are copied to a CUDA device once, and converted and checked there.

    A pass over rows in main memory finds values that are not finite, converts the others and copies them, all
    on one thread, which takes far longer than the device takes to read its own memory.

    Parameters
    ----------
    blocks : Blocks, shape (n, d)
        The rows. Only a pass that goes to the end keeps them; the pass after one that was abandoned reads
        them again.
    device : torch.device
        A CUDA device.
    offset : int
        Number of the first row, for messages.
    """

    def __init__(self, blocks: Blocks, device: torch.device, *, offset: int = 0) -> None:
        self._blocks, self._device, self._offset = blocks, device, offset
        self._kept: Tensor | None = None

    def iterate(self, block_rows: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Yield ``(rows, values)`` with values (b, d) on the device, which the caller may overwrite.

        Raises
        ------
        InputError
            At the end of the first pass, if a value is not finite; the message names the first such rows.
        """
        if self._kept is None:
            yield from self._first(block_rows, dtype)
            return
        for where in row_slices(self._blocks.shape, self._blocks.dtype, block_rows):
            yield where, self._kept[where].to(dtype, copy=True)

    def _first(self, block_rows: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        n, d = self._blocks.shape
        kept = torch.empty((n, d), dtype=getattr(torch, str(self._blocks.dtype)), device=self._device)
        is_finite = torch.empty(n, dtype=torch.bool, device=self._device)
        source = self._blocks.iterate(block_rows)

        def read() -> tuple[slice, Tensor] | None:
            for where, values in source:
                # A copy, because the source may be read-only or overwritten by the next block.
                return where, torch.from_numpy(np.array(values, order="C"))
            return None

        with ThreadPoolExecutor(1, thread_name_prefix="toptune-read") as reader:
            ahead = reader.submit(read)
            while (block := ahead.result()) is not None:
                ahead = reader.submit(read)
                where, values = block
                kept[where] = sent_ahead(values, self._device)
                is_finite[where] = torch.isfinite(kept[where]).all(dim=1)
                yield where, kept[where].to(dtype, copy=True)
        # Asked once at the end: the host would wait for the device at every block.
        rows = np.flatnonzero(~is_finite.cpu().numpy())
        if len(rows):
            raise rows_not_finite(self._offset + rows)
        self._kept = kept


def kept_rows_bytes(blocks: Blocks) -> int:
    """Return the memory that `DeviceRows` of blocks take; 0 for a type that is not kept."""
    n, d = blocks.shape
    return n * (d * blocks.dtype.itemsize + 1) if str(blocks.dtype) in KEPT_TYPES else 0
