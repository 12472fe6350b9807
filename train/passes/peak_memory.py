"""Project the peak memory of a fit from its sizes, before any work.

These are sums of array sizes, in bytes, without the storage of the rows themselves. Tests hold the measured
peak against them. Letters: n rows, d columns, `rank` features (at most the number of centers).
"""

from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.passes.kernel_rows import CACHED_ROWS
from toptune.train.passes.sums import batch_rows, sums_bytes

# Memory of the scores of all classes that a pass makes at a time.
SCORES_BYTES = 32 * 2**20
# A nearest-mean fit multiplies rows with marks of their fold and class, which take no more than this.
MARKS_BYTES = 64 * 2**20


def scoring_rows(*, n_classes: int, n_fits: int = 1) -> int:
    """Return how many rows are scored at a time, by fits that stand side by side.

    Of few classes, that is more than a block has. Ten thousand classes of a block of few columns would take
    gigabytes.
    """
    return max(16, SCORES_BYTES // _scored_row_bytes(n_classes, n_fits))


def scoring_bytes(*, n: int, n_classes: int, n_fits: int = 1) -> int:
    """Project the memory of the scores that are made at a time, of at most n rows."""
    rows = min(n, scoring_rows(n_classes=n_classes, n_fits=n_fits))
    return rows * _scored_row_bytes(n_classes, n_fits)


def calibration_bytes(*, n_kept: int, n_classes: int) -> int:
    """Project the memory in which a temperature is fitted: the scores below the best, and a copy of them."""
    return 2 * 8 * n_kept * n_classes


def _scored_row_bytes(n_classes: int, n_fits: int) -> int:
    # The scores, their product before the intercept is added, and that sum; then targets and differences.
    return 8 * n_classes * (3 * n_fits + 3)


def means_peak_bytes(*, n: int, d: int, n_classes: int, n_folds: int, n_metrics: int, n_kept: int) -> int:
    """Project the peak of a nearest-mean fit in bytes.

    It is the sum of: the sums and means of each metric, fold and class; one block with the marks of its rows
    and their sums; the left-out scores that are kept; and the scores of a block, or the calibration.
    """
    sums = 8 * d * n_classes * (2 * n_folds + 4) * n_metrics
    rows = min(n, marked_rows(n_cells=n_folds * n_classes))
    block = 8 * (min(rows, n_folds * n_classes) * (rows + d) + 3 * rows * d)
    kept = 4 * n_metrics * n_kept * n_classes
    scores = scoring_bytes(n=n, n_classes=n_classes, n_fits=n_metrics)
    return sums + kept + max(block, scores, calibration_bytes(n_kept=n_kept, n_classes=n_classes)) + 40 * n


def marked_rows(*, n_cells: int) -> int:
    """Return how many rows of a block are added up at a time, with a mark in one of `n_cells` cells each."""
    return max(256, MARKS_BYTES // (8 * n_cells))


def neighbors_peak_bytes(
    *,
    n: int,
    d: int,
    n_classes: int,
    n_neighbors: int,
    n_settings: int,
    n_kept: int,
    value_bytes: int,
    block_rows: int,
) -> int:
    """Project the peak of a nearest-neighbor fit in bytes.

    It is the sum of: all rows, twice; the left-out scores that are kept; and the similarities, neighbors and
    votes of a block, or the calibration.
    """
    kept = 4 * n_settings * n_kept * n_classes
    rows = value_bytes * 2 * n * d + 40 * n
    # Similarities to all rows, with marks of the rows that must not vote; similarities, numbers, classes and
    # shares of the neighbors; votes, shares and logarithms.
    block = min(n, block_rows) * (
        n * (2 * value_bytes + 1) + (value_bytes + 4 * 8 + 1) * n_neighbors + 4 * 8 * n_classes
    )
    return rows + kept + max(block, calibration_bytes(n_kept=n_kept, n_classes=n_classes))


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
    """Project the peak of the one-pass solver in bytes.

    It is the sum of: the centers, and for each map their kernel matrix and its factor, with two more being
    made; the sums of all maps and the rows that wait for them; the matrices of one system; one map's
    coefficients for every penalty and fold, or the finalists' coefficients once more and their left-out
    scores, with those that are made at a time; one block with its distances, kernel values and features, and
    the block that is read meanwhile. It grows with n only by the classes, weights and folds of the rows.

    Parameters
    ----------
    n, d : int
        Rows and columns.
    rank : int
        Features of each map.
    n_maps, n_classes, n_folds, n_penalties, n_finalists : int
    block_rows : int
        Rows of a block.
    n_calibration : int
        Rows whose left-out scores are kept.
    """
    # One matrix in float64, with the row and column of the intercept.
    square = 8 * (rank + 1) ** 2
    sums = n_maps * sums_bytes(n_folds=n_folds, rank=rank, n_targets=n_classes)
    factors = (2 * n_maps + 2) * square + 8 * rank * d
    systems = 3 * square + 3 * 8 * (rank + 1) * n_classes
    # One map's coefficients of every penalty and fold, and the sums by class in the order of the pass.
    coefficients = 8 * n_folds * (rank + 1) * n_classes
    path = coefficients * (n_penalties + n_maps)
    finalists = n_finalists * coefficients
    kept = 4 * n_finalists * n_calibration * n_classes
    waiting = batch_rows(n_folds=n_folds, rank=rank, n_rows=n)
    sums += 8 * n_maps * n_folds * waiting * (rank + 2)
    block = 8 * min(n, block_rows) * (4 * d + 4 * rank)
    fits = -(-n_finalists // n_maps)
    # The coefficients of finalists stand side by side once more while they score rows.
    scoring = finalists + block + scoring_bytes(n=min(n, block_rows), n_classes=n_classes, n_fits=fits)
    second_pass = kept + max(scoring, calibration_bytes(n_kept=n_calibration, n_classes=n_classes))
    # 24 bytes per row are its class, weight and fold.
    return sums + factors + systems + finalists + max(path + block, second_pass) + 24 * n


def iterative_peak_bytes(
    *, n: int, d: int, rank: int, n_columns: int, n_classes: int, block_rows: int, cached_bytes: int
) -> int:
    """Project the peak of FALKON's iteration in bytes.

    It is the sum of: eight squares (the whitening factor and what it is made of, or the preconditioner and
    what that is made of, never both); the centers; the columns of the recurrences; one block; and the kernel
    values where they are kept, with as many of them in float64 as are multiplied at a time.

    Parameters
    ----------
    n, d : int
        Rows and columns.
    rank : int
        Centers kept.
    n_columns : int
        Right-hand sides that are solved together.
    n_classes : int
    block_rows : int
        Rows of a block.
    cached_bytes : int
        Kernel values that are kept; 0 where they are computed again.
    """
    square = 8 * rank * rank
    columns = 10 * 8 * rank * n_columns
    block = 8 * min(n, block_rows) * (4 * d + 4 * rank + 2 * n_columns + n_classes)
    multiplied = 8 * min(n, CACHED_ROWS) * (rank + 2 * n_columns) if cached_bytes else 0
    return 8 * square + columns + 3 * 8 * rank * d + block + multiplied + cached_bytes + 24 * n


def host_peak_bytes(
    *,
    n: int,
    d: int,
    rank: int,
    n_maps: int,
    n_classes: int,
    n_folds: int,
    n_finalists: int,
    block_rows: int,
    keeps_sums: bool,
) -> int:
    """Project what a fit that computes on a CUDA device takes in main memory, in bytes.

    It is the sum of: the centers, the block that is read and the one on its way; and the largest of what
    comes in turn: a kernel matrix that the device fails to factor, while it is factored with pivots, the
    left-out scores that are kept with those of the calibration, or the sums that a run keeps.

    Parameters
    ----------
    n, d : int
        Rows and columns.
    rank : int
        Features of each map.
    n_maps : int
        Maps that are whitened; 0 where the features are the columns themselves.
    n_classes, n_folds, n_finalists : int
    block_rows : int
        Rows of a block.
    keeps_sums : bool
        Whether the sums of the chosen map are kept.
    """
    square = 8 * rank * rank
    centers = 3 * 8 * rank * d if n_maps else 0
    n_kept = min(n, CALIBRATION_ROWS)
    scores = 4 * n_finalists * n_kept * n_classes + calibration_bytes(n_kept=n_kept, n_classes=n_classes)
    sums = sums_bytes(n_folds=n_folds, rank=rank, n_targets=n_classes) if keeps_sums else 0
    # The matrix, the same scaled, and four matrices of LAPACK's pivoted factorization.
    whitening = 6 * square if n_maps else 0
    return centers + max(whitening, scores, sums) + 3 * 8 * min(n, block_rows) * d + 24 * n


def library_work_bytes(*, n: int, d: int, n_centers: int, value_bytes: int, is_stored: bool) -> int:
    """Return the memory that FalkonML is told it may take for blocks (its option `max_cpu_mem`).

    FalkonML stores the rows' kernel values only if they take less than nine tenths of this.
    """
    # A little more than 10/9 of the values, so that they take less than nine tenths.
    stored = 1.15 * n * n_centers * value_bytes if is_stored else 0.0
    return int(stored) + 256 * 2**20 + 4 * 8 * n_centers * d


def library_peak_bytes(
    *, n: int, d: int, n_centers: int, n_classes: int, value_bytes: int, is_stored: bool
) -> int:
    """Project the peak of a fit by FalkonML in bytes.

    It is the sum of: a copy of all rows; targets, targets divided by n, and scores; the preconditioner and
    what it is made of, in float64; the rows' kernel values where they are stored; and the blocks.

    Parameters
    ----------
    value_bytes : int
        Bytes of a kernel value: 4 or 8.
    is_stored : bool
        Whether FalkonML stores the kernel values of all rows.
    """
    rows = value_bytes * n * (d + 3 * n_classes)
    square = (2 * value_bytes + 16) * n_centers**2
    columns = 10 * 8 * n_centers * n_classes
    stored = value_bytes * n * n_centers if is_stored else 0
    work = library_work_bytes(n=n, d=d, n_centers=n_centers, value_bytes=value_bytes, is_stored=is_stored)
    return rows + square + columns + 5 * 8 * n_centers * d + stored + work + 24 * n
