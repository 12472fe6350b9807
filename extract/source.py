"""`ImageSource`: an ordered list of pictures, and how DATA on the command line becomes one."""

import difflib
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from toptune.errors import InputError, UnreadableImageError
from toptune.store.datasets.manifest import Manifest

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
BUILTINS = ("digits", "greek")
MAX_FILE_BYTES = 2**30
# A data set is not called after a folder with one of these names, but after that folder's parent.
GENERIC_NAMES = ("images", "train", "data")


@runtime_checkable
class ImageSource(Protocol):
    """Pictures in a fixed order, the same on every machine.

    Ids are unique. A source is never shorter than its manifest: what cannot be read raises
    `UnreadableImageError` when its turn comes, and keeps its row.
    """

    @property
    def name(self) -> str:
        """Name of the data set, unless the user gives another."""
        ...

    def manifest(self) -> Manifest:
        """Ids, labels, splits and file sizes of all pictures."""
        ...

    def read(self, row: int) -> bytes:
        """Return the bytes of one picture; called from several threads at once.

        Raises
        ------
        UnreadableImageError
            If there is nothing to read; the message says why.
        """
        ...


@dataclass(frozen=True)
class FileRow:
    """One picture in a file."""

    id: str
    path: str
    label: str | None
    split: str | None
    bytes: int
    modified_ns: int


class FileSource:
    """Pictures in files of their own: what folders and manifests become."""

    def __init__(
        self, name: str, rows: Sequence[FileRow], *, extra: dict[str, list[str | None]] | None = None
    ) -> None:
        self.name = name
        self.paths = [row.path for row in rows]
        self._manifest = Manifest.from_columns(
            ids=[row.id for row in rows],
            labels=[row.label for row in rows],
            splits=[row.split for row in rows],
            sizes=[row.bytes for row in rows],
            modified_ns=[row.modified_ns for row in rows],
            extra=extra,
        )

    def manifest(self) -> Manifest:
        return self._manifest

    def read(self, row: int) -> bytes:
        try:
            with Path(self.paths[row]).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            # Only the reason: the path differs between machines, and the row names the picture.
            raise UnreadableImageError(f"cannot be read: {error.strerror or type(error).__name__}") from error
        if len(data) > MAX_FILE_BYTES:
            raise UnreadableImageError(f"the file is larger than {MAX_FILE_BYTES} bytes; is it a picture?")
        return data


class SplitSource:
    """The rows of another source that belong to one split, in the same order."""

    def __init__(self, source: ImageSource, split: str) -> None:
        whole = source.manifest()
        wanted = SPLITS.get(split.lower(), split)
        self._rows = [row for row, name in enumerate(whole.splits) if name == wanted]
        if not self._rows:
            there = sorted({name for name in whole.splits if name is not None})
            raise InputError(
                f"no picture of {source.name!r} belongs to split {split!r}; "
                + (f"its splits are {', '.join(there)}" if there else "it has no splits")
            )
        self.name = source.name
        self._source = source
        rows = np.asarray(self._rows)
        self._manifest = Manifest.from_columns(
            ids=[whole.ids[row] for row in self._rows],
            labels=[whole.labels[row] for row in self._rows],
            splits=[wanted] * len(self._rows),
            sizes=whole.sizes[rows],
            modified_ns=whole.modified_ns[rows],
            extra={
                name: [column[row] for row in self._rows]
                for name, column in ((name, whole.column(name)) for name in whole.extra_names)
            },
        )

    def manifest(self) -> Manifest:
        return self._manifest

    def read(self, row: int) -> bytes:
        return self._source.read(self._rows[row])


def open_source(data: str | os.PathLike[str] | ImageSource, *, split: str | None = None) -> ImageSource:
    """Turn what the user calls DATA into a source.

    Parameters
    ----------
    data : path, str or ImageSource
        A folder of pictures (``class/x.jpg``, ``train|val|test/class/x.jpg``, or pictures without
        classes); a CSV or Parquet manifest; WebDataset shards (a ``.tar``, a folder of them, or a pattern
        like ``train-{000..099}.tar``); a Hugging Face data set (a folder from ``save_to_disk``, or of
        Parquet files); a zip archive; arrays (``.npz``, idx files, CIFAR's batches); or the name of a
        built-in data set. What is on disk goes before a built-in of the same name.
    split : str, optional
        Keep only this split.

    Raises
    ------
    InputError
        If there is nothing of that name, it is of no kind that is known or of several, it holds no
        pictures, or none of that split.
    """
    source = _open_whole(data)
    return source if split is None else SplitSource(source, split)


def _open_whole(data: str | os.PathLike[str] | ImageSource) -> ImageSource:
    if not isinstance(data, str | os.PathLike):
        return data
    # Imported here because they build on this module.
    from toptune.extract.detection import open_place
    from toptune.extract.tar_source import open_shards

    place = find_place(data)
    if place is None:
        from toptune.extract.builtin import open_builtin

        return open_builtin(str(data))
    return open_shards(place) if isinstance(place, list) else open_place(place)


def find_place(data: str | os.PathLike[str]) -> Path | list[Path] | None:
    """Find the folder or file that DATA names, or the shards of a pattern; None for a built-in data set.

    Raises
    ------
    InputError
        If there is nothing of that name.
    """
    from toptune.extract.shard_patterns import expand_pattern, is_pattern

    path = Path(data)
    if path.is_dir() or path.is_file():
        return path
    if is_pattern(str(data)):
        return expand_pattern(str(data))
    if str(data) in BUILTINS:
        return None
    close = difflib.get_close_matches(str(data), BUILTINS, n=1)
    raise InputError(
        f"{str(data)!r} is no folder and no file on this machine, and no built-in data set "
        f"({', '.join(BUILTINS)})" + (f"; did you mean {close[0]!r}?" if close else "; check the path")
    )


def default_name(path: Path) -> str:
    """Name a data set after its folder, or that one's parent where it is called images, train or data."""
    folder = Path(os.path.abspath(path))  # noqa: PTH100  (the name that was given, not where a link leads)
    if folder.name.lower() in GENERIC_NAMES and folder.parent.name:
        folder = folder.parent
    return unicodedata.normalize("NFC", printable(folder.name))


def printable(name: str) -> str:
    """Return a file name as Unicode text; bytes that are none become backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
