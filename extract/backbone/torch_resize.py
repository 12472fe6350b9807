"""Images are resized by torch, several times as fast as by Pillow and to nearly the same pixels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from toptune.extract.images.kinds.band_image import AnyImage

# The filters that torch has for bytes. With antialias they are Pillow's filters.
_MODES = {InterpolationMode.BILINEAR: "bilinear", InterpolationMode.BICUBIC: "bicubic"}
# The kernel of CUDA holds the weights of a pixel's row or column in shared memory, 48 KiB of which are enough
# up to a factor of 90 for bicubic interpolation.
_MOST_SHRUNK = 64


class TorchResize:
    """The steps ``Resize`` and ``CenterCrop`` of timm's evaluation transform, with torch's resize of bytes.

    torch adds up filter weights of 16 bits in whole numbers, first along rows and then along columns, so
    that the result depends neither on the processor nor on the number of threads. Pixels of photographs
    differ from Pillow's by 1 of 255 in less than 1 % of the values, rarely by 2. Pillow 13 resizes some
    images along columns first, such as those of more than twice their width in height: there edges from black
    to white differ by more.

    Parameters
    ----------
    steps : sequence
        The steps; see `can_resize`.
    """

    def __init__(self, steps: Sequence[Any]) -> None:
        resize, self._crop = steps
        self._wanted, self._mode = resize.size, _MODES[resize.interpolation]

    def __call__(self, image: AnyImage) -> npt.NDArray[np.uint8]:
        """Resize and crop an image to ``(h, w, c)`` bytes."""
        # This layout, with strides that say so, is the one that torch resizes without copies.
        pixels = torch.from_numpy(np.array(image)).unsqueeze(0).permute(0, 3, 1, 2)
        size = self._size(image.height, image.width)
        if size != (image.height, image.width):
            pixels = interpolate(pixels, size, mode=self._mode, antialias=True)
        return np.ascontiguousarray(self._crop(pixels)[0].permute(1, 2, 0).numpy())

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that torchvision's ``Resize`` gives an image."""
        if not isinstance(self._wanted, int):
            return self._wanted[0], self._wanted[1]
        long = int(self._wanted * max(height, width) / min(height, width))
        return (self._wanted, long) if height <= width else (long, self._wanted)


class FloatResize(TorchResize):
    """The same steps in float32, on any device.

    torch resizes bytes with antialias on the CPU alone. Here, too, values are rounded to whole numbers and
    cut at black and white after the rows and again after the columns: with one rounding at the end, a tenth
    of the pixels would differ, and those at sharp edges by more than 1. An edge that shrinks to less than
    1/64 is first averaged over whole numbers of pixels, because the kernels of CUDA end there.
    """

    def __call__(self, image: AnyImage) -> npt.NDArray[np.uint8]:
        """Resize and crop an image to ``(h, w, c)`` bytes."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        found: npt.NDArray[np.uint8] = self.resized(pixels).numpy()
        return found

    def resized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Resize and crop bytes ``(3, h, w)`` to bytes ``(h, w, 3)`` on the same device."""
        height, width = pixels.shape[1:]
        size = self._size(height, width)
        values = pixels[None]
        if size != (height, width):
            values = values.float()
            fewer = (_shrunk(height, size[0]), _shrunk(width, size[1]))
            if fewer != (height, width):
                values = interpolate(values, fewer, mode="area")
            for shape in ((fewer[0], size[1]), size):
                values = interpolate(values, shape, mode=self._mode, antialias=True)
                # Halves are rounded up, as by Pillow.
                values.add_(0.5).floor_().clamp_(0, 255)
        # The crop comes first, so that the rest of the image need not become bytes.
        cropped: torch.Tensor = self._crop(values)[0]
        return cropped.permute(1, 2, 0).to(torch.uint8).contiguous()


def _shrunk(side: int, wanted: int) -> int:
    """Return the pixels of an edge after an average that leaves at most 64 times `wanted`."""
    return -(-side // -(-side // (_MOST_SHRUNK * wanted)))


def can_resize(steps: Sequence[Any]) -> bool:
    """Return whether `TorchResize` does the same as these steps of a transform."""
    if len(steps) != 2 or not isinstance(steps[1], transforms.CenterCrop):
        return False
    resize = steps[0]
    if type(resize) is not transforms.Resize:
        return False
    return (
        resize.interpolation in _MODES
        and resize.max_size is None
        and (isinstance(resize.size, int) or len(resize.size) == 2)
    )
