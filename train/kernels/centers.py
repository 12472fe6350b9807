"""Which training rows become centers."""

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.machine.memory import check_memory
from toptune.store.features.blocks import Blocks
from toptune.train.rows.block_reading import refuse_non_finite

CENTERS = ("uniform", "class-balanced", "kmeans++")
# k-means++ looks at this many rows a center, drawn uniformly, so that its cost and memory do not grow with n.
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
    """Return the sorted rows of ``min(n_centers, n)`` centers.

    Parameters
    ----------
    codes : ndarray of int64, shape (n,)
        Class of each row; used by ``"class-balanced"`` only.
    n_centers : int
        Centers wanted.
    how : {"uniform", "class-balanced", "kmeans++"}
        Every row alike; classes in turn until enough are chosen or a class is used up; or among
        `CANDIDATES` rows a center drawn uniformly, each next one with probability proportional to its squared
        distance from those before (Arthur & Vassilvitskii 2007), which spreads them.
    seed : int
        Same seed, same rows; the size of blocks has no effect.
    blocks : Blocks, shape (n, d), optional
        The rows; needed by ``"kmeans++"`` only.
    limit_bytes : int, optional
        Of memory, for the candidates.

    Raises
    ------
    InputError
        For options out of range, candidates that are not finite, or too many for the memory limit.
    """
    if n_centers < 1:
        raise InputError(f"n_centers is {n_centers}; at least 1 is needed")
    if how not in CENTERS:
        raise InputError(f"centers {how!r} is unknown; choose one of {', '.join(CENTERS)}")
    n = len(codes)
    if how == "kmeans++" and n_centers < n and blocks is None:
        raise InputError(f"centers {how!r} needs the rows themselves")
    order = np.random.default_rng(seed).permutation(n)
    if how == "kmeans++" and n_centers < n and blocks is not None:
        order = _spread(blocks, order, n_centers, seed=seed, limit_bytes=limit_bytes)
    if how == "class-balanced":
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
    """Put the rows that k-means++ draws first, then the others: of equal rows it may draw one twice."""
    from sklearn.cluster import kmeans_plusplus

    candidates = np.sort(order[: CANDIDATES * n_centers])
    check_memory(
        3 * 8 * len(candidates) * blocks.shape[1],
        limit_bytes=limit_bytes,
        what=f"choosing {n_centers} centers by k-means++",
        instead="use fewer centers, or draw them uniformly",
    )
    values = blocks.take(candidates)
    refuse_non_finite(values, candidates)
    # In double precision, so that the draws do not hang on how products are summed.
    _, drawn = kmeans_plusplus(values.astype(np.float64), n_centers, random_state=seed, n_local_trials=1)
    first = candidates[np.unique(drawn)]
    return np.concatenate([first, order[~np.isin(order, first)]])
