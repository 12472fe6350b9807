"""The bytes of an image are decoded to upright RGB pixels."""

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from toptune.errors import UnreadableImageError

# The route from bytes to pixels decides numbers, so that its name is part of each recipe. A change of the
# route must change the name.
DECODE = "pillow-rgb-upright-1"
# Name of each route in recipes.
ROUTES = {"exact": DECODE, "draft": "pillow-rgb-upright-draft-1"}
# Pillow refuses more than this by itself, so a higher limit has no effect.
MAX_PIXELS = 178_956_970
ORIENTATION = 0x0112
# EXIF 2.3 §4.6.4 A, tag Orientation: the transposition that brings the image upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, draft_edge: int | None = None) -> Image.Image:
    """Decode an image into upright 8-bit RGB.

    EXIF orientation is honored. 16-bit gray is divided by 257 and rounded, so that 65535 becomes 255.
    Transparency is dropped, as timm does; CMYK, YCbCr, LAB, HSV, palette and 1-bit images are converted; an
    animation gives its first frame. Several threads may decode at once.

    Parameters
    ----------
    data : bytes
        The bytes of the image's file.
    max_pixels : int
        Larger images are refused by what their header says, before anything is decoded.
    draft_edge : int, optional
        Least length of the shorter edge in pixels, down to which a JPEG may be decoded at 1/2, 1/4 or 1/8 of
        its size (libjpeg's scaled inverse transform).

    Raises
    ------
    UnreadableImageError
        If the bytes are no image, are damaged or cut off, or if the image is too large or has floating-point
        pixels.
    """
    if not data:
        raise UnreadableImageError("the file is empty")
    try:
        with _quiet(), Image.open(io.BytesIO(data)) as image:
            # Pillow has read only the header here. A few kilobytes can stand for gigabytes of pixels.
            width, height = image.size
            if width * height > max_pixels:
                raise UnreadableImageError(
                    f"{width} x {height} pixels, more than the limit of {max_pixels}; shrink it, "
                    "or raise --max-pixels and extract again with --overwrite"
                )
            if draft_edge is not None:
                image.draft(None, _at_least(image.size, draft_edge))
            image.load()
            # Cameras store pixels as the sensor lies, and the tag says how to turn them. timm's own loading
            # ignores the tag, and a photograph taken upright would lie on its side.
            return _upright(_to_rgb(image), _orientation(image))
    except (UnreadableImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image in a format that Pillow reads") from error
    except Image.DecompressionBombError as error:
        # Pillow's own check comes before ours: "Image size (200000000 pixels) exceeds ..."
        found = re.search(r"\d+", str(error))
        raise UnreadableImageError(
            f"{found[0] if found else 'too many'} pixels, more than the limit of "
            f"{min(max_pixels, MAX_PIXELS)}; shrink it"
        ) from error
    except Exception as error:  # Pillow's plugins raise almost anything on damaged bytes
        raise UnreadableImageError(f"damaged: {error or type(error).__name__}") from error


def _at_least(size: tuple[int, int], edge: int) -> tuple[int, int]:
    """Return the size of the same shape whose shorter edge is `edge`."""
    short = max(1, min(size))
    return -(-size[0] * edge // short), -(-size[1] * edge // short)


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "RGB":
        return image.copy()
    # Pillow would clip such pixels at 255 without a word.
    if mode == "F":
        raise UnreadableImageError("floating-point pixels have no agreed range; save it with 8 or 16 bits")
    if mode == "I" or mode.startswith("I;16"):
        return _gray16(image).convert("RGB")
    if mode in ("P", "PA"):
        # The way leads through RGBA: a direct conversion loses which palette entries are transparent.
        has_alpha = mode == "PA" or "transparency" in image.info
        return (image.convert("RGBA") if has_alpha else image).convert("RGB")
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        if converted is None:  # only when asked to work in place
            raise UnreadableImageError("LAB pixels could not be converted")
        return converted
    return image.convert("RGB")


def _gray16(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    # Pillow has one mode for 16 and 32 bits in some formats: the values tell.
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnreadableImageError(f"32-bit pixels from {low} to {high} have no agreed range; save 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001  (a damaged EXIF block does not make the pixels unreadable)
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


_quiet_lock = threading.Lock()
_quiet_users = 0
_quiet_filters: "warnings.catch_warnings[None] | None" = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings while any thread decodes.

    Filters of warnings belong to the process. If every thread set and restored the filters, they would be
    restored out of order; instead the first thread that decodes sets the filters, and the last restores them.
    """
    global _quiet_users, _quiet_filters
    with _quiet_lock:
        if _quiet_users == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0 and _quiet_filters is not None:
                _quiet_filters.__exit__(None, None, None)
                _quiet_filters = None
