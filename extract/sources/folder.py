"""Images lie in folders, one folder a class, perhaps within one folder a split."""

import logging
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from toptune.errors import InputError
from toptune.extract.images.folder_listing import HIDDEN, IMAGE_SUFFIXES
from toptune.extract.images.source import SPLITS, FileRow, FileSource, default_name, printable

logger = logging.getLogger(__name__)
# Files that are opened where no name says image: enough to tell a folder of other files, without reading it
# whole.
_LOOKED_AT = 20
EXPECTED = "expected class/x.jpg, or train|val|test/class/x.jpg, or images"


def open_folder(folder: Path) -> FileSource:
    """Open a folder of images; rows are sorted by id, the path within the folder.

    Class folders may hold further folders and links to folders; every file in them that is not
    hidden is a row, also a file that is no image, which is recorded as failed when it is decoded. Files
    beside split or class folders are ignored. Folders called ``train``, ``val``, ``valid``,
    ``validation`` or ``test`` are splits if one of them holds folders, or if there are no other folders.
    A folder of nothing but images is a data set without labels.

    Raises
    ------
    InputError
        If there are no files, if none of the files that were looked at is an image, or if two names differ
        only in their Unicode form.
    """
    rows = sorted(_rows(folder), key=lambda row: row.id)
    if not rows:
        raise InputError(f"{folder} holds no images; {EXPECTED}")
    _refuse_other_files(folder, rows)
    # Some file systems decompose letters with accents in names. Ids are composed (NFC), so that a folder has
    # the same ids wherever it is copied.
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise InputError(
            f"{len(twice)} names in {folder} occur twice once their Unicode form is unified, the first is "
            f"{twice[0]!r}; rename one of each"
        )
    return FileSource(default_name(folder), rows)


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder; links are followed once, hidden files and folders are left out.

    Raises
    ------
    InputError
        If a folder cannot be listed.
    """
    yield from (Path(entry.path) for entry in _walk(folder, ()))


def _rows(folder: Path) -> Iterator[FileRow]:
    folders, files = _list(folder)
    splits = [entry for entry in folders if entry.name.lower() in SPLITS]
    if splits and (len(splits) == len(folders) or any(_list(Path(entry.path))[0] for entry in splits)):
        others = [entry.name for entry in folders if entry not in splits]
        if others:
            logger.warning("beside the splits in %s these folders are ignored: %s", folder, ", ".join(others))
        for entry in splits:
            yield from _class_rows(Path(entry.path), folder, SPLITS[entry.name.lower()])
    else:
        yield from _class_rows(folder, folder, None)
    if folders and files:
        logger.info("%d files beside the folders in %s are ignored", len(files), folder)


def _refuse_other_files(folder: Path, rows: Sequence[FileRow]) -> None:
    """Raise an `InputError` if no name of a file says image and none of a few files begins like an image."""
    if any(Path(row.id).suffix.lower() in IMAGE_SUFFIXES for row in rows):
        return
    looked_at = rows[:: -(-len(rows) // _LOOKED_AT)]
    if not any(_is_image(row.path) for row in looked_at):
        raise InputError(
            f"{folder} holds folders, but none of the {len(looked_at)} files looked at is an image, of "
            f"{len(rows)} in all: the first is {rows[0].id}; {EXPECTED}. Where arrays, shards or tables lie "
            "deeper, give their folder"
        )


def _is_image(path: str) -> bool:
    try:
        with Image.open(path):
            return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def _class_rows(parent: Path, root: Path, split: str | None) -> Iterator[FileRow]:
    folders, files = _list(parent)
    for entry in folders:
        label = _text(entry.name)
        found = 0
        for file in _walk(Path(entry.path), (_identity(root), _identity(parent))):
            found += 1
            yield _file_row(file, root, label, split)
        if not found:
            logger.warning("class folder %s is empty and left out", entry.path)
    if not folders:
        for file in files:
            if Path(file.name).suffix.lower() in IMAGE_SUFFIXES:
                yield _file_row(file, root, None, split)


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator["os.DirEntry[str]"]:
    identity = _identity(folder)
    if identity in above:
        logger.warning("%s leads back to a folder above it and is not followed", folder)
        return
    folders, files = _list(folder)
    yield from files
    for inner in folders:
        yield from _walk(Path(inner.path), (*above, identity))


def _list(folder: Path) -> tuple[list["os.DirEntry[str]"], list["os.DirEntry[str]"]]:
    """Return the folders and the files in a folder, links followed, without hidden ones."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith(".") or entry.name.lower() in HIDDEN:
                    continue
                if entry.is_dir():
                    folders.append(entry)
                # A broken link is a row that cannot be read: without the row nobody would notice the loss.
                elif entry.is_file() or entry.is_symlink():
                    files.append(entry)
                else:
                    logger.warning("%s is no regular file and is left out", entry.path)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be listed: {error.strerror}") from error
    return folders, files


def _file_row(entry: "os.DirEntry[str]", root: Path, label: str | None, split: str | None) -> FileRow:
    identifier = _text(Path(entry.path).relative_to(root).as_posix())
    try:
        found = entry.stat()
        n_bytes, modified_ns = (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (0, 0)
    except OSError:
        n_bytes, modified_ns = 0, 0
    return FileRow(identifier, entry.path, label, split, n_bytes, modified_ns)


def _identity(folder: Path) -> tuple[int, int]:
    # Links make several paths of one folder: device and inode tell a cycle, paths do not.
    found = folder.stat()
    return found.st_dev, found.st_ino


def _text(name: str) -> str:
    return unicodedata.normalize("NFC", printable(name))
