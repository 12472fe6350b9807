"""`FolderListing`: a folder is listed once for all kinds of sources that may recognize its content."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from toptune.errors import InputError

# Files and folders that Windows and macOS add to folders and archives, and that look like images or classes.
HIDDEN = ("thumbs.db", "desktop.ini", "__macosx")
# Suffixes of images where no class folder says that a file is one; inside class folders every file counts.
IMAGE_SUFFIXES = (
    *(".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jpx"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)


@dataclass(frozen=True)
class FolderListing:
    """Names of the files and folders in a folder, sorted, links followed, hidden ones left out.

    Attributes
    ----------
    folder : path
        The folder that was listed.
    files, folders : tuple of str
        Names of the files and of the folders in it.
    """

    folder: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]

    @cached_property
    def file_names(self) -> frozenset[str]:
        """The names of the files, as a set for look-ups."""
        return frozenset(self.files)

    def with_suffix(self, suffix: str) -> list[Path]:
        """Return the files whose names end in `suffix`, in capitals or not."""
        return [self.folder / name for name in self.files if name.lower().endswith(suffix)]

    def inner(self, name: str) -> "FolderListing":
        """List a folder inside this folder; the listing is empty if there is no such folder."""
        place = self.folder / name
        return list_folder(place) if name in self.folders else FolderListing(place, (), ())


def list_folder(folder: Path) -> FolderListing:
    """List a folder without looking at each file.

    Raises
    ------
    InputError
        If the folder cannot be listed.
    """
    # `scandir` tells folders from files without a request for each entry. Requests are slow on network file
    # systems, and a folder may hold millions of images.
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be listed: {error.strerror}") from error
    return FolderListing(folder, tuple(sorted(files)), tuple(sorted(folders)))
