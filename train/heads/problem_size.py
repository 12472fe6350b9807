"""`ProblemSize`: the sizes of a fit, and the work of steps that several heads have in common.

Work is counted in multiply-adds of one matrix product in float64. A step that runs slower than such a product
counts for more of them.
"""

from dataclasses import dataclass

# Centers of the kernel heads by default, and the number of widths that they compare.
_CENTERS, _WIDTHS = 1000, 5
# Penalties that a fit compares: each is tried on all rows, and the best three on every fold.
_PENALTIES, _FINALISTS = 8, 3
# Passes over the rows that a path of logistic fits takes, as measured on the default grid.
_PATH_PASSES = 50


@dataclass(frozen=True, kw_only=True)
class ProblemSize:
    """Rows, columns, classes and folds of a fit."""

    n: int
    d: int
    n_classes: int
    n_folds: int

    @property
    def rank(self) -> int:
        """Size of the smaller Gram matrix: of the columns, or of the rows where there are fewer."""
        return min(self.n, self.d)


def gram_work(size: ProblemSize) -> float:
    """Return the work of a Gram matrix of the columns, or of the rows where there are fewer rows."""
    return size.n * size.rank * max(size.rank, size.d if size.n < size.d else 1)


def factor_work(rank: float, count: float) -> float:
    """Return the work of `count` Cholesky factorizations of a matrix (rank, rank)."""
    return count * rank**3 / 3


def path_work(size: ProblemSize, rank: float) -> float:
    """Return the work of a path of logistic fits: passes over features (n, rank), and preconditioners."""
    # All folds share a pass, so a product has a column for each class and fold.
    columns = size.n_folds * size.n_classes
    passes = _PATH_PASSES * columns * (2 * size.n * rank + 60 * size.n + 3 * rank * rank)
    return passes + 20 * (min(size.n, max(4000, rank)) * rank * rank + rank**3 / 3)


def ridge_work(size: ProblemSize) -> float:
    """Return the work of ridge regression on the columns, the penalty cross-validated."""
    systems = factor_work(size.rank, 2 * (_PENALTIES + _FINALISTS * size.n_folds))
    return 2 * gram_work(size) + systems + 6 * size.n * size.rank * size.n_classes


def kernel_work(size: ProblemSize) -> float:
    """Return the work of kernel ridge regression with the default centers and grids, cross-validated."""
    centers = min(_CENTERS, size.n)
    work = size.n * centers * (size.d + _WIDTHS * 20) + _WIDTHS * (size.n * centers**2 + centers**3)
    systems = factor_work(centers, 2 * _WIDTHS * (_PENALTIES + _FINALISTS * size.n_folds))
    return work + systems + 15 * size.n * centers * size.n_classes


def kernel_path_work(size: ProblemSize) -> float:
    """Return the work of kernel softmax regression: `kernel_work` for the width, then a path of fits."""
    return kernel_work(size) + path_work(size, min(_CENTERS, size.n))
