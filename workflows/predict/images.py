"""Pictures to classify: files, the files of folders, and encoded bytes."""

import logging
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from PIL import Image, ImageFile

from toptune.errors import InputError
from toptune.extract.sources.folder import walk_files

logger = logging.getLogger(__name__)

ImageLike = str | Path | bytes


def find_images(images: Iterable[ImageLike]) -> Iterator[tuple[str, Path | bytes]]:
    """Name every image: files as they are, folders by their files with an image's suffix, sorted."""
    for number, image in enumerate(images):
        if isinstance(image, bytes):
            yield f"image {number}", image
            continue
        path = Path(image)
        if path.is_dir():
            yield from ((str(each), each) for each in _images_in(path))
        elif path.exists():
            yield str(path), path
        else:
            raise InputError(f"{path} does not exist; give images or folders of images")


def _images_in(folder: Path) -> list[Path]:
    files = sorted(walk_files(folder))
    images = [file for file in files if file.suffix.lower() in _image_suffixes()]
    others = len(files) - len(images)
    if not images:
        raise InputError(
            f"{folder} holds no image"
            + (f", only {others} files without an image's suffix: name those to be tried" if others else "")
            + "; give images or a folder of images"
        )
    if others:
        logger.info("%d files in %s have no image's suffix and are left out", others, folder)
    return images


@cache
def _image_suffixes() -> frozenset[str]:
    """Suffixes of the formats that this Pillow opens, without those that it only recognizes."""
    Image.init()
    return frozenset(
        suffix
        for suffix, form in Image.registered_extensions().items()
        if form in Image.OPEN and not _is_stub(Image.OPEN[form][0])
    )


def _is_stub(opener: object) -> bool:
    return isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)
