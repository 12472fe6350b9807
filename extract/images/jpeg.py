"""Plain JPEGs, which the decoders of GPUs take, are told from all other files by their headers."""

import io
from dataclasses import dataclass

from PIL import Image

from toptune.extract.images.decode import MAX_PIXELS, TURNED, Size, orientation_of
from toptune.extract.images.kinds.quiet import quiet
from toptune.extract.images.samples import jpeg_frame

# Frames that nvJPEG decodes: baseline and progressive.
_FRAMES = (0xC0, 0xC2)
_SCAN, _END = 0xDA, b"\xff\xd9"
# Numbers of the components of a JPEG that holds RGB, where no other mark tells the colors.
_RGB = tuple(b"RGB")


@dataclass(frozen=True)
class PlainJpeg:
    """A JPEG of 8 bits, gray or YCbCr, that seems whole; made by `plain_jpeg`.

    Attributes
    ----------
    data : bytes
        The bytes of the file.
    size : tuple of int
        Width and height of the upright image in pixels.
    orientation : int
        The EXIF tag, which says how the pixels are to be turned; see `UPRIGHT`.
    """

    data: bytes
    size: Size
    orientation: int

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.size[0] * self.size[1]


def plain_jpeg(data: bytes, *, max_pixels: int = MAX_PIXELS) -> PlainJpeg | None:
    """Return what the header of a plain JPEG says; None for any other file.

    Every file whose decoding could fail, or whose samples or colors are not the usual ones, counts as other:
    `decode_image` decodes it or says why it cannot.

    Parameters
    ----------
    data : bytes
        The bytes of the image's file.
    max_pixels : int
        Larger images count as other.
    """
    frame = jpeg_frame(data)
    if frame is None or frame[0] not in _FRAMES or frame[1] != 8 or frame[2] not in (1, 3):
        return None
    if not _is_whole(data):
        return None
    try:
        with quiet(), Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            orientation, (width, height) = orientation_of(image), image.size
            if width * height > min(max_pixels, MAX_PIXELS) or _holds_rgb(image):
                return None
    except Exception:  # noqa: BLE001  (Pillow's plugins raise almost anything; decoding will tell what is wrong)
        return None
    size = (height, width) if orientation in TURNED else (width, height)
    return PlainJpeg(data, size, orientation)


def _is_whole(data: bytes) -> bool:
    """Return whether the scans end with the mark of the end.

    GPU decoders may give undefined pixels for what a truncated file lacks, without an error.
    """
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _SCAN:
            # Within a scan 0xFF is followed by 0 or by the number of a restart, so that nothing else there
            # looks like the mark. Thumbnails, which have marks of their own, come before.
            return data.find(_END, at) >= 0
        at += 2 + (int.from_bytes(data[at + 2 : at + 4], "big") if marker != 0xFF else -1)
    return False


def _holds_rgb(image: Image.Image) -> bool:
    """Return whether the components are red, green and blue, by the rules of libjpeg (jdapimin.c)."""
    if "jfif" in image.info:
        return False
    if "adobe_transform" in image.info:
        return bool(image.info["adobe_transform"] == 0) and image.mode == "RGB"
    return tuple(component[0] for component in getattr(image, "layer", ())) == _RGB
