"""What files say of their samples, depth and range, and how samples of any depth become 8 bits."""

import io
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from toptune.errors import UnreadableImageError
from toptune.extract.images.kinds.tiff_tags import Tiff
from toptune.text import counted

# A used range of this share of the declared one, or less, is told.
NARROW = 16
_FULL16 = 2**16 - 1
_FULL32 = 2**32 - 1
_SOC_SIZ = b"\xff\x4f\xff\x51"
# Frames of JPEG that Pillow's libjpeg decodes: baseline, extended, progressive, lossless, and arithmetic.
_LOSSLESS, _JPEG_LS = 0xC3, 0xF7
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA)


@dataclass(frozen=True)
class Samples:
    """What a file says of its samples.

    Attributes
    ----------
    bits : int or None
        Bits of a sample; None where a palette says the colors, or a pixel is black or white.
    significant : int, optional
        Bits that hold information, where a PNG says so in its chunk ``sBIT``.
    is_white_zero : bool
        Whether 0 is white, and Pillow does not know.
    are_differences : bool
        Whether each sample is the difference to the one before, and Pillow does not know.
    """

    bits: int | None
    significant: int | None = None
    is_white_zero: bool = False
    are_differences: bool = False


def declared(image: ImageFile.ImageFile, data: bytes, tiff: Tiff | None, *, is_white_zero: bool) -> Samples:
    """Find out what a file says of its samples.

    Parameters
    ----------
    image : ImageFile
        The opened image.
    data : bytes
        The bytes of the file.
    tiff : Tiff, optional
        The tags, if the file is a TIFF.
    is_white_zero : bool
        Whether 0 is white, and Pillow was told otherwise.
    """
    if image.mode in ("1", "P", "PA"):
        return Samples(None)
    if image.format == "PNG":
        return Samples(data[24], _significant_bits(data) if data[24] == 16 else None)
    if tiff is not None:
        return Samples(tiff.bits, is_white_zero=is_white_zero, are_differences=tiff.has_plain_differences)
    if image.format == "JPEG2000":
        at = data.find(_SOC_SIZ)
        return Samples((data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 8)
    return Samples(16 if image.mode.startswith("I") else 8)


def _significant_bits(png: bytes) -> int | None:
    """Return the largest number of significant bits that a PNG states, None if it states none."""
    at = 8
    while at + 8 <= len(png):
        n_bytes, kind = struct.unpack_from(">I4s", png, at)
        if kind == b"sBIT":
            return max(png[at + 8 : at + 8 + min(n_bytes, 3)], default=None)
        if kind == b"IDAT":
            return None
        at += 12 + n_bytes
    return None


def jpeg_frame(data: bytes) -> tuple[int, int, int] | None:
    """Return marker, bits of a sample and number of colors of a JPEG's frame; None where there is none."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, n_bytes = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _JPEG_LS or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return marker, data[at + 4], data[at + 9]
        at += 2 + (n_bytes if marker != 0xFF else -1)
    return None


def jpeg_problem(data: bytes) -> str | None:
    """Say which feature of a JPEG is not supported, None if its frame is one that Pillow decodes."""
    frame = jpeg_frame(data)
    if frame is None:
        return None
    marker, bits, n_colors = frame
    if marker == _JPEG_LS:
        return "a JPEG-LS image"
    if marker in _JPEG_FRAMES and bits == 8 and n_colors in (1, 3, 4):
        return None
    kind = "" if marker in _JPEG_FRAMES else ", hierarchical"
    return f"a JPEG of {counted(n_colors, 'sample')} of {bits} bits{kind}"


def may_be_scaled(data: bytes) -> bool:
    """Return whether libjpeg can decode a JPEG at a fraction of its size.

    It cannot scale lossless frames: some versions of Pillow then write beyond the image that they made.
    """
    frame = jpeg_frame(data)
    return frame is not None and frame[0] in _JPEG_FRAMES and frame[0] != _LOSSLESS


def gray(image: Image.Image, samples: Samples) -> tuple[Image.Image, bool]:
    """Turn gray samples of more than 8 bits into 8 bits; say also whether they use little of their range.

    Raises
    ------
    UnreadableImageError
        If the samples have no agreed range.
    """
    values = np.asarray(image)
    if values.dtype == np.int32:
        if image.format == "TIFF" and samples.bits == 32:
            return _gray32(values, samples)
        values = _of_integers(values, image.format)
    # Pillow scales JPEG 2000 and PGM of any depth to 16 bits, and TIFF of 12 bits not.
    white = 2**12 - 1 if image.format == "TIFF" and samples.bits == 12 else _FULL16
    if samples.are_differences:
        values = np.cumsum(values, axis=1, dtype=np.uint16) & np.uint16(white)
    low, high = int(values.min()), int(values.max())
    b = samples.significant
    if b is not None and is_right_aligned(values, high, b):
        white = 2**b - 1
    return _image(_scaled(values, white), samples), 0 < (high - low) * NARROW <= white


def _gray32(values: npt.NDArray[np.int32], samples: Samples) -> tuple[Image.Image, bool]:
    """Do as `gray` with unsigned numbers of 32 bits, which Pillow reads as signed ones."""
    unsigned = values.view(np.uint32)
    span = int(unsigned.max()) - int(unsigned.min())
    # 8 bits are made of the high half.
    found = _scaled((unsigned >> 16).astype(np.uint16), _FULL16)
    return _image(found, samples), 0 < span * NARROW <= _FULL32


def _image(values: npt.NDArray[np.uint8], samples: Samples) -> Image.Image:
    if samples.is_white_zero:
        np.subtract(255, values, out=values)
    return Image.fromarray(values)


def _of_integers(values: npt.NDArray[np.int32], form: str | None) -> npt.NDArray[np.uint16]:
    """Return the values of Pillow's 32-bit mode as 16 bits."""
    if form in ("PPM", "PNG"):
        return values.astype(np.uint16)
    raise UnreadableImageError(
        f"not supported: 32-bit pixels of {form} have no agreed range; save it with 8 or 16 bits, unsigned"
    )


def is_right_aligned(values: npt.NDArray[np.uint16], high: int, significant: int) -> bool:
    """Return whether samples that are said to have fewer bits lie in the lowest bits, against the standard.

    PNG (third edition, 11.3.2.4) scales samples to the full range: of a dark image the bits below the
    significant ones are then 0, or 1 by rounding. Many writers only state the bits and do not scale.
    """
    if not 0 < significant < 16 or high >= 2**significant:
        return False
    return bool((values & np.uint16(2 ** (16 - significant) - 1) > 1).any())


def _scaled(values: npt.NDArray[np.uint16], white: int) -> npt.NDArray[np.uint8]:
    """Scale 16-bit values so that `white` becomes 255, rounded."""
    # A table takes one byte a pixel; arithmetic on wider numbers would take 24.
    every = np.arange(2**16, dtype=np.uint64)
    table = np.minimum((every * 255 + white // 2) // white, 255).astype(np.uint8)
    return table[values]


def color_of_low_bits(image: Image.Image, data: bytes, samples: Samples) -> Image.Image | None:
    """Decode the colors of a 16-bit PNG that states fewer bits and holds them in the lowest ones.

    Parameters
    ----------
    image : Image
        What Pillow decodes: the high byte of each sample.
    data : bytes
        The bytes of the file.
    samples : Samples
        What the file says of its samples.

    Returns
    -------
    Image or None
        The image, RGB; None where Pillow's is right.
    """
    b = samples.significant
    if image.format != "PNG" or image.mode not in ("RGB", "RGBA") or b is None or not 8 <= b < 16:
        return None
    high = np.asarray(image)[..., :3]
    if high.max() >= 2 ** (b - 8):
        return None
    # Pillow has no 16-bit colors, but either byte of each sample can be asked for.
    with Image.open(io.BytesIO(data), formats=("PNG",)) as again:
        again.tile = [tile._replace(args=str(tile.args).replace("16B", "16L")) for tile in again.tile]
        low = np.asarray(again)[..., :3]
    values = (high.astype(np.uint16) << 8) | low
    if not is_right_aligned(values, int(values.max()), b):
        return None
    return Image.fromarray(_scaled(values, 2**b - 1))


def narrow_at_8_bits(image: Image.Image) -> bool:
    """Return whether an RGB image has only values below a sixteenth of 256, and is not all black."""
    # Only the upper end counts here: photographs of snow or empty slides use a small part of 8 bits, too.
    highest = max(int(high) for _, high in image.getextrema())  # type: ignore[misc]
    return 0 < highest < 256 // NARROW
