"""Memory as arithmetic: what a fit will hold at its peak."""

from toptune.train.passes.kernel_rows import CACHED_ROWS
from toptune.train.passes.sums import batch_rows, sums_bytes


def one_pass_peak_bytes(
    *,
    n: int,
    d: int,
    rank: int,
    n_maps: int,
    n_classes: int,
    n_folds: int,
    block_rows: int,
    n_penalties: int,
    n_finalists: int,
    n_calibration: int,
) -> int:
    """Projected peak of the one-pass solver in bytes, everything but the rows' own storage.

    The centers, their kernel matrix and its factor for each map and the ones being made; the sums of all maps
    and the rows that wait for them; the matrices of one system and one map's coefficients of every penalty
    and fold; the finalists' coefficients and left-out scores; one block with its distances, kernel and
    feature values, and the next one. It grows with n only by the rows' classes, weights and folds.
    """
    square = 8 * (rank + 1) ** 2
    sums = n_maps * sums_bytes(n_folds=n_folds, rank=rank, n_targets=n_classes)
    factors = (2 * n_maps + 2) * square + 8 * rank * d
    systems = 3 * square + 3 * 8 * (rank + 1) * n_classes
    path = 8 * n_folds * (rank + 1) * n_classes * n_penalties
    finalists = n_finalists * (8 * n_folds * (rank + 1) * n_classes + 4 * n_calibration * n_classes)
    waiting = batch_rows(n_folds=n_folds, rank=rank, n_rows=n)
    sums += 8 * n_maps * n_folds * waiting * (rank + 2)
    block = 8 * min(n, block_rows) * (4 * d + 4 * rank + 2 * n_classes)
    return sums + factors + systems + path + finalists + block + 24 * n


def iterative_peak_bytes(
    *, n: int, d: int, rank: int, n_columns: int, n_classes: int, block_rows: int, cached_bytes: int
) -> int:
    """Projected peak of FALKON's iteration in bytes, everything but the rows' own storage.

    The whitening factor and the squares it is made with, or the preconditioner and those (never both);
    the centers; the columns of the recurrences; one block; and the kernel's values where they are kept, with
    as many of them as are multiplied at a time in float64.
    """
    square = 8 * rank * rank
    columns = 10 * 8 * rank * n_columns
    block = 8 * min(n, block_rows) * (4 * d + 4 * rank + 2 * n_columns + n_classes)
    multiplied = 8 * min(n, CACHED_ROWS) * (rank + 2 * n_columns) if cached_bytes else 0
    return 8 * square + columns + 3 * 8 * rank * d + block + multiplied + cached_bytes + 24 * n


def library_work_bytes(*, n: int, d: int, n_centers: int, value_bytes: int, is_stored: bool) -> int:
    """Memory that FalkonML is told it may take for blocks (its `max_cpu_mem`).

    It stores the rows' kernel values only if they take less than nine tenths of this.
    """
    stored = 1.15 * n * n_centers * value_bytes if is_stored else 0.0
    return int(stored) + 256 * 2**20 + 4 * 8 * n_centers * d


def library_peak_bytes(
    *, n: int, d: int, n_centers: int, n_classes: int, value_bytes: int, is_stored: bool
) -> int:
    """Projected peak of a fit by FalkonML in bytes, everything but the rows' own storage.

    A copy of all rows; targets, those over n and the scores; the preconditioner and what it is made of, in
    float64; the rows' kernel values where they are stored; and the blocks.
    """
    rows = value_bytes * n * (d + 3 * n_classes)
    square = (2 * value_bytes + 16) * n_centers**2
    columns = 10 * 8 * n_centers * n_classes
    stored = value_bytes * n * n_centers if is_stored else 0
    work = library_work_bytes(n=n, d=d, n_centers=n_centers, value_bytes=value_bytes, is_stored=is_stored)
    return rows + square + columns + 5 * 8 * n_centers * d + stored + work + 24 * n
