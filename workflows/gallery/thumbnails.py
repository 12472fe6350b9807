"""Thumbnails of images by id, small enough to be a part of a page."""

import base64
import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from toptune.errors import InputError, UnreadableImageError
from toptune.extract.images.source import ImageSource, read_bytes
from toptune.extract.images.view import View
from toptune.extract.sources.opening import open_source
from toptune.machine.ahead import ahead
from toptune.machine.cores import reading_threads

_EDGE_PIXELS = 112
_JPEG_QUALITY = 78


class Thumbnails:
    """Images of a data set by id, made small.

    Parameters
    ----------
    data : path, str or ImageSource
        Place of the images; see `toptune.extract.open_source`.

    Raises
    ------
    InputError
        If `data` cannot be opened.
    """

    def __init__(self, data: str | os.PathLike[str] | ImageSource) -> None:
        self.data = data
        self._source = open_source(data)
        self._rows = {identity: row for row, identity in enumerate(self._source.manifest().ids)}

    def __contains__(self, identity: object) -> bool:
        """Whether an image of the source has the id."""
        return identity in self._rows

    def check_known(self, identity: str, dataset: str) -> None:
        """Refuse a source that lacks an image that a run tested.

        Raises
        ------
        InputError
            If no image has the id.
        """
        if identity not in self._rows:
            raise InputError(
                f"{self.data!s} has no image {identity!r}, which a run on {dataset!r} tested; "
                f"give the images that were extracted: --data {dataset}=PATH"
            )

    def jpeg(self, identity: str) -> tuple[bytes | None, str | None]:
        """Return an image as a JPEG of at most 112 pixels an edge, or None and the reason."""
        if identity not in self._rows:
            return None, "no longer among the images"
        try:
            data = read_bytes(self._source, self._rows[identity])
        except UnreadableImageError as error:
            return None, str(error)
        return jpeg_of(data)

    def jpegs(self, identities: Iterable[str]) -> Iterator[tuple[bytes | None, str | None]]:
        """Yield what `jpeg` returns for each id, in order; several threads decode some images ahead."""
        threads = reading_threads()
        with ThreadPoolExecutor(threads, thread_name_prefix="toptune-read") as pool:
            for _, future in ahead(
                identities, lambda identity: pool.submit(self.jpeg, identity), 2 * threads
            ):
                yield future.result()

    def read(self, identity: str) -> tuple[str | None, str | None]:
        """Return an image as a data URI of a JPEG of at most 112 pixels, or None and the reason."""
        data, reason = self.jpeg(identity)
        return None if data is None else data_uri(data), reason


def jpeg_of(data: bytes) -> tuple[bytes | None, str | None]:
    """Return an encoded image as a JPEG of at most 112 pixels an edge, or None and the reason."""
    try:
        # JPEG images are decoded at a reduced size, which takes a fraction of the time.
        image = View.of(data, edge=_EDGE_PIXELS).image
    except UnreadableImageError as error:
        return None, str(error)
    image.thumbnail((_EDGE_PIXELS, _EDGE_PIXELS), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue(), None


def data_uri(jpeg: bytes) -> str:
    """Return the bytes of a JPEG as an address that holds them."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
