"""Digests of the images as they were read for extraction, by which an unchanged image is recognized."""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError
from toptune.store.features.feature_cache import CONTENT_ARRAY, DIGEST_BYTES, FeatureCache

logger = logging.getLogger(__name__)

# The reason of a failed row whose image DATA had lost when the unit was completed for the sake of other rows.
GONE = "was no longer among the images when its unit was computed"


def gone_rows(caches: Sequence[FeatureCache]) -> list[int]:
    """List the rows that one of the caches of a part left empty because their images were gone."""
    found: set[int] = set()
    for cache in caches:
        found |= {row for row, reason in cache.failed_rows().items() if reason == GONE}
    return sorted(found)


def known_digests(
    caches: Sequence[FeatureCache], n_rows: int, *, needed: FeatureCache | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Collect the digests of images from the caches of one data set or one part.

    Parameters
    ----------
    caches : sequence of FeatureCache
        Caches over the same rows; where several know a digest, the first one counts.
    n_rows : int
        Rows of the data set or part.
    needed : FeatureCache, optional
        The cache whose damage is an error; other damaged caches are left out.

    Returns
    -------
    digests : array (n, 32) of uint8
        Zeros where not known, or where the image could not be read at all.
    known : array (n,) of bool
        Rows whose image was looked at.
    """
    digests, known = np.zeros((n_rows, DIGEST_BYTES), dtype=np.uint8), np.zeros(n_rows, dtype=np.bool_)
    for cache in caches:
        try:
            theirs, they_know = cache.content_digests()
            absent = cache.failed_rows([CONTENT_ARRAY]) if they_know.any() else {}
        except CorruptError as error:
            # Damage in another cache only costs time: the images are read again.
            if cache is needed:
                raise
            logger.warning("digests of %s are left out: %s [TT205]", cache.name, error)
            continue
        # Zeros of an image that was gone are no digest; the image was never looked at.
        they_know[[row for row, reason in absent.items() if reason == GONE]] = False
        new = they_know & ~known
        digests[new] = theirs[new]
        known |= new
    return digests, known


class KnownDigests:
    """The digests of `known_digests`, read when they are asked for; at most one unit of each cache is held.

    Parameters
    ----------
    caches : sequence of FeatureCache
        Caches over the same rows; where several know a digest, the first one counts.
    needed : FeatureCache, optional
        The cache whose damage is an error; other damaged caches are left out.
    """

    def __init__(self, caches: Sequence[FeatureCache], *, needed: FeatureCache | None = None) -> None:
        self._caches, self._needed = list(caches), needed
        # cache -> (unit that was read last, digests of its rows, which of these rows are known).
        self._last: dict[int, tuple[int, npt.NDArray[np.uint8], npt.NDArray[np.bool_]]] = {}

    def of(self, rows: slice) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Return digests ``(b, 32)`` of consecutive rows, and which of them are known ``(b,)``."""
        n = rows.stop - rows.start
        digests, known = np.zeros((n, DIGEST_BYTES), dtype=np.uint8), np.zeros(n, dtype=np.bool_)
        for number, cache in enumerate(self._caches):
            for unit in range(rows.start // cache.unit_rows, -(-rows.stop // cache.unit_rows)):
                if known.all():
                    return digests, known
                span = cache.unit_slice(unit)
                start, stop = max(rows.start, span.start), min(rows.stop, span.stop)
                here, there = (slice(start - each, stop - each) for each in (rows.start, span.start))
                theirs, they_know = self._unit(number, unit)
                new = they_know[there] & ~known[here]
                digests[here][new] = theirs[there][new]
                known[here] |= new
        return digests, known

    def _unit(self, number: int, unit: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        if number not in self._last or self._last[number][0] != unit:
            self._last[number] = (unit, *self._read(self._caches[number], unit))
        return self._last[number][1:]

    def _read(self, cache: FeatureCache, unit: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        span = cache.unit_slice(unit)
        n = span.stop - span.start
        try:
            digests = cache.unit_digests(unit)
        except CorruptError as error:
            if cache is self._needed:
                raise
            logger.warning("digests of %s are left out: %s [TT205]", cache.name, error)
            digests = None
        if digests is None:
            return np.zeros((n, DIGEST_BYTES), dtype=np.uint8), np.zeros(n, dtype=np.bool_)
        known = np.ones(n, dtype=np.bool_)
        absent = cache.failed_rows([CONTENT_ARRAY], units=[unit])
        known[[row - span.start for row, reason in absent.items() if reason == GONE]] = False
        return digests, known
