"""`ImageSource`: an ordered list of images, and how DATA on the command line becomes one."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError, ToptuneError, UnreadableImageError
from toptune.extract.images.kinds.boxes import Box
from toptune.extract.images.open_files import read_regular
from toptune.extract.images.remarks import Remark, Remarks, remarks_of
from toptune.options import choices
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.outside_text import outside_column, outside_text

if TYPE_CHECKING:  # sources of images need no torch
    import torch

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
Labeled = TypeVar("Labeled", bound="ImageSource")
# A file of this size is no image that a network sees. Several threads read whole files, which must fit into
# memory.
MAX_FILE_BYTES = 2**30
# A data set is not called after a folder with one of these names, but after the parent of the folder.
GENERIC_NAMES = ("images", "train", "data")


class ImageBytes(Protocol):
    """Encoded images by row number; decoding needs nothing else."""

    def read(self, row: int) -> bytes:
        """Return the bytes of one image; several threads may call at once.

        Raises
        ------
        UnreadableImageError
            If the image cannot be read; the message says why.
        """
        ...


def read_bytes(source: ImageBytes, row: int) -> bytes:
    """Return the bytes of one image, whatever a source raises for it.

    Raises
    ------
    UnreadableImageError
        If the image cannot be read. Errors of a damaged archive, or of a source that others wrote, are those
        of one image; the errors of toptune, which say that the data set changed, are not.
    """
    try:
        return source.read(row)
    except ToptuneError:
        raise
    except OSError as error:
        raise UnreadableImageError(f"cannot be read: {error.strerror or type(error).__name__}") from error
    except Exception as error:
        raise UnreadableImageError(f"cannot be read: {type(error).__name__}: {error}") from error


@runtime_checkable
class ImageSource(ImageBytes, Protocol):
    """Images in a fixed order, the same on every machine.

    Ids are unique. A source is never shorter than its manifest: an image that cannot be read keeps its row,
    and `read` raises an `UnreadableImageError` for the row.
    """

    @property
    def name(self) -> str:
        """Name of the data set, unless the user gives another."""
        ...

    def manifest(self) -> Manifest:
        """Return ids, labels, splits and file sizes of all images."""
        ...


@runtime_checkable
class ArrowTable(Protocol):
    """A table that Arrow reads, such as a frame of pandas or polars."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows as a stream of Arrow."""
        ...


# What images are given as: a path or the name of built-in ones, a source, a table of paths, or pixels.
ImageData: TypeAlias = (
    "str | os.PathLike[str] | ImageSource | ArrowTable | Sequence[object] | npt.NDArray[np.uint8] "
    "| torch.Tensor"
)


class RemarkedSource(ImageSource, Protocol):
    """A source that says what of DATA it did not take."""

    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class FileRow:
    """A file with one image, or a box of the image."""

    id: str
    path: str
    label: str | None
    split: str | None
    bytes: int
    modified_ns: int
    box: Box | None = None

    @property
    def told_ns(self) -> int:
        """The time by which a row is known to be untouched: of the file, and up to half a second for the box.

        Rows of another time are read again, and their digests compared, so that another box is noticed.
        """
        return self.modified_ns + (0 if self.box is None else self.box.mark)


class FileSource:
    """Images in files of their own, as folders and manifests name them."""

    def __init__(
        self,
        name: str,
        rows: Sequence[FileRow],
        *,
        extra: Mapping[str, Sequence[object]] | None = None,
        remarks: Sequence[Remark] = (),
    ) -> None:
        self.name = name
        self.remarks = tuple(remarks)
        self.paths = [row.path for row in rows]
        self._boxes = [row.box for row in rows] if any(row.box is not None for row in rows) else None
        self._manifest = Manifest.from_columns(
            ids=[row.id for row in rows],
            labels=[row.label for row in rows],
            splits=[row.split for row in rows],
            sizes=[row.bytes for row in rows],
            modified_ns=[row.told_ns for row in rows],
            extra=extra,
        )

    def manifest(self) -> Manifest:
        return self._manifest

    def read(self, row: int) -> bytes:
        data = read_regular(self.paths[row], MAX_FILE_BYTES)
        box = None if self._boxes is None else self._boxes[row]
        return data if box is None or not data else box.wrapped(data)


class LabeledSource:
    """Another source, with the values of a further column of its manifest as labels."""

    def __init__(self, source: ImageSource, column: str) -> None:
        self.name = source.name
        self.remarks = remarks_of(source)
        self._source = source
        self._manifest = source.manifest().relabeled(column)

    def manifest(self) -> Manifest:
        return self._manifest

    def read(self, row: int) -> bytes:
        return self._source.read(row)


def labeled(source: Labeled, column: str | None) -> "Labeled | LabeledSource":
    """Return a source whose labels are in a further column; without a column, the source itself.

    Raises
    ------
    InputError
        If there is no such column.
    """
    return source if column is None else LabeledSource(source, column)


class SplitSource:
    """The rows of another source that belong to one split, in the same order."""

    def __init__(self, source: ImageSource, split: str) -> None:
        whole = source.manifest()
        # Splits have several names in the wild; sources map all of them to train, val and test.
        name = outside_text(split) or ""
        wanted = SPLITS.get(name.lower(), name)
        self._rows = [row for row, name in enumerate(whole.splits) if name == wanted]
        if not self._rows:
            there = sorted({name for name in whole.splits if name is not None})
            raise InputError(
                f"no image of {source.name!r} belongs to split {split!r}; "
                + (choices(split, there) if there else "it has no splits: leave --split out"),
                option="split",
            )
        self.name = source.name
        remarks = Remarks()
        if n_without := sum(name is None for name in whole.splits):
            remarks.add("image", "of no split", None, code="TT020", count=n_without)
        self.remarks = (*remarks_of(source), *remarks)
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
                for name, column in ((name, whole.cells(name)) for name in whole.extra_names)
            },
        )

    def manifest(self) -> Manifest:
        return self._manifest

    def read(self, row: int) -> bytes:
        return self._source.read(self._rows[row])


def default_name(path: Path) -> str:
    """Name a data set after its folder, or after the parent of a folder called images, train or data."""
    folder = Path(os.path.abspath(path))  # noqa: PTH100  (the name that was given, not where a link leads)
    if folder.name.lower() in GENERIC_NAMES and folder.parent.name:
        folder = folder.parent
    return outside_text(folder.name, keeps_blanks=True) or ""


def split_names(splits: Sequence[object], where: str) -> list[str | None]:
    """Return splits by toptune's names for them: ``train``, ``val`` and ``test``.

    Raises
    ------
    InputError
        If a name is none of a split: its rows would be in no split, and nobody would notice.
    """
    names = outside_column(splits)
    unknown = sorted({name for name in names if name is not None and name.lower() not in SPLITS})
    if unknown:
        raise InputError(
            f"{where}: split {unknown[0]!r} is none of train, val, test ({len(unknown)} such names); "
            "rename it, or leave the field empty"
        )
    return [None if name is None else SPLITS[name.lower()] for name in names]
