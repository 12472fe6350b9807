"""`BandImage`: an image of any number of bands of 8 bits, with what readers ask of Pillow's images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from toptune.extract.images.kinds.reading import COLORS

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class BandImage:
    """Bands of one image, each a gray image of Pillow.

    Attributes
    ----------
    bands : tuple of Image
        Images of mode ``L``, all of one size.
    """

    bands: tuple[Image.Image, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.bands[0].size

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.size[0]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.size[1]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the pixels ``(h, w, c)``."""
        return np.stack([np.asarray(band) for band in self.bands], axis=-1).astype(dtype or np.uint8)

    def crop(self, edges: tuple[int, int, int, int]) -> "BandImage":
        """Return the part between left, upper, right and lower edge."""
        return BandImage(tuple(band.crop(edges) for band in self.bands))

    def transpose(self, method: Image.Transpose) -> "BandImage":
        """Return the image mirrored or turned."""
        return BandImage(tuple(band.transpose(method) for band in self.bands))


AnyImage = Image.Image | BandImage


def image_of(pixels: Bytes) -> AnyImage:
    """Return pixels ``(h, w, c)`` as an RGB image of Pillow, or as bands where they are not three."""
    if pixels.shape[2] == COLORS:
        return Image.fromarray(pixels)
    return BandImage(tuple(Image.fromarray(pixels[..., band]) for band in range(pixels.shape[2])))
