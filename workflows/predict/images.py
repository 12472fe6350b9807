"""Images to classify are files, the files of folders, images that a list or an archive names, or bytes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from toptune.errors import InputError
from toptune.extract.images.folder_listing import ARRAY_SUFFIX, IMAGE_SUFFIXES
from toptune.extract.images.formats import readable
from toptune.extract.images.open_files import read_regular
from toptune.extract.images.remarks import Remarks, remarks_of, say_remarks
from toptune.extract.images.source import MAX_FILE_BYTES, ImageBytes
from toptune.extract.sources.arrays.image_list import PixelFile, is_image, is_pixels
from toptune.extract.sources.folder import walk_files
from toptune.extract.sources.opening import open_source
from toptune.extract.sources.tables.manifest_file import MANIFEST_SUFFIXES
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.outside_text import escaped

# Files with these endings list images or hold them. Any other file that is named is tried as an image.
_OF_IMAGES = frozenset((*MANIFEST_SUFFIXES, ".arrow", ".tar", ".zip", ".npz"))


@dataclass(frozen=True)
class ListedImage:
    """One image of a source, which is read when its turn comes.

    Attributes
    ----------
    name : str
        Id of the image.
    source : ImageBytes
        The manifest, table or archive.
    row : int
        Number of the image in it.
    manifest : Manifest, optional
        What the source tells of its images, such as the columns of a list.
    """

    name: str
    source: ImageBytes
    row: int
    manifest: Manifest | None = None

    def read_bytes(self) -> bytes:
        """Return the bytes of the image."""
        return self.source.read(self.row)


class PixelTensor(Protocol):
    """A tensor of torch, which need not be loaded for images of other kinds."""

    def detach(self) -> object:
        """Return the tensor without its history."""
        ...


ImageLike: TypeAlias = (
    str | Path | ListedImage | PixelFile | bytes | Image.Image | npt.NDArray[np.uint8] | PixelTensor
)
FoundImage: TypeAlias = Path | ListedImage | PixelFile | bytes


def as_several(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
    """Return several images as they are, and one image as a list of it.

    An array or a tensor of four axes is several images.
    """
    is_one = isinstance(images, str | Path | ListedImage | PixelFile | bytes) or is_image(images)
    return [images] if is_one else images  # type: ignore[list-item, return-value]


def find_images(images: Iterable[ImageLike]) -> Iterator[tuple[str, FoundImage]]:
    """Yield each image with its name.

    A folder stands for its files with an image's suffix, sorted. A manifest, a table or an archive stands for
    its images, which have their ids as names.

    Yields
    ------
    tuple of (str, path, ListedImage, PixelFile or bytes)
        Name of the image, and its file, its place in a source, its pixels or its encoded bytes.

    Raises
    ------
    InputError
        If a path does not exist, a folder holds no image, or pixels are not those of an image.
    """
    for number, image in enumerate(images):
        if isinstance(image, bytes | PixelFile):
            yield f"image {number}", image
            continue
        if isinstance(image, ListedImage):
            yield image.name, image
            continue
        if is_image(image) or is_pixels(image):
            yield f"image {number}", PixelFile.of(image, f"image {number} (from 0)")
            continue
        if not isinstance(image, str | Path):
            raise InputError(
                f"image {number} (from 0) is of type {type(image).__name__}; give paths, the bytes of image "
                "files, arrays of numpy, PIL images or tensors of torch"
            )
        path = Path(image)
        if path.is_dir():
            yield from ((escaped(str(each)), each) for each in _images_in(path))
        elif path.suffix.lower() in _OF_IMAGES and path.exists():
            source = open_source(path)
            # Labels play no part: only what is not among the images is said.
            say_remarks([each for each in remarks_of(source) if each.is_left_out], escaped(path.name))
            manifest = source.manifest()
            yield from (
                (name, ListedImage(name, source, row, manifest)) for row, name in enumerate(manifest.ids)
            )
        elif path.exists():
            yield escaped(str(path)), path
        else:
            raise InputError(
                f"{path} does not exist; give images, folders of images, or lists of them (.csv, .parquet)"
            )


class LooseImages:
    """Files and encoded images by number, for the extraction's reader.

    Parameters
    ----------
    images : sequence of path, ListedImage, PixelFile or bytes
        Files, images of sources, pixels, or the bytes of encoded images.
    """

    def __init__(self, images: Sequence[FoundImage]) -> None:
        self._images = images

    def read(self, row: int) -> bytes:
        """Return the bytes of one image."""
        image = self._images[row]
        if isinstance(image, ListedImage):
            return image.read_bytes()
        if isinstance(image, PixelFile):
            return image.read()
        return image if isinstance(image, bytes) else read_regular(image, MAX_FILE_BYTES)


class ChosenImages:
    """Some images of a source, numbered anew from 0.

    Parameters
    ----------
    source : ImageBytes
        All images.
    rows : sequence of int
        Row numbers of the chosen images.
    """

    def __init__(self, source: ImageBytes, rows: Sequence[int]) -> None:
        self._source, self._rows = source, rows

    def read(self, row: int) -> bytes:
        """Return the bytes of one image."""
        return self._source.read(self._rows[row])


def _images_in(folder: Path) -> list[Path]:
    """List the files below a folder that have an image's suffix, sorted."""
    # A named file is always tried. In a folder only the suffix tells images from labels, notes and archives,
    # which would otherwise all be reported as unreadable images.
    remarks = Remarks()
    images = []
    files = sorted(walk_files(folder, remarks))
    taken = _image_suffixes()
    if not any(file.suffix.lower() in taken for file in files):
        taken = frozenset([ARRAY_SUFFIX])
    for file in files:
        if file.suffix.lower() in taken:
            images.append(file)
        else:
            remarks.add_other_file(escaped(str(file.relative_to(folder))))
    if not images:
        left_out = "".join(f"; {remark.sentence}" for remark in remarks if not remark.is_litter)
        raise InputError(f"{folder} holds no image; give images or a folder of images{left_out}")
    say_remarks(remarks, escaped(str(folder)))
    return images


@cache
def _image_suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that are read."""
    formats = readable()
    named = (suffix for suffix, form in Image.registered_extensions().items() if form in formats)
    return frozenset([*named, *IMAGE_SUFFIXES])
