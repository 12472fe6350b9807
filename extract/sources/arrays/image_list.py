"""`ListSource`: images that a program holds already, as arrays, PIL images or tensors."""

import io
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image

from toptune.errors import InputError, UnreadableImageError
from toptune.extract.images.decode import orientation_of
from toptune.extract.images.source import split_names
from toptune.extract.sources.arrays.pixel_arrays import COLORS, check_images
from toptune.store.datasets.manifest import Manifest

# PNG keeps the pixels of these modes of Pillow, and TIFF those of the others.
_IN_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


@dataclass(frozen=True)
class PixelFile:
    """An image in memory as a file that decodes to the same pixels; the file is made when it is read.

    Attributes
    ----------
    header : bytes
        Begin of a PGM or PPM file, or a whole file.
    pixels : array or Image, optional
        The bytes that follow.
    n_bytes : int
        Size of the file.
    """

    header: bytes
    pixels: "npt.NDArray[np.uint8] | Image.Image | None"
    n_bytes: int

    @classmethod
    def of(cls, image: object, where: str) -> "PixelFile":
        """Make the file of one image.

        Parameters
        ----------
        image : array (h, w), (h, w, 1) or (h, w, 3) of uint8, Image, or tensor (h, w), (1, h, w) or (3, h, w)
            The image. Tensors have their colors first, as those of torchvision.
        where : str
            What the image is called in messages.

        Raises
        ------
        InputError
            If the image is of another kind, type or shape.
        UnreadableImageError
            If the file that a PIL image comes from cannot be read.
        """
        if isinstance(image, Image.Image):
            return cls._of_pillow(image, where)
        pixels = check_images(_array_of(image, where)[None], f"{where}, with n = 1,")[0]
        is_color = pixels.ndim > 2 and pixels.shape[2] == COLORS
        return cls._portable(pixels, is_color, (pixels.shape[1], pixels.shape[0]))

    @classmethod
    def _portable(cls, pixels: Any, is_color: bool, size: tuple[int, int]) -> "PixelFile":
        header = b"P%d\n%d %d\n255\n" % (6 if is_color else 5, *size)
        return cls(header, pixels, len(header) + size[0] * size[1] * (COLORS if is_color else 1))

    @classmethod
    def _of_pillow(cls, image: Image.Image, where: str) -> "PixelFile":
        if image.mode in ("L", "RGB") and orientation_of(image) == 1 and "transparency" not in image.info:
            return cls._portable(image, image.mode == "RGB", image.size)
        # The tag of a photograph's orientation stays with the pixels, which lie as the camera saved them.
        file = io.BytesIO()
        try:
            form = "PNG" if image.mode in _IN_PNG else "TIFF"
            image.save(file, form, exif=image.getexif(), **({"compress_level": 1} if form == "PNG" else {}))
        except (OSError, ValueError, KeyError, SyntaxError) as error:
            raise UnreadableImageError(f"{where} cannot be read: {error}") from error
        return cls(file.getvalue(), None, file.tell())

    def read(self) -> bytes:
        """Return the bytes of the file."""
        return self.header if self.pixels is None else self.header + self.pixels.tobytes()


class ListSource:
    """Images in memory, in the order given; an `ImageSource`.

    Parameters
    ----------
    images : sequence of arrays, PIL images or tensors, or one array or tensor of several
        See `PixelFile.of` for one image; several are an array (n, h, w), (n, h, w, 1) or (n, h, w, 3), or a
        tensor (n, h, w), (n, 1, h, w) or (n, 3, h, w).
    labels, splits, ids : sequence (n,), optional
        Label and split of each image, nothing known where None, NaN or empty; and its name, by default its
        number with eight digits.
    name : str
        Name of the data set.

    Raises
    ------
    InputError
        If an image is of another kind, type or shape, or there are not as many labels as images.
    """

    def __init__(
        self,
        images: Iterable[object],
        *,
        labels: Iterable[object] | None = None,
        splits: Iterable[object] | None = None,
        ids: Iterable[object] | None = None,
        name: str = "",
    ) -> None:
        self.name = name
        given = list(images)
        self._files = [
            PixelFile.of(image, f"image {number} of {len(given)} (from 0)")
            for number, image in enumerate(given)
        ]
        self._manifest = Manifest.from_columns(
            ids=[f"{row:08d}" for row in range(len(self._files))] if ids is None else list(ids),
            labels=None if labels is None else list(labels),
            splits=None if splits is None else split_names(list(splits), "splits"),
            sizes=[file.n_bytes for file in self._files],
        )

    def manifest(self) -> Manifest:
        return self._manifest

    def read(self, row: int) -> bytes:
        return self._files[row].read()


def source_of_images(
    images: Iterable[object],
    labels: Iterable[object] | None = None,
    *,
    name: str,
    splits: Iterable[object] | None = None,
    ids: Iterable[object] | None = None,
) -> ListSource:
    """Make a source of images that the program holds already, for `toptune.extract.extract`.

    Parameters
    ----------
    images : sequence of arrays, PIL images or tensors
        Arrays (h, w), (h, w, 1) or (h, w, 3) of uint8, PIL images of any kind, or tensors of uint8 with
        their colors first; also one array (n, h, w, 3) or tensor (n, 3, h, w) of several images.
    labels : sequence (n,), optional
        Label of each image, as text or number; nothing known where None, NaN or empty.
    name : str
        Name of the data set in the store.
    splits : sequence (n,), optional
        ``train``, ``val`` or ``test`` of each image.
    ids : sequence (n,), optional
        Name of each image; by default its number with eight digits.

    Returns
    -------
    ListSource
        An `ImageSource`.

    Raises
    ------
    InputError
        If an image is of another kind, type or shape, or there are not as many labels as images.

    Examples
    --------
    >>> import numpy as np
    >>> images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    >>> source = source_of_images(images, labels=["cat", "dog", "cat"], name="mine")
    >>> source.manifest().n_rows, source.manifest().labels
    (3, ['cat', 'dog', 'cat'])
    """
    return ListSource(images, labels=labels, splits=splits, ids=ids, name=name)


def is_image(value: object) -> bool:
    """Return whether a value is one image in memory; arrays and tensors of three axes are one image."""
    return isinstance(value, Image.Image) or (is_pixels(value) and value.ndim <= 3)


def is_one_image(value: object) -> bool:
    """Return whether a value is one image where several are meant; (n, h, w) are several gray ones."""
    if not is_pixels(value) or value.ndim < 3:
        return isinstance(value, Image.Image) or is_pixels(value)
    colors = value.shape[-1] if isinstance(value, np.ndarray) else value.shape[0]
    return value.ndim == 3 and colors in (1, COLORS)


def is_pixels(value: object) -> TypeGuard[Any]:
    """Return whether a value is an array of numpy or a tensor of torch, which is not loaded to find out."""
    torch = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def _array_of(image: object, where: str) -> npt.NDArray[Any]:
    """Return the pixels of an array or a tensor with the colors last."""
    if not is_pixels(image):
        raise InputError(
            f"{where} is of type {type(image).__name__}; give arrays of numpy, PIL images or tensors of torch"
        )
    if isinstance(image, np.ndarray):
        return image
    pixels: npt.NDArray[Any] = image.detach().cpu().numpy()
    if pixels.ndim != 3:
        return pixels
    if pixels.shape[0] not in (1, COLORS):
        raise InputError(
            f"{where} is a tensor of the shape {pixels.shape}; a tensor of an image is (3, height, width), "
            "(1, height, width) or (height, width): move the colors first, with x.permute(2, 0, 1)"
        )
    return np.ascontiguousarray(np.moveaxis(pixels, 0, -1))
