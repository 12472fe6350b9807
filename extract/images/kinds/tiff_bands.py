"""TIFF of any depth and any number of bands, GeoTIFF among them, by tifffile."""

import io
import logging
import math
from typing import Any

import numpy as np

from toptune.errors import UnreadableImageError
from toptune.extract.images.kinds.values import Before, Values, checked_shape, library, range_of

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHAT = "a TIFF"
# The axes of tifffile that are bands, the first that there is: samples, channels, and pages of which the file
# says nothing.
_BANDS = "SCQI"
# What people call the axes that are not bands of an image.
_AXES = {"Z": "planes of depth", "T": "times", "C": "channels", "Q": "pages", "I": "pages"}
# TIFF 6.0, section 8, Orientation, which EXIF has taken over.
_ORIENTATION = 274
_WHITE_IS_ZERO, _PALETTE = 0, 3
_ALPHA = (1, 2)


def read(data: bytes, before: Before) -> Values:
    """Read the first image of a TIFF: all of its bands, as samples of a pixel, in planes or in pages.

    Raises
    ------
    UnreadableImageError
        If tifffile is not installed, the file is damaged, compressed otherwise than can be read, or has a
        further axis, such as depth or time.
    """
    tifffile = library("tifffile", extra="toptune[tiff]", what="a TIFF with --bands, --scale or --in-chans")
    # It logs what it finds odd in a file, and reads the file all the same.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            return _first(file, before)
    except UnreadableImageError:
        raise
    except Exception as error:  # a damaged file may make tifffile raise anything
        reason = str(error).splitlines()[0].strip("\"'") if str(error) else type(error).__name__
        if "imagecodecs" in reason:
            raise UnreadableImageError(
                f"not supported: {reason}; pip install 'toptune[tiff]' installs it, or save the file "
                "without compression or with deflate"
            ) from error
        raise UnreadableImageError(f"damaged: {reason}") from error


def _first(file: Any, before: Before) -> Values:
    series = file.series[0]
    page = series.keyframe
    axes = series.axes
    # An axis of one is none: a page of RGB in a file that counts its pages.
    lengths = dict(zip(axes, series.shape, strict=True))
    place = next((axis for axis in _BANDS if lengths.get(axis, 1) > 1), None)
    others = [
        f"{n} {_AXES.get(axis, f'along {axis}')}"
        for axis, n in zip(axes, series.shape, strict=True)
        if axis not in ("Y", "X", place) and n > 1
    ]
    if others or "Y" not in axes or "X" not in axes:
        raise UnreadableImageError(
            f"not supported: {_WHAT} of {' and '.join(others) or 'no two sides'} (axes {axes} of "
            f"{' x '.join(map(str, series.shape))}), and a row is one image; save each image as a file"
        )
    if int(page.photometric) == _PALETTE:
        raise UnreadableImageError(
            f"not supported: {_WHAT} with a palette has no bands; leave --bands, --scale and --in-chans out"
        )
    shape = (lengths["Y"], lengths["X"], lengths[place] if place else 1)
    height, width, bands = checked_shape(shape, series.dtype, _WHAT)
    before(width, height, math.prod(series.shape) * series.dtype.itemsize)
    pixels = series.asarray()
    wanted = ["Y", "X", *([place] if place else [])]
    kept = [axis for axis in axes if axis in wanted]
    pixels = pixels.reshape([lengths[axis] for axis in kept])
    pixels = np.transpose(pixels, [kept.index(axis) for axis in wanted]).reshape(height, width, bands)
    extra = tuple(int(each) for each in page.extrasamples)
    return Values(
        pixels,
        _WHAT,
        has_alpha=place == "S" and len(extra) == 1 and extra[0] in _ALPHA,
        declared=_declared(page, series.dtype),
        bits=int(page.bitspersample) if series.dtype.kind == "u" else None,
        is_inverted=int(page.photometric) == _WHITE_IS_ZERO,
        orientation=_orientation(page),
    )


def _orientation(page: Any) -> int:
    """Return how the image lies in its file; what is no number is taken for upright, as Pillow takes it."""
    tag = page.tags.get(_ORIENTATION)
    return tag.value if tag is not None and isinstance(tag.value, int) else 1


def _declared(page: Any, dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """Return black and white of unsigned samples, by the bits that the file declares."""
    if dtype.kind != "u":
        return range_of(dtype) if dtype.kind == "b" else None
    return 0.0, float(2 ** int(page.bitspersample) - 1)
