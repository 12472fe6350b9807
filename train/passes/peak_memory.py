"""Project the peak memory of a fit from its sizes, before any work.

These are sums of array sizes, in bytes, without the storage of the rows themselves. Tests hold the measured
peak against them. Letters: n rows, d columns, `rank` features (at most the number of centers).
"""

from collections.abc import Sequence

from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.passes.kernel_rows import CACHED_ROWS
from toptune.train.passes.sums import batch_rows, sums_bytes

# Memory of the scores of all classes that a pass makes at a time.
SCORES_BYTES = 32 * 2**20
# Scores of so many columns in all are one product. Coefficients of wider fits would be copied for nothing:
# a product for each fit is as fast.
SCORED_COLUMNS = 512
# Matrices of at least so many bytes are not kept for the sake of speed alone while at most so many folds
# are left out in turn: adding up the other folds takes little beside factoring.
LARGE_BYTES = 64 * 2**20
FEW_FOLDS = 10
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
    n_fits: int,
    n_finalists: int,
    n_calibration: int,
) -> int:
    """Project the peak of the one-pass solver in bytes.

    It is the sum of: the centers, and for each map their kernel matrix and its factor; the sums of all maps;
    the finalists' coefficients; and the largest of what comes in turn. These are: two more matrices, in which
    a kernel matrix is factored; a block of the pass with its distances, kernel values and features, the block
    that is read meanwhile, the rows that wait, and the sums by class in the order of the pass; the matrices
    of one system with the coefficients of one map's fits; a block of the second pass, with coefficients that
    stand side by side and left-out scores. The sum grows with n only by the classes, weights and folds of the
    rows.

    Parameters
    ----------
    n, d : int
        Rows and columns.
    rank : int
        Features of each map.
    n_maps, n_classes, n_folds : int
    block_rows : int
        Rows of a block.
    n_fits : int
        Fits that leave out one fold whose coefficients are held at a time while one map is compared.
    n_finalists : int
        Fits of every fold whose left-out rows are scored.
    n_calibration : int
        Rows whose left-out scores are kept.
    """
    # One matrix in float64, with the row and column of the intercept; the coefficients of one fit.
    square, fit = 8 * (rank + 1) ** 2, 8 * (rank + 1) * n_classes
    held = 2 * n_maps * square + 8 * rank * d
    held += n_maps * sums_bytes(n_folds=n_folds, rank=rank, n_targets=n_classes)
    finalists = n_finalists * n_folds * fit
    block = 8 * min(n, block_rows) * (4 * d + 4 * rank)
    waiting = 8 * n_maps * n_folds * batch_rows(n_folds=n_folds, rank=rank, n_rows=n) * (rank + 2)
    # Maps whose sums do not fit together are summed and compared one after the other.
    earlier = finalists * (n_maps - 1) // n_maps
    first_pass = earlier + block + waiting + n_maps * n_folds * fit
    # One memory in which systems are put together and factored, and the sums over all folds and without one
    # if these are kept; targets, and what a solution and its error are made of. Before any fit, sums are
    # whitened.
    squares = 1 if is_lean(rank=rank, n_folds=n_folds) else 3
    path = squares * square + (5 + n_fits) * fit
    systems = earlier + max(path, 3 * square)
    # Coefficients that are wider than a product is wide do not stand side by side.
    abreast = min(-(-n_finalists // n_maps), max(1, SCORED_COLUMNS // n_classes))
    scoring = (
        (finalists if abreast > 1 else 0)
        + block
        + scoring_bytes(n=min(n, block_rows), n_classes=n_classes, n_fits=abreast)
    )
    kept = 4 * n_finalists * n_calibration * n_classes
    second_pass = (
        finalists + kept + max(scoring, calibration_bytes(n_kept=n_calibration, n_classes=n_classes))
    )
    # 24 bytes per row are its class, weight and fold.
    return held + max(2 * square, first_pass, systems, second_pass) + 24 * n


def is_lean(*, rank: int, n_folds: int) -> bool:
    """Return whether the sums of the other folds are added up for each fit that leaves a fold out.

    Otherwise the sums over all folds, and those without one, are in memory beside the folds.
    """
    return n_folds <= FEW_FOLDS and 8 * (rank + 1) ** 2 >= LARGE_BYTES


def part_sums_bytes(
    *,
    n: int,
    d: int,
    ranks: Sequence[int],
    n_classes: int,
    n_folds: int,
    block_rows: int,
    has_factors: bool,
) -> int:
    """Project what a worker of a cluster takes while it adds a part of n rows to the sums of other parts.

    It is the sum of: the sums that are there and those of the part; the rows that wait, and the sums by class
    in the order of the pass; one block and the block that is read meanwhile; the centers, as they are and
    shifted; and the factors of all maps, if rows are whitened.
    """
    largest = max(ranks)
    sums = sum(sums_bytes(n_folds=n_folds, rank=rank, n_targets=n_classes) for rank in ranks)
    waiting = sum(8 * batch_rows(n_folds=n_folds, rank=rank, n_rows=n) * (rank + 2) for rank in ranks)
    by_class = sum(8 * (rank + 1) * n_classes for rank in ranks)
    factors = 2 * sum(8 * rank * rank for rank in ranks) if has_factors else 0
    block = 8 * min(n, block_rows) * (4 * d + 4 * largest)
    return 2 * sums + n_folds * (waiting + by_class) + block + 2 * 8 * largest * d + factors + 24 * n


def part_scores_bytes(
    *,
    n: int,
    d: int,
    ranks: Sequence[int],
    n_classes: int,
    n_folds: int,
    block_rows: int,
    n_finalists: int,
    n_kept: int,
) -> int:
    """Project what a worker of a cluster takes while it scores a part of n rows by fits that left them out.

    It is the sum of: the finalists' coefficients, twice where they stand side by side; the left-out scores
    that are kept; a block, the scores that are made at a time; and the centers, as they are and shifted.
    """
    largest = max(ranks)
    fits = max(1, SCORED_COLUMNS // n_classes)
    coefficients = 8 * n_finalists * n_folds * (largest + 1) * n_classes * (2 if fits > 1 else 1)
    scores = scoring_bytes(n=min(n, block_rows), n_classes=n_classes, n_fits=min(fits, n_finalists))
    block = 8 * min(n, block_rows) * (4 * d + 4 * largest)
    kept = 4 * n_finalists * n_kept * n_classes
    return coefficients + kept + block + scores + 2 * 8 * largest * d + 24 * n


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
