"""Which training rows become centres."""

import numpy as np
import numpy.typing as npt

from toptune.store import InputError

CENTERS = ("uniform", "class-balanced")


def choose_centers(
    codes: npt.NDArray[np.int64], n_centers: int, *, how: str = "uniform", seed: int = 0
) -> npt.NDArray[np.int64]:
    """Return the sorted rows of ``min(n_centers, n)`` centres.

    Parameters
    ----------
    codes : ndarray of int64, shape (n,)
        Class of each row; used by ``"class-balanced"`` only.
    n_centers : int
        Centres wanted.
    how : {"uniform", "class-balanced"}
        Every row alike, or classes in turn until enough are chosen or a class is used up.
    seed : int
        Same seed, same rows; the size of blocks has no effect.
    """
    if n_centers < 1:
        raise InputError(f"n_centers is {n_centers}; at least 1 is needed")
    if how not in CENTERS:
        raise InputError(f"centers {how!r} is unknown; choose one of {', '.join(CENTERS)}")
    n = len(codes)
    order = np.random.default_rng(seed).permutation(n)
    if how == "class-balanced":
        shuffled = codes[order]
        by_class = np.argsort(shuffled, kind="stable")
        counts = np.bincount(shuffled)
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        rank_in_class = np.empty(n, dtype=np.int64)
        rank_in_class[by_class] = np.arange(n) - starts
        order = order[np.argsort(rank_in_class, kind="stable")]
    return np.sort(order[: min(n_centers, n)])
