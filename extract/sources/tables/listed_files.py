"""Files that a manifest lists are looked up; where one is missing, the file that is meant is named."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from toptune.errors import InputError
from toptune.extract.images.folder_listing import IMAGE_SUFFIXES, is_hidden, list_folder
from toptune.extract.images.remarks import Remarks

SHOWN = 5


@dataclass(frozen=True)
class ListedFile:
    """A file that a manifest lists: where it is, and its size and time."""

    path: str
    bytes: int
    modified_ns: int


def find_files(file: Path, paths: Sequence[str], where: str) -> list[ListedFile]:
    """Look up the files that a manifest lists, relative to its folder.

    A path with nothing at its place is a mistake of the list, which is refused before any work. What is there
    and cannot be read, such as a broken link, is the failure of its row.

    Raises
    ------
    InputError
        If files are missing. The message names the first ones, and where one of them probably is.
    """
    # All missing files are collected before the error, so that a list of paths is repaired in one step.
    found, missing = [], []
    for path in paths:
        place = os.path.join(file.parent, path)  # noqa: PTH118  (also for millions of rows)
        try:
            known = os.stat(place)  # noqa: PTH116
            found.append(ListedFile(place, known.st_size, known.st_mtime_ns))
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            # A link that leads nowhere is there, as in a folder of images: its row cannot be read.
            if isinstance(error, ValueError) or not os.path.lexists(place):
                missing.append(path)
            else:
                found.append(ListedFile(place, 0, 0))
        except OSError:
            found.append(ListedFile(place, 0, 0))
    if missing:
        shown = ", ".join(f"{path!r:.120}" for path in missing[:SHOWN])
        hints = (_hint(file.parent, path) for path in missing[:SHOWN])
        raise InputError(
            f"{where}: {len(missing)} of {len(paths)} files are missing: {shown}"
            f"{', ...' if len(missing) > SHOWN else ''}; paths are relative to {file.parent}"
            + (next(filter(None, hints), "") or "; put the files there, or take their rows out")
        )
    return found


def remark_on_unlisted(listed: Sequence[ListedFile], remarks: Remarks) -> None:
    """Count the images that lie in the folders of listed files and are not listed themselves.

    Other folders are not looked into: a list may lie above much that is none of its data set.
    """
    names: dict[str, set[str]] = defaultdict(set)
    for each in listed:
        folder, name = os.path.split(os.path.normpath(each.path))
        names[folder].add(name)
    # One folder may be listed under several spellings, by links and by `..`.
    of_folder: dict[str, set[str]] = defaultdict(set)
    for folder, some in names.items():
        of_folder[os.path.realpath(folder)] |= some
    for folder, some in sorted(of_folder.items()):
        try:
            names_there = list_folder(Path(folder)).files
        except InputError:
            # Listed files may be read where their folder may not be listed.
            continue
        for name in names_there:
            is_image = PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(name)
            if is_image and name not in some:
                remarks.add("image", "in folders of listed images, but not listed", name, code="TT013")


def _hint(folder: Path, path: str) -> str:
    """Say under which other name a missing file is there; empty text if there is no such file."""
    for other, why in _other_names(path):
        try:
            if (folder / other).is_file():
                return f". {path!r} is there as {other!r}: {why}"
        except (OSError, ValueError):
            continue
    return ""


def _other_names(path: str) -> Iterator[tuple[str, str]]:
    slashed = path.replace("\\", "/")
    plain = slashed.strip().removeprefix("file://")
    for form in ("NFC", "NFD"):
        yield unicodedata.normalize(form, path), "write the letters with accents as the file's name has them"
    if slashed != path:
        yield slashed, "a backslash separates folders in Windows only; write / in its place"
    if plain != slashed:
        yield plain, "take the blanks, or file://, away"
    for suffix in IMAGE_SUFFIXES:
        for ending in (suffix, suffix.upper()):
            yield plain + ending, "write the extension too"
            yield (
                str(PurePosixPath(plain).with_suffix(ending)) if PurePosixPath(plain).name else plain,
                ("correct the extension"),
            )
    # A list from another machine has that machine's folders before the part that both have.
    parts = PureWindowsPath(plain).parts
    for first in range(1, len(parts)):
        yield "/".join(parts[first:]), "make the paths relative to the folder of the list"
