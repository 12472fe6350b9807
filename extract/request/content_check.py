"""`ContentCheck`: images are read again and compared with the digests of extraction, without torch."""

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from toptune.errors import UnreadableImageError
from toptune.extract.images.source import ImageSource, read_bytes
from toptune.machine.ahead import ahead
from toptune.store.features.feature_cache import DIGEST_BYTES
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.image_digests import known_digests

logger = logging.getLogger(__name__)

# Images that are read ahead. Each is gone from memory once its digest is taken, so that many may be under
# way.
_AHEAD = 64


class ContentCheck:
    """Reads each image at most once, and compares its bytes with the digests in a store.

    Attributes
    ----------
    n_checked : int
        Images that were compared with a digest.
    """

    def __init__(self, store: FeatureStore, source: ImageSource, *, workers: int) -> None:
        self._store, self._source, self._workers = store, source, workers
        self._digests: dict[int, bytes] = {}
        self._checked: set[int] = set()

    @property
    def n_checked(self) -> int:
        return len(self._checked)

    def changed(
        self, part: str, places: npt.NDArray[np.intp], rows: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.bool_]:
        """Tell which images differ from what was extracted of them.

        Parameters
        ----------
        part : str
            Data set, or part of a data set, that holds the images.
        places : array (m,) of int
            Rows of the images in the part.
        rows : array (m,) of int
            Rows of the same images in the source.

        Returns
        -------
        array (m,) of bool
            Whether an image differs; False also for images that were not extracted yet.
        """
        n_rows = int(places.max()) + 1
        caches = [cache for cache in self._store.caches(dataset=part) if cache.n_rows >= n_rows]
        if not caches:
            return np.zeros(len(rows), dtype=np.bool_)
        digests, known = known_digests(caches, caches[0].n_rows)
        asked = np.flatnonzero(known[places])
        self._read(rows[asked].tolist())
        differs = np.zeros(len(rows), dtype=np.bool_)
        for place in asked.tolist():
            row = int(rows[place])
            self._checked.add(row)
            differs[place] = self._digests[row] != digests[places[place]].tobytes()
        return differs

    def find(
        self, part: str, places: npt.NDArray[np.intp], rows: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.intp]:
        """Find images by their bytes among rows of a part.

        Parameters
        ----------
        part : str
            Data set, or part of a data set.
        places : array (m,) of int
            Rows of the part that are searched.
        rows : array (k,) of int
            Rows of the source.

        Returns
        -------
        array (k,) of int
            The row of the part with the same bytes, -1 where no row is known to have the bytes.
        """
        found = np.full(len(rows), -1, dtype=np.intp)
        n_rows = int(places.max()) + 1
        caches = [cache for cache in self._store.caches(dataset=part) if cache.n_rows >= n_rows]
        if caches:
            digests, known = known_digests(caches, caches[0].n_rows)
            place_of = {digests[place].tobytes(): place for place in places[known[places]].tolist()}
            place_of.pop(bytes(DIGEST_BYTES), None)  # images that could not be read have no bytes
            self._read(rows.tolist())
            found[:] = [place_of.get(self._digests[row], -1) for row in rows.tolist()]
        return found

    def _read(self, rows: Sequence[int]) -> None:
        """Read images in threads, a few ahead of the one whose digest is noted."""
        wanted = [row for row in rows if row not in self._digests]
        with ThreadPoolExecutor(self._workers, thread_name_prefix="toptune-read") as pool:
            for row, digest in ahead(wanted, lambda row: pool.submit(self._digest, row), _AHEAD):
                self._digests[row] = digest.result()

    def _digest(self, row: int) -> bytes:
        try:
            return hashlib.sha256(read_bytes(self._source, row)).digest()
        except UnreadableImageError:
            return bytes(DIGEST_BYTES)  # extraction stores zeros for such images
