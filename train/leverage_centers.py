"""Centres in proportion to approximate ridge leverage scores, bottom-up (BLESS).

The score of row i, ``l_i = (K (K + penalty n I)^-1)_ii``, says how much of the fit rests on that row: rows
of a dense region share it, a rare one has it to itself. Their sum is the effective dimension. BLESS (Rudi,
Calandriello, Carratino & Rosasco 2018, alg. 2) never forms K: it begins at a penalty so large that all
scores are alike and halves it step by step, each time scoring a few rows by the small weighted dictionary
of the step before and drawing the next dictionary in proportion.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from toptune.store import Blocks
from toptune.store.memory_limit import check_memory
from toptune.train.centers import refuse_non_finite
from toptune.train.cholesky import cholesky_with_jitter
from toptune.train.kernels import Linear, Radial, kernel_of, median_distance
from toptune.train.memory import block_rows_for
from toptune.train.reading import check_finite, to_tensor

# Rows, drawn uniformly, that dictionaries are drawn from: their number bounds the cost of the path.
POOL = 5000
# Largest dictionary: every row is scored against it, at its square in multiply-adds.
DICTIONARY = 1000
# Dictionary rows for each unit of effective dimension, and at least (where both are few, chance is large).
OVERSAMPLING = 5.0
LEAST_ROWS = 100
# The penalty falls by this factor a step, and to this share of the largest k(x, x) where none is given.
STEP = 2.0
FLOOR = 1e-7
# Of the largest score: beyond are rounding's.
_DIGITS = 9
_WIDTH_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """Rows and weights that stand for a pool of m rows at one penalty.

    Attributes
    ----------
    values : Tensor of float64, shape (j, d)
    chances : Tensor of float64, shape (j,)
        With which each row was taken.
    ridge : float
        ``penalty m``.
    factor : Tensor of float64, shape (j, j)
        Of ``K_JJ + penalty m diag(chances)``, lower.
    """

    values: Tensor
    chances: Tensor
    ridge: float
    factor: Tensor

    @classmethod
    def of(cls, values: Tensor, chances: Tensor, kernel: Radial | Linear, *, ridge: float) -> "Dictionary":
        """Factor the system of rows (j, d)."""
        system = kernel(values, values)
        system.diagonal().add_(ridge * chances)
        factor, _ = cholesky_with_jitter(system, what="the kernel matrix of a dictionary")
        return cls(values=values, chances=chances, ridge=ridge, factor=factor)


def leverage_rows(
    blocks: Blocks,
    n_centers: int,
    *,
    kernel: str,
    sigma: float | Sequence[float] | None,
    penalty: float | Sequence[float] | None,
    seed: int,
    limit_bytes: int | None,
) -> npt.NDArray[np.int64]:
    """Draw `n_centers` different rows, each next one in proportion to its score; sorted.

    The penalty of the scores falls until their sum reaches `n_centers` (then the centres can carry no
    finer one), a dictionary would exceed `DICTIONARY`, or it is at its floor: the smallest of
    `penalty`, or `FLOOR` of the kernel's largest value. A width that is not one number is the median
    distance of rows drawn uniformly: centres come before the choice of the width.

    Raises
    ------
    InputError
        For rows that are not finite, or a projected peak above the limit.
    """
    n, d = blocks.shape
    pool_rows = np.sort(np.random.default_rng(seed).permutation(n)[:POOL])
    m, j = len(pool_rows), min(n, DICTIONARY)
    block_rows = min(n, block_rows_for(d=d, rank=j))
    check_memory(
        8 * (3 * m * d + 4 * m * j + 6 * j * j + j * d + block_rows * (3 * d + 4 * j) + 5 * n),
        limit_bytes=limit_bytes,
        what=f"choosing {n_centers} centres by leverage scores",
        instead="take fewer features, or draw the centres uniformly",
    )
    values = blocks.take(pool_rows)
    refuse_non_finite(values, pool_rows)
    pool = to_tensor(values, dtype=torch.float64)
    width: float | None = None
    if kernel != "linear":
        fixed = np.atleast_1d(np.asarray([] if sigma is None else sigma, dtype=np.float64))
        width = float(fixed[0]) if len(fixed) == 1 else median_distance(pool[:: -(-m // _WIDTH_ROWS)])
    function = kernel_of(kernel, width)
    floor = None if penalty is None else float(np.min(penalty))
    dictionary = bottom_up(pool, function, n_centers=n_centers, floor=floor, seed=seed)
    scores = np.empty(n)
    for where, block in blocks.iterate(block_rows):
        check_finite(block, start=where.start)
        rows = to_tensor(block, dtype=torch.float64)
        scores[where] = approximate_scores(rows, function, dictionary).numpy()
    return np.sort(_draw(scores, n_centers, seed=seed))


def bottom_up(
    pool: Tensor, kernel: Radial | Linear, *, n_centers: int, floor: float | None, seed: int
) -> Dictionary | None:
    """Follow the penalty down on a pool of rows (m, d); None where the kernel is 0 on all of them.

    Parameters
    ----------
    n_centers : int
        Effective dimension at which to stop.
    floor : float or None
        Smallest penalty.
    """
    m, diagonal = len(pool), _diagonal(kernel, pool)
    largest = float(diagonal.max())
    if largest <= 0:
        return None
    penalty, dimension = largest, 1.0
    lowest = FLOOR * largest if floor is None else min(floor, largest)
    generator = np.random.default_rng([seed, 1])
    dictionary: Dictionary | None = None
    while True:
        ridge = penalty * m
        # No score is above k(x, x) / (penalty m), so that more candidates than this are never needed.
        share = max(OVERSAMPLING, LEAST_ROWS / max(dimension, 1.0))
        chance = min(1.0, share * largest / ridge)
        candidates = torch.from_numpy(np.flatnonzero(generator.random(m) < chance))
        scores = diagonal[candidates] / ridge
        if dictionary is not None:
            # Scored at this penalty, by the rows of the one before.
            before = Dictionary.of(dictionary.values, dictionary.chances, kernel, ridge=ridge)
            scores = approximate_scores(pool[candidates], kernel, before)
        dimension = float(scores.sum()) / chance
        accepted = (share * scores).clamp_(max=chance)
        draws = torch.from_numpy(generator.random(len(candidates)))
        drawn = torch.nonzero(draws * chance < accepted)[:, 0]
        if dictionary is not None and len(drawn) > DICTIONARY:
            return dictionary
        if len(drawn):
            dictionary = Dictionary.of(pool[candidates[drawn]], accepted[drawn], kernel, ridge=ridge)
        if penalty <= lowest or dimension >= n_centers:
            return dictionary
        penalty = max(penalty / STEP, lowest)


def approximate_scores(rows: Tensor, kernel: Radial | Linear, dictionary: Dictionary | None) -> Tensor:
    """Approximate scores (b,) of rows (b, d) as if they were of the pool (the paper's eq. 3).

    ``(k(x, x) - k_J(x)' (K_JJ + penalty m diag(chances))^-1 k_J(x)) / (penalty m)``; all alike without a
    dictionary.
    """
    diagonal = _diagonal(kernel, rows)
    if dictionary is None:
        return torch.ones_like(diagonal)
    half = torch.linalg.solve_triangular(dictionary.factor, kernel(dictionary.values, rows), upper=False)
    scores: Tensor = (diagonal - half.square().sum(dim=0)).clamp_(min=0) / dictionary.ridge
    return scores


def _diagonal(kernel: Radial | Linear, rows: Tensor) -> Tensor:
    """k(x, x) of each row."""
    if isinstance(kernel, Linear):
        return rows.square().sum(dim=1)
    return kernel.of_squared_distances(rows.new_zeros(len(rows)))


def _draw(scores: npt.NDArray[np.float64], size: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Draw different rows, each next one in proportion to its score (Efraimidis & Spirakis 2006).

    Scores are rounded first: they must not hang on how rows were cut into blocks.
    """
    largest = float(scores.max())
    digits = np.round(scores / largest, _DIGITS) if largest > 0 else np.ones_like(scores)
    # Rows of no score come last, in an order of their own.
    keys = np.random.default_rng([seed, 2]).exponential(size=len(scores))
    keys /= np.maximum(digits, 10.0 ** -(_DIGITS + 1))
    return np.argsort(keys, kind="stable")[:size]
