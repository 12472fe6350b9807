"""Choose the training rows that become centers C of a Nystrom kernel.

Uniform sampling is the plain Nystrom method (Williams & Seeger 2001) and FALKON's default (Rudi, Carratino &
Rosasco 2017). The two other rules help where classes are very unequal or rows lie in few dense clumps.
"""

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.machine.memory import check_memory
from toptune.options import check_choice
from toptune.store.features.blocks import Blocks
from toptune.train.rows.block_reading import check_finite

CENTERS = ("uniform", "class-balanced", "kmeans++")
# k-means++ considers this many rows per center, drawn uniformly, so that its cost and memory do not grow with
# n.
CANDIDATES = 4


def choose_centers(
    codes: npt.NDArray[np.int64],
    n_centers: int,
    *,
    how: str = "uniform",
    seed: int = 0,
    blocks: Blocks | None = None,
    limit_bytes: int | None = None,
) -> npt.NDArray[np.int64]:
    """Choose ``min(n_centers, n)`` rows as centers and return their numbers, sorted.

    Parameters
    ----------
    codes : ndarray of int64, shape (n,)
        Class of each row; only ``"class-balanced"`` looks at it.
    n_centers : int
        Centers wanted.
    how : {"uniform", "class-balanced", "kmeans++"}
        ``"uniform"`` draws all rows with equal probability. ``"class-balanced"`` takes a row of each class in
        turn until enough are chosen; a class that is used up is passed over. ``"kmeans++"`` draws, among
        `CANDIDATES` uniformly drawn rows per center, each next center with probability proportional to its
        squared distance from those already drawn (Arthur & Vassilvitskii 2007), which spreads them.
    seed : int
        Seed of the draw: equal seeds choose equal rows, whatever the size of blocks.
    blocks : Blocks, shape (n, d), optional
        The rows; only ``"kmeans++"`` needs them.
    limit_bytes : int, optional
        Memory limit for the candidates of ``"kmeans++"``.

    Raises
    ------
    InputError
        For options out of range, candidates that are not finite, or too many for the memory limit.

    Examples
    --------
    With 98 rows of class 0 and two of class 1, a balanced choice of four takes both of the rare ones.

    >>> import numpy as np
    >>> codes = np.array([0] * 98 + [1] * 2)
    >>> codes[choose_centers(codes, 4, how="class-balanced")].tolist()
    [0, 0, 1, 1]
    """
    if n_centers < 1:
        raise InputError(f"n_centers is {n_centers}; at least 1 is needed")
    check_choice(how, CENTERS, option="centers")
    n = len(codes)
    if how == "kmeans++" and n_centers < n and blocks is None:
        raise InputError(f"centers {how!r} needs the rows themselves")
    order = np.random.default_rng(seed).permutation(n)
    if how == "kmeans++" and n_centers < n and blocks is not None:
        order = _spread(blocks, order, n_centers, seed=seed, limit_bytes=limit_bytes)
    if how == "class-balanced":
        # Rank every row within its class in random order; the first rank of every class comes first.
        shuffled = codes[order]
        by_class = np.argsort(shuffled, kind="stable")
        counts = np.bincount(shuffled)
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        rank_in_class = np.empty(n, dtype=np.int64)
        rank_in_class[by_class] = np.arange(n) - starts
        order = order[np.argsort(rank_in_class, kind="stable")]
    return np.sort(order[: min(n_centers, n)])


def _spread(
    blocks: Blocks, order: npt.NDArray[np.int64], n_centers: int, *, seed: int, limit_bytes: int | None
) -> npt.NDArray[np.int64]:
    """Order the rows so that those drawn by k-means++ come first.

    All others follow in their random `order`: k-means++ may draw equal rows twice, and then they fill up the
    count.
    """
    from sklearn.cluster import kmeans_plusplus

    candidates = np.sort(order[: CANDIDATES * n_centers])
    check_memory(
        3 * 8 * len(candidates) * blocks.shape[1],
        limit_bytes=limit_bytes,
        what=f"choosing {n_centers} centers by k-means++",
        instead="use fewer centers, or draw them uniformly",
    )
    values = blocks.take(candidates)
    check_finite(values, rows=candidates)
    # In double precision, so that the draws do not depend on the order in which products are summed.
    _, drawn = kmeans_plusplus(values.astype(np.float64), n_centers, random_state=seed, n_local_trials=1)
    first = candidates[np.unique(drawn)]
    return np.concatenate([first, order[~np.isin(order, first)]])
