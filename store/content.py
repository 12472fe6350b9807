"""Digests of a data set's pictures, as read for extraction: what tells an unchanged picture."""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toptune.store.errors import CorruptError
from toptune.store.feature_cache import CONTENT_ARRAY, FeatureCache

logger = logging.getLogger(__name__)

# Why a row of a part failed whose picture DATA no longer had, when its unit was completed for the others.
GONE = "was no longer among the pictures when its unit was computed"


def gone_rows(caches: Sequence[FeatureCache]) -> list[int]:
    """List the rows that one of the caches of a part left empty because their pictures were gone."""
    found: set[int] = set()
    for cache in caches:
        found |= {row for row, reason in cache.failed_rows().items() if reason == GONE}
    return sorted(found)


def known_digests(
    caches: Sequence[FeatureCache], n_rows: int, *, needed: FeatureCache | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Collect the digests that the caches of one data set, or of one part, have of its pictures.

    Parameters
    ----------
    caches : sequence of FeatureCache
        What the first ones say counts.
    n_rows : int
        Of the data set or part.
    needed : FeatureCache, optional
        The one whose damage is an error; others that are damaged are left out.

    Returns
    -------
    digests : array (n, 32) of uint8
        Zeros where not known, or where the picture could not be read at all.
    known : array (n,) of bool
        Rows whose picture was looked at.
    """
    digests, known = np.zeros((n_rows, 32), dtype=np.uint8), np.zeros(n_rows, dtype=np.bool_)
    for cache in caches:
        try:
            theirs, they_know = cache.content_digests()
            absent = cache.failed_rows([CONTENT_ARRAY]) if they_know.any() else {}
        except CorruptError as error:
            if cache is needed:
                raise
            logger.warning("digests of %s are left out: %s", cache.name, error)
            continue
        they_know[[row for row, reason in absent.items() if reason == GONE]] = False
        new = they_know & ~known
        digests[new] = theirs[new]
        known |= new
    return digests, known
