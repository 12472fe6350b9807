"""HEIF, as phones write it (HEIC), by pillow-heif; AVIF is Pillow's own."""

import io
from typing import Any

from toptune.errors import UnreadableImageError
from toptune.extract.images.kinds.values import library

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def is_heif(data: bytes) -> bool:
    """Return whether a file is HEIF, and none of the AVIF files that have the same frame."""
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS and b"avif" not in data[16:64]


def open_heif(data: bytes) -> Any:
    """Open the primary image as an image of Pillow: 8 bits, turned upright when it is loaded.

    Raises
    ------
    UnreadableImageError
        If pillow-heif is not installed, or does not open the file.
    """
    reader = library("pillow_heif", extra="toptune[heif]", what="a HEIF image")
    try:
        return reader.HeifImageFile(io.BytesIO(data))
    except Exception as error:
        raise UnreadableImageError(f"damaged: {str(error) or type(error).__name__}") from error
