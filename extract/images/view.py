"""Images as people look at them, in thumbnails and findings: what declares no range is stretched."""

import io
from dataclasses import dataclass

from PIL import Image

from toptune.errors import UnreadableImageError
from toptune.extract.images.decode import Decoding, decode_image, decoding
from toptune.extract.images.formats import readable
from toptune.extract.images.kinds.boxes import unwrapped
from toptune.extract.images.kinds.opening import has_mark
from toptune.extract.images.kinds.quiet import quiet
from toptune.extract.images.kinds.reading import Reading
from toptune.extract.images.kinds.tiff_bands import MAGICS

# Tried in this order: colors, the first three bands of more, the first band of two.
_STRETCHED = (
    Reading(scale="percentile"),
    Reading((1, 2, 3), "percentile"),
    Reading((1,), "percentile"),
)


@dataclass(frozen=True)
class View:
    """An image to look at.

    Attributes
    ----------
    image : Image
        RGB, perhaps at a fraction of its size.
    size : (int, int)
        Width and height of the image in pixels, as its file says; of a box, those of the box.
    mode : str
        Pillow's name of the pixels' kind; ``RGB`` where Pillow does not read the file.
    """

    image: Image.Image
    size: tuple[int, int]
    mode: str

    @classmethod
    def of(cls, data: bytes, *, edge: int) -> "View":
        """Decode an image to look at, not for a network.

        Floats, signed numbers and bands beyond three, which networks are given only as the user states, are
        shown between their 1st and 99th percentiles, and by their first three bands.

        Parameters
        ----------
        data : bytes
            The bytes of the image's file, perhaps with a box before them.
        edge : int
            Shorter edge in pixels that is enough.

        Raises
        ------
        UnreadableImageError
            If the image cannot be decoded.
        """
        image = _decoded(data, edge)
        if data == unwrapped(data)[1]:
            try:
                with quiet(), Image.open(io.BytesIO(data), formats=readable()) as header:
                    return cls(image, header.size, header.mode)
            except (OSError, ValueError, SyntaxError):
                pass
        return cls(image, image.size, image.mode)


def _decoded(data: bytes, edge: int) -> Image.Image:
    try:
        return decode_image(data, draft_edge=edge)
    except UnreadableImageError as error:
        content = bytes(unwrapped(data)[1][:256])
        if not (has_mark(content) or content.startswith(MAGICS)):
            raise
        for reading in _STRETCHED:
            try:
                with decoding(data, Decoding(reading=reading)) as found:
                    assert isinstance(found.image, Image.Image), "three channels"
                    return found.image
            except UnreadableImageError:
                continue
        raise error
