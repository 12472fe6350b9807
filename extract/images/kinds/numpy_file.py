"""``.npy``: an array of NumPy is one image, ``(height, width)`` or ``(height, width, bands)``."""

import io
import math

import numpy as np

from toptune.errors import UnreadableImageError
from toptune.extract.images.kinds.values import Before, Values, checked_shape, range_of

MAGIC = b"\x93NUMPY"
_WHAT = "an array of NumPy"


def read(data: bytes, before: Before) -> Values:
    """Read the array of an ``.npy`` file; Python objects are refused, because they would have to run code.

    Raises
    ------
    UnreadableImageError
        If the array is none of an image, or the file is damaged.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = header(file)
        if dtype.hasobject:
            raise UnreadableImageError(f"not supported: {_WHAT} with Python objects; save it as numbers")
        height, width, bands = checked_shape(shape, dtype, _WHAT)
        before(width, height, math.prod(shape) * dtype.itemsize)
        file.seek(0)
        pixels = np.lib.format.read_array(file, allow_pickle=False)
    except UnreadableImageError:
        raise
    except Exception as error:
        raise UnreadableImageError(
            f"damaged: {str(error).splitlines()[0] or type(error).__name__}"
        ) from error
    pixels = pixels.reshape(height, width, bands)
    # White is the largest of unsigned numbers, as in files of images; other types say nothing.
    is_said = dtype.kind == "u"
    return Values(
        pixels,
        f"{_WHAT} of shape {shape}",
        declared=range_of(dtype) if is_said else None,
        bits=8 * dtype.itemsize if is_said else None,
    )
