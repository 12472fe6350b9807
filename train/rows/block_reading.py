"""Blocks of rows on their way to the solvers: checked, and read while the block before is worked on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.errors import InputError
from toptune.store.features.blocks import Blocks

# Bytes of the values of a block in float64, at most; `block_rows_for` says why not more.
BLOCK_BYTES = 32 * 2**20
# A block of a fit with many centers has at least so many rows, although these take more: the products of its
# rows of one fold with thousands of columns of coefficients take twice as long for 50 rows as for 200.
LEAST_ROWS = 1024
# BLOCK_BYTES on a CUDA device, which a block must fill with work for longer than its launches take.
CUDA_BLOCK_BYTES = 2**30

_NAMED_ROWS = 10


def read_ahead(
    blocks: Blocks, *, block_rows: int, dtype: torch.dtype, device: torch.device, offset: int = 0
) -> Iterator[tuple[slice, Tensor]]:
    """Yield ``(rows, values)`` with values (b, d) on the device; a thread reads the next block meanwhile.

    Blocks reach a CUDA device through page-locked memory, so that the caller does not wait for the copy. The
    device takes it once it has done what was launched before.

    Parameters
    ----------
    blocks : Blocks, shape (n, d)
        Rows to read, in order.
    block_rows : int
        Rows of a block, at most.
    dtype, device : torch.dtype, torch.device
        Type and place of the values.
    offset : int
        Number of the first row, for messages.

    Raises
    ------
    InputError
        If a value is not finite; the message names the first such rows.
    """
    source = blocks.iterate(block_rows)

    def read() -> tuple[slice, Tensor] | None:
        for where, values in source:
            check_finite(values, start=offset + where.start)
            return where, _pinned(to_tensor(values, dtype=dtype), device)
        return None

    with ThreadPoolExecutor(1, thread_name_prefix="toptune-read") as reader:
        ahead = reader.submit(read)
        while (block := ahead.result()) is not None:
            ahead = reader.submit(read)
            yield block[0], block[1].to(device, non_blocking=True)


def sent_ahead(values: Tensor, device: torch.device) -> Tensor:
    """Return values of main memory on a device; the host does not wait until they are there."""
    return _pinned(values, device).to(device, non_blocking=True)


def _pinned(values: Tensor, device: torch.device) -> Tensor:
    """Return values in page-locked memory if they go to a CUDA device, else as they are."""
    return values.pin_memory() if device.type == "cuda" else values


def parts(blocks: Blocks, most: int) -> Iterator[tuple[slice, npt.NDArray[np.number]]]:
    """Yield ``(rows, values)`` of blocks, and of a block with more than `most` rows its parts."""
    for where, values in blocks.iterate():
        for start in range(0, len(values), most):
            part = values[start : start + most]
            yield slice(where.start + start, where.start + start + len(part)), part


def check_finite(
    values: npt.NDArray[np.generic], *, start: int = 0, rows: npt.NDArray[np.int64] | None = None
) -> None:
    """Raise InputError with the numbers of the rows that hold NaN or infinity.

    Rows (b, d) have consecutive numbers from `start` on, or the numbers in `rows` (b,).
    """
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise rows_not_finite(start + bad if rows is None else rows[bad])


def rows_not_finite(numbers: npt.NDArray[np.int64]) -> InputError:
    """Return the error about rows with these numbers, of which it names the first."""
    named = ", ".join(str(number) for number in numbers[:_NAMED_ROWS])
    more = f" and {len(numbers) - _NAMED_ROWS} more" if len(numbers) > _NAMED_ROWS else ""
    return InputError(
        f"the input contains NaN or infinity in row {named}{more} (counted from 0); "
        "drop or repair these rows first"
    )


def to_tensor(
    values: npt.NDArray[np.generic], *, dtype: torch.dtype, device: torch.device | None = None
) -> Tensor:
    """Copy rows to a tensor; the source may be read-only or memory-mapped."""
    wanted = np.float64 if dtype == torch.float64 else np.float32
    return torch.from_numpy(np.array(values, dtype=wanted, order="C")).to(device)


def block_rows_for(
    *,
    d: int,
    rank: int,
    limit_bytes: int | None = None,
    on_cuda: bool = False,
    least_rows: int = LEAST_ROWS,
) -> int:
    """Return the rows of a block whose values take about 32 MiB in float64, or less under a small limit.

    Larger blocks save little on a CPU: longer products gain about what fetching more memory for each block
    costs. Rows of so many features that fewer than `least_rows` would fit take more. On CUDA the values take
    about 1 GiB, or less so that reading them takes at most a quarter of that in main memory.

    Parameters
    ----------
    d, rank : int
        Columns of the rows, and of the features that the rows are mapped to.
    limit_bytes : int, optional
        Memory limit where the values lie, of which a block takes at most a sixteenth, or of a device a
        32nd.
    on_cuda : bool
        Whether the values lie on a CUDA device whose memory limit is given; without a limit, blocks are
        as small as those of a CPU.
    least_rows : int
        Rows that a block on a CPU has at least where the memory limit allows.
    """
    budget = block_bytes_for(limit_bytes, on_cuda=on_cuda)
    if on_cuda and limit_bytes is not None:
        # Rows that are read, converted, and copied to page-locked memory lie in main memory three times.
        return max(64, budget // (8 * max(d + 3 * rank + 1, 4 * 3 * d)))
    row_bytes = 8 * (d + 3 * rank + 1)
    least = least_rows * row_bytes
    if limit_bytes is not None:
        least = min(least, limit_bytes // 16)
    return max(64, max(budget, least) // row_bytes)


def block_bytes_for(limit_bytes: int | None, *, on_cuda: bool) -> int:
    """Return the bytes that the values of a block take in float64, at most; see `block_rows_for`."""
    if limit_bytes is None:
        return BLOCK_BYTES
    return min(CUDA_BLOCK_BYTES, limit_bytes // 32) if on_cuda else min(BLOCK_BYTES, limit_bytes // 16)
