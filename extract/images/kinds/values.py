"""`Values`: the numbers of an image as the library of its kind gives them, before they are scaled."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import UnreadableImageError

# Bytes of all bands of an image; a network sees a few hundred thousand pixels.
MOST_BYTES = 2**31
# Called with width, height and bytes of an image before it is decoded; refuses what is too large.
Before = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Values:
    """An image in the numbers of its file.

    Attributes
    ----------
    pixels : array (h, w, c)
        Integers or floats.
    what : str
        Kind of the file, for messages: ``a DICOM file``.
    has_alpha : bool
        Whether the last band is transparency.
    declared : (float, float), optional
        The values that the file itself says to be black and white; None where nothing is said.
    bits : int, optional
        Bits of a sample where the file declares a depth.
    is_inverted : bool
        Whether the lowest value is white.
    type_range : (float, float), optional
        The least and the largest value that the file can hold, where these are not those of the type of
        `pixels`.
    orientation : int
        How the image lies in its file, as EXIF's tag says it; 1 is upright.
    """

    pixels: npt.NDArray[Any]
    what: str
    has_alpha: bool = False
    declared: tuple[float, float] | None = None
    bits: int | None = None
    is_inverted: bool = False
    type_range: tuple[float, float] | None = None
    orientation: int = 1

    @property
    def n_bands(self) -> int:
        """Number of bands, transparency included."""
        return int(self.pixels.shape[2])


def range_of(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the least and largest value of a type of integers, and 0 and 1 for floats and truth values."""
    if dtype.kind not in "iu":
        return 0.0, 1.0
    return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)


def library(name: str, *, extra: str, what: str) -> Any:
    """Import the library that reads a kind of images.

    Raises
    ------
    UnreadableImageError
        If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnreadableImageError(
            f"not supported: {what} is read by {name.partition('.')[0]}, which is not installed; "
            f"pip install '{extra}'"
        ) from error


def checked_shape(shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> tuple[int, int, int]:
    """Return height, width and number of bands of an array of an image.

    Raises
    ------
    UnreadableImageError
        If the array is none of an image, or holds no numbers.
    """
    if len(shape) not in (2, 3) or 0 in shape:
        raise UnreadableImageError(
            f"not supported: {what} of shape {shape}; an image is (height, width) or (height, width, bands)"
        )
    if dtype.kind not in "iufb":
        raise UnreadableImageError(f"not supported: {what} of {dtype}; an image has whole or real numbers")
    return shape[0], shape[1], 1 if len(shape) == 2 else shape[2]
