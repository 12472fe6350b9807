"""Rows of several strata each are spread evenly over folds, or over the sides of a split.

The rule is iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011, "On the stratification of
multi-label data"), made to follow from names alone:

1. The stratum with fewest rows that have no place yet comes first (the first by number, of several).
2. Its groups of rows come in the order of their size, large ones first, and then of a hash of their keys.
3. Each group goes whole to the place that lacks most rows of that stratum; among such places to the one that
   lacks most rows in all, and then to the first.

What a place lacks is its share of all rows of a stratum less the rows that it has. Rows that have a place
already (of a run that is updated) keep it and count. The order of the rows has no effect.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array

Codes = npt.NDArray[np.int64]


def spreading_bytes(n_members: int) -> int:
    """Project the memory of `spread` for strata with so many members in all, given in 32 bits."""
    # Rows and strata; and the table of counts by row and by stratum, or by row and as it is put together.
    return (8 + 8 + 8) * n_members


def spread(
    rows: npt.NDArray[np.signedinteger],
    codes: npt.NDArray[np.signedinteger],
    ranks: Codes,
    *,
    shares: Sequence[float],
    known: Codes | None = None,
) -> Codes:
    """Return the place of each row.

    Parameters
    ----------
    rows, codes : ndarray of int, shape (m,)
        Strata of the rows; see `Task.strata`.
    ranks : ndarray of int64, shape (n,)
        Rank of the row's group by hash; rows of one group have one rank.
    shares : sequence of float
        Share of each place; they sum to 1.
    known : ndarray of int64, shape (n,), optional
        Place of each row that has one, and -1.

    Returns
    -------
    ndarray of int64, shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> rows, codes = np.array([0, 1, 1, 2, 3]), np.array([0, 0, 1, 1, 1])
    >>> spread(rows, codes, np.arange(4), shares=[0.5, 0.5]).tolist()
    [0, 1, 0, 1]
    """
    of_row = np.unique(ranks, return_inverse=True)[1]
    n_groups, n_strata = int(of_row.max(initial=-1)) + 1, int(codes.max(initial=0)) + 1
    sizes = np.bincount(of_row, minlength=n_groups)
    # In 32 bits throughout: of many labels this is the largest part of drawing folds; see `spreading_bytes`.
    members = of_row.astype(np.int32)[rows], codes.astype(np.int32, copy=False)
    counts = coo_array((np.ones(len(rows), np.int32), members), (n_groups, n_strata)).tocsr()
    del members
    by_stratum = counts.tocsc()
    place = np.full(n_groups, -1, dtype=np.int64)
    if known is not None:
        place[of_row[known >= 0]] = known[known >= 0]
    share = np.asarray(shares, dtype=np.float64)
    left = np.asarray(counts.sum(axis=0))
    lacks, lacks_rows = np.outer(share, left), share * len(ranks)

    def put(group: int, where: int) -> None:
        own = slice(counts.indptr[group], counts.indptr[group + 1])
        strata, members = counts.indices[own], counts.data[own]
        lacks[where, strata] -= members
        lacks_rows[where] -= sizes[group]
        left[strata] -= members

    for group in np.flatnonzero(place >= 0).tolist():
        put(group, place[group])
    while left.any():
        stratum = int(np.where(left > 0, left, np.iinfo(np.int64).max).argmin())
        own = slice(by_stratum.indptr[stratum], by_stratum.indptr[stratum + 1])
        groups, members = by_stratum.indices[own], by_stratum.data[own]
        for group in groups[np.lexsort((groups, -members))].tolist():
            if place[group] >= 0:
                continue
            # Rounded, so that shares that differ in their last bits are ties on every machine.
            wants, wants_rows = np.round(lacks[:, stratum], 6), np.round(lacks_rows, 6)
            place[group] = int(np.lexsort((-wants_rows, -wants))[0])
            put(group, place[group])
    return place[of_row]
