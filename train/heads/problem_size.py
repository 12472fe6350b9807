"""`ProblemSize`: the sizes of a fit, its work where heads have steps in common, and scikit-learn's memory.

Work is counted in multiply-adds of one matrix product in float64. A step that runs slower than such a product
counts for more of them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Centers of the kernel heads by default, and the number of widths that they compare.
_CENTERS, _WIDTHS = 1000, 5
# Penalties that a fit compares: each is tried on all rows, and the best three on every fold.
_PENALTIES, _FINALISTS = 8, 3
# Passes over the rows that a path of logistic fits takes, as measured on the default grid.
_PATH_PASSES = 50
# Fits take the rows in float32 and of a part of the folds, and what an estimator makes of these in float64.
_ROW_BYTES = 28
# libsvm keeps columns of a problem's kernel matrix up to this many MiB (`cache_size`).
SVM_CACHE_MIB = 500
# scikit-learn makes room for so many nodes of a tree, and twice as many whenever these are taken.
_FIRST_NODES = 2047


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


@dataclass(frozen=True, kw_only=True)
class FitSizes:
    """What the memory of a scikit-learn fit depends on.

    Attributes
    ----------
    n, d, n_classes : int
    pair_rows : int
        Rows of the two largest classes.
    params : mapping
        Parameters of the estimator; a list of values is a grid.
    """

    n: int
    d: int
    n_classes: int
    pair_rows: int
    params: Mapping[str, Any]

    def most(self, name: str, default: int) -> int:
        """Return the largest value of a parameter, or `default` if one is no whole number."""
        return max(self._whole(name) or [default])

    def least(self, name: str, default: int) -> int:
        """Return the smallest value of a parameter, or `default` if one is no whole number."""
        return min(self._whole(name) or [default])

    def _whole(self, name: str) -> list[int]:
        given = self.params.get(name)
        values = given if isinstance(given, list | tuple) else [given]
        whole = [value for value in values if isinstance(value, int)]
        return whole if len(whole) == len(values) else []


def svm_bytes(sizes: FitSizes) -> int:
    """Project a support vector machine, which solves a problem for each pair of classes in turn."""
    kernel = min(SVM_CACHE_MIB * 2**20, 4 * sizes.pair_rows**2)
    # A row has a coefficient in the problem of its class with each other class: as libsvm solves for them, in
    # libsvm's model and in scikit-learn's.
    coefficients = 3 * 8 * sizes.n * sizes.n_classes
    return _ROW_BYTES * sizes.n * sizes.d + kernel + coefficients


def forest_bytes(sizes: FitSizes) -> int:
    """Project a forest whose trees are as large as they can be, as they are where classes overlap."""
    node_bytes = 64 + 8 * sizes.n_classes  # with the shares of all classes
    # A bootstrap draws 63 % of the rows. A leaf has at least one of them.
    drawn = int(0.633 * sizes.n) if sizes.params.get("bootstrap", True) else sizes.n
    leaves = min(
        drawn,
        sizes.n // max(1, sizes.least("min_samples_leaf", 1)),
        1 << max(0, min(sizes.most("max_depth", 60), 60)),
        sizes.most("max_leaf_nodes", drawn),
    )
    nodes, room = 2 * leaves, _FIRST_NODES
    while room < nodes:
        room *= 2
    jobs = sizes.most("n_jobs", 1)
    growing = (os.cpu_count() or 1) + 1 + jobs if jobs < 0 else jobs
    n_trees = sizes.most("n_estimators", 100)
    return 12 * sizes.n * sizes.d + node_bytes * (n_trees * nodes + min(growing, n_trees) * (room - nodes))


def unknown_bytes(sizes: FitSizes) -> int:
    """Project the least that a classifier of any class takes: the rows, and scores of these in the fit."""
    return _ROW_BYTES * sizes.n * sizes.d + 8 * sizes.n * sizes.n_classes
