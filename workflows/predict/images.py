"""Pictures to classify: files, the files of folders, and encoded bytes."""

import logging
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from PIL import Image, ImageFile

from toptune.errors import InputError
from toptune.extract.sources.folder import walk_files

logger = logging.getLogger(__name__)

Picture = str | Path | bytes


def find_pictures(images: Iterable[Picture]) -> Iterator[tuple[str, Path | bytes]]:
    """Name every picture: files as they are, folders by their files with a picture's suffix, sorted."""
    for number, image in enumerate(images):
        if isinstance(image, bytes):
            yield f"image {number}", image
            continue
        path = Path(image)
        if path.is_dir():
            yield from ((str(each), each) for each in _pictures_in(path))
        elif path.exists():
            yield str(path), path
        else:
            raise InputError(f"{path} does not exist; give pictures or folders of pictures")


def _pictures_in(folder: Path) -> list[Path]:
    files = sorted(walk_files(folder))
    pictures = [file for file in files if file.suffix.lower() in _picture_suffixes()]
    others = len(files) - len(pictures)
    if not pictures:
        raise InputError(
            f"{folder} holds no picture"
            + (f", only {others} files without a picture's suffix: name those to be tried" if others else "")
            + "; give pictures or a folder of pictures"
        )
    if others:
        logger.info("%d files in %s have no picture's suffix and are left out", others, folder)
    return pictures


@cache
def _picture_suffixes() -> frozenset[str]:
    """Suffixes of the formats that this Pillow opens, without those that it only recognises."""
    Image.init()
    return frozenset(
        suffix
        for suffix, form in Image.registered_extensions().items()
        if form in Image.OPEN and not _is_stub(Image.OPEN[form][0])
    )


def _is_stub(opener: object) -> bool:
    return isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)
