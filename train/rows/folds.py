"""Folds that do not depend on labels: buckets of a hash of the id of a row, or of the group."""

import logging
import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.text import named
from toptune.train.rows.splits import hash_of

logger = logging.getLogger(__name__)
Folds = npt.NDArray[np.int64]


# A value of `cv` in place of a number of folds: every group of rows is a fold of its own.
LEAVE_ONE_GROUP_OUT = "leave-one-group-out"
# Every fold keeps sums of its own in memory, so that many folds are refused.
MAX_GROUPS = 100


class FoldsReducedWarning(UserWarning):
    """A class has fewer members than folds were asked for, so that fewer folds are used."""


def folds_of_keys(keys: Sequence[str], *, n_folds: int, seed: int = 0) -> Folds:
    """Return the fold (0 to n_folds - 1) of each row, by a hash of the key: the id or group of the row.

    A row keeps its fold when other rows come and go, and when labels change.
    """
    cached: dict[str, int] = {}
    for key in keys:
        if key not in cached:
            cached[key] = hash_of(seed, f"fold\0{key}") % n_folds
    return np.array([cached[key] for key in keys], dtype=np.int64)


def folds_of_rows(n: int, *, n_folds: int, seed: int = 0) -> Folds:
    """Return the folds of n rows without ids, dealt out in a random order; sizes differ by at most 1."""
    order = np.random.default_rng(seed).permutation(n)
    folds = np.empty(n, dtype=np.int64)
    folds[order] = np.arange(n) % n_folds
    return folds


def folds_of_groups(groups: Sequence[str]) -> tuple[Folds, int]:
    """Return the fold of each row, one fold for each group in the order of the names, and how many there are.

    Raises
    ------
    InputError
        If there are fewer than 2 groups, or more than `MAX_GROUPS`.
    """
    names, folds = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    if not 2 <= len(names) <= MAX_GROUPS:
        raise InputError(
            f"{LEAVE_ONE_GROUP_OUT} has {len(names)} groups to leave out; 2 to {MAX_GROUPS} are possible: "
            "give --group-by, or a number of folds with --cv, over which whole groups are dealt out"
        )
    return folds.astype(np.int64), len(names)


def usable_folds(class_counts: dict[str, int], cv: int, *, may_reduce: bool) -> int:
    """Return how many folds to use, given the members of each class.

    Parameters
    ----------
    class_counts : dict
        Training rows of each class.
    cv : int
        Folds asked for, at least 2.
    may_reduce : bool
        Where a class has fewer members than folds: use fewer folds and warn; otherwise refuse.

    Raises
    ------
    InputError
        For ``cv`` below 2, or a class with fewer members than folds unless `may_reduce`.
    """
    if cv < 2:
        raise InputError(f"cv is {cv}; at least 2 folds are needed")
    # The smallest classes come first, because they say how many folds are possible.
    small = sorted((count, name) for name, count in class_counts.items() if count < cv)
    if not small:
        return cv
    smallest, shown = small[0][0], named([(name, count) for count, name in small])
    those = f"{len(small)} of {len(class_counts)} classes have fewer"
    if not may_reduce:
        raise InputError(
            f"{those} training rows than the {cv} folds of the cross-validation: {shown}; add images, merge "
            "or remove these classes, or ask for "
            + (
                f"--cv {smallest}"
                if smallest > 1
                else "--cv 2, for which a class with 1 row is still too small"
            )
        )
    reduced = max(2, smallest)
    warnings.warn(
        f"{those} members than cv={cv}: {shown}; using {reduced} folds",
        FoldsReducedWarning,
        stacklevel=3,
    )
    return reduced
