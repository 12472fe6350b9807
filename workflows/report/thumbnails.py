"""Thumbnails of images by id, small enough to be a part of a page."""

import base64
import io
import os

from PIL import Image

from toptune.errors import InputError, UnreadableImageError
from toptune.extract.images.decode import decode_image
from toptune.extract.images.source import read_bytes
from toptune.extract.sources.opening import open_source

_EDGE_PIXELS = 112
_JPEG_QUALITY = 78


class Thumbnails:
    """Images of a data set by id, made small.

    Parameters
    ----------
    data : path or str
        Place of the images; see `toptune.extract.open_source`.

    Raises
    ------
    InputError
        If `data` cannot be opened.
    """

    def __init__(self, data: str | os.PathLike[str]) -> None:
        self.data = data
        self._source = open_source(data)
        self._rows = {identity: row for row, identity in enumerate(self._source.manifest().ids)}

    def check_known(self, identity: str, dataset: str) -> None:
        """Refuse a source that lacks an image that a run tested.

        Raises
        ------
        InputError
            If no image has the id.
        """
        if identity not in self._rows:
            raise InputError(
                f"{os.fspath(self.data)} has no image {identity!r}, which a run on {dataset!r} tested; "
                f"give the images that were extracted: --data {dataset}=PATH"
            )

    def read(self, identity: str) -> tuple[str | None, str | None]:
        """Return an image as a data URI of a JPEG of at most 112 pixels, or None and the reason."""
        if identity not in self._rows:
            return None, "no longer among the images"
        try:
            # JPEG images are decoded at a reduced size, which takes a fraction of the time.
            data = read_bytes(self._source, self._rows[identity])
            image = decode_image(data, draft_edge=_EDGE_PIXELS)
        except UnreadableImageError as error:
            return None, str(error)
        image.thumbnail((_EDGE_PIXELS, _EDGE_PIXELS), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=_JPEG_QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}", None
