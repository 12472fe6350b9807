"""Seconds that a head's fit may take, roughly, from the sizes of the problem."""

import math
from collections.abc import Callable
from dataclasses import dataclass

# Multiply-adds a second of one matrix product in float64 that all figures are in units of.
RATE = 2.5e10
# Of any fit, however small.
OVERHEAD_SECONDS = 0.05
# Of reading a value from the store and preprocessing it, twice, in units of multiply-adds.
_READING = 500


@dataclass(frozen=True, kw_only=True)
class ProblemSize:
    """Rows, columns, classes and folds of a fit."""

    n: int
    d: int
    n_classes: int
    n_folds: int


def estimated_seconds(head: str, size: ProblemSize) -> float:
    """Seconds for a head with its default grids, cross-validation included, on an ordinary machine.

    Good to a factor of two or three; how far off it is here shows with the first heads that are tried.
    """
    return OVERHEAD_SECONDS + (_READING * size.n * size.d + _WORK[head](size)) / RATE


def _factorisations(rank: float, count: float) -> float:
    return count * rank**3 / 3


def _ncm(s: ProblemSize) -> float:
    return 4 * s.n * s.d * s.n_classes + 20 * s.n * s.d


def _gram(s: ProblemSize) -> float:
    rank = min(s.n, s.d)
    return s.n * rank * max(rank, s.d if s.n < s.d else 1)


def _ridge(s: ProblemSize) -> float:
    rank = min(s.n, s.d)
    return 2 * _gram(s) + _factorisations(rank, 2 * (8 + 3 * s.n_folds)) + 6 * s.n * rank * s.n_classes


def _lda(s: ProblemSize) -> float:
    rank = min(s.n, s.d)
    return 2 * _gram(s) + _factorisations(rank, 2 * 9 * s.n_folds) + 10 * s.n * rank * s.n_classes


def _knn(s: ProblemSize) -> float:
    return s.n * s.n * (s.d + 100) + s.n * 3_000 * (1 + s.n_classes / 50)


def _path(n: float, rank: float, s: ProblemSize, *, n_passes: int = 50) -> float:
    """Work of a logistic path: passes over rows of features, and preconditioners."""
    columns = s.n_folds * s.n_classes
    passes = n_passes * columns * (2 * n * rank + 60 * n + 3 * rank * rank)
    return passes + 20 * (min(n, max(4000, rank)) * rank * rank + rank**3 / 3)


def _logistic(s: ProblemSize) -> float:
    return _path(s.n, min(s.n, s.d), s) + (_gram(s) if s.n < s.d else 0)


def _kernel_widths(s: ProblemSize) -> float:
    centers = min(1000, s.n)
    work = s.n * centers * (s.d + 5 * 20) + 5 * (s.n * centers**2 + centers**3)
    return work + _factorisations(centers, 2 * 5 * (8 + 3 * s.n_folds)) + 15 * s.n * centers * s.n_classes


def _falkon_logistic(s: ProblemSize) -> float:
    return _kernel_widths(s) + _path(s.n, min(1000, s.n), s)


def _svm(s: ProblemSize) -> float:
    return 12 * (s.n_folds + 1) * s.n * s.n * s.d * 5


def _forest(s: ProblemSize) -> float:
    return (s.n_folds + 1) * 100 * s.n * math.log2(s.n + 1) * math.sqrt(s.d) * 800


_WORK: dict[str, Callable[[ProblemSize], float]] = {
    "ncm": _ncm,
    "ridge": _ridge,
    "lda": _lda,
    "knn": _knn,
    "logistic": _logistic,
    "falkon": _kernel_widths,
    "svm": _svm,
    "forest": _forest,
    "falkon-logistic": _falkon_logistic,
}
