"""Choose how many rows make a unit and a chunk, and which units a job computes."""

import math
from collections.abc import Iterable

from toptune.errors import InputError

MIN_UNIT_ROWS = 64
MAX_UNIT_BYTES = 256 * 2**20
MAX_CHUNK_ROWS = 1024
_MIN_CHUNK_ROWS = 64


def choose_unit_rows(n_rows: int, bytes_per_row: int, batch_size: int) -> int:
    """Choose how many rows make one unit, the smallest thing that a job does.

    The number of units grows with the square root of the rows (about ``sqrt(n) / 4``), so that little is
    lost when a job dies and files stay few: 64 or 128 rows for a thousand images, some
    thousand units for a hundred million. Wide rows make smaller units, because a writer holds one unit
    of every array in memory.

    Parameters
    ----------
    n_rows : int
        Rows of the data set.
    bytes_per_row : int
        Bytes on disk of one row, over all arrays that are written together.
    batch_size : int
        Rows of one forward pass; a unit is a whole number of batches, so that every row always has
        the same batch mates.

    Returns
    -------
    int
        Rows a unit: `batch_size` times a power of two, or `n_rows` where that is smaller than a batch.

    Raises
    ------
    InputError
        If a number is not positive.
    """
    for label, value in (("n_rows", n_rows), ("bytes_per_row", bytes_per_row), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{label} is {value}; it must be at least 1")
    if n_rows <= batch_size:
        return n_rows
    # With 4 sqrt(n) rows a unit, both the loss at a kill and the number of files grow with sqrt(n) only.
    wanted = max(MIN_UNIT_ROWS, 4 * math.isqrt(n_rows))
    allowed = MAX_UNIT_BYTES // bytes_per_row
    # A unit begins with a batch, so that a resumed extraction has the same batches as an undisturbed one.
    batches = max(1, min(wanted, allowed) // batch_size)
    # A power of two keeps many divisors, from which the rows of a chunk are chosen.
    return int(batch_size * 2 ** (batches.bit_length() - 1))


def choose_chunk_rows(unit_rows: int) -> int:
    """Choose the rows of one chunk: the largest divisor of `unit_rows` up to 1024.

    A unit without a divisor of reasonable size (a large prime) is one chunk.
    """
    divisor = next(k for k in range(min(unit_rows, MAX_CHUNK_ROWS), 0, -1) if unit_rows % k == 0)
    return divisor if divisor >= _MIN_CHUNK_ROWS else unit_rows


def count_units(n_rows: int, unit_rows: int) -> int:
    """Count the units that cover `n_rows`; the last one may be partly filled."""
    return -(-n_rows // unit_rows)


def shard_units(n_units: int, i: int, n: int) -> range:
    """Return the units of job `i` of `n`: consecutive, disjoint, together all of them.

    Parameters
    ----------
    n_units : int
        Units of the cache.
    i, n : int
        This job, from 0, and the number of jobs. A job may have no units at all.

    Raises
    ------
    InputError
        If `i` is not one of ``0 .. n - 1``.
    """
    if n < 1 or not 0 <= i < n:
        raise InputError(f"shard {i}/{n} does not exist; shards count from 0/{n} to {n - 1}/{n}")
    # Consecutive units let a job read its images in the order of the data set.
    return range(n_units * i // n, n_units * (i + 1) // n)


def format_units(units: Iterable[int]) -> str:
    """Write unit numbers as ranges: ``0-3, 7``."""
    spans: list[list[int]] = []
    for unit in sorted(set(units)):
        if spans and unit == spans[-1][1] + 1:
            spans[-1][1] = unit
        else:
            spans.append([unit, unit])
    # A message names twenty ranges at most: a list of ten thousand units helps nobody.
    shown = ", ".join(f"{a}-{b}" if b > a else f"{a}" for a, b in spans[:20])
    return shown + (f" and {len(spans) - 20} more ranges" if len(spans) > 20 else "")
