"""`open_source`: the kind of data at a path is told by its content; a mix of two kinds is refused."""

import gzip
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from toptune.errors import InputError
from toptune.extract.images.folder_listing import (
    IMAGE_SUFFIXES,
    TABLE_SUFFIXES,
    FolderListing,
    is_hidden,
    list_folder,
)
from toptune.extract.images.layout import plain_text
from toptune.extract.images.open_files import look_at
from toptune.extract.images.remarks import SPECIAL, Remarks
from toptune.extract.images.source import (
    BUILTINS,
    SPLITS,
    ArrowTable,
    ImageData,
    ImageSource,
    RemarkedSource,
    SplitSource,
    labeled,
)
from toptune.extract.sources.archives.tar import open_shards, refuse_compressed
from toptune.extract.sources.archives.zip import open_zip
from toptune.extract.sources.arrays.cifar import find_cifar, open_cifar
from toptune.extract.sources.arrays.idx import IDX_MAGICS, find_idx, open_idx
from toptune.extract.sources.arrays.image_list import ListSource, is_one_image, is_pixels
from toptune.extract.sources.arrays.npz import open_npz
from toptune.extract.sources.folder import open_folder, walk_files
from toptune.extract.sources.tables.arrow import find_saved, open_arrow, open_saved
from toptune.extract.sources.tables.frame import open_frame
from toptune.extract.sources.tables.manifest_file import MANIFEST_SUFFIXES, open_manifest
from toptune.extract.sources.tables.parquet import find_parquet, is_parquet_of_images, open_parquet
from toptune.options import nearest
from toptune.store.datasets.outside_text import outside_text
from toptune.store.files.system_errors import not_readable

GIVE = (
    "give a folder of images, a manifest (.csv, .tsv, .jsonl, .parquet), WebDataset shards (.tar), a Hugging "
    "Face data set, a zip archive, .npz, idx files or the folder of CIFAR's batches"
)
SHOWN = 5
_HEAD_BYTES = 512
_ARCHIVE_SUFFIXES = (
    *(".zip", ".npz", ".csv", ".tsv", ".jsonl", ".parquet", ".arrow"),
    *(".gz", ".tgz", ".bz2", ".xz", ".zst"),
)
_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_TAR_MAGIC = slice(257, 262)


def find_shards(listing: FolderListing) -> list[Path]:
    """Return the tar files in a folder and in its folders of splits, with compressed ones among them."""
    places = [listing, *(listing.inner(name) for name in listing.folders if name.lower() in SPLITS)]
    if not any(place.with_suffix(".tar") for place in places):
        return []
    # Compressed shards are refused when they are opened: if they were passed over, rows would be missing.
    return [file for place in places for ending in _TAR_ENDINGS for file in place.with_suffix(ending)]


# Files that belong to a data set and are read with it, or only describe it.
_COMPANIONS = re.compile(
    r"readme|licen[cs]e|(state|dataset_\w+)\.json$|.*\.arrow$|.*idx[1-4]-ubyte|(batches\.)?meta(\.txt)?$"
    r"|(fine|coarse)_label_names\.txt$|file\.txt~$",
    re.IGNORECASE,
)
_Find = Callable[[FolderListing], list[Path]]
_Open = Callable[[list[Path], Path, str | None], RemarkedSource]
# One row for each kind of data that a folder may hold: its name in messages, the function that finds its
# files and the function that opens them, given the files, the folder and the column of the labels.
_KINDS: tuple[tuple[str, _Find, _Open], ...] = (
    (
        "tar shards",
        find_shards,
        lambda files, folder, label: labeled(open_shards(files, folder=folder), label),
    ),
    (
        "a saved Hugging Face data set",
        find_saved,
        lambda files, folder, label: open_saved(files, whole=folder, label_column=label),
    ),
    (
        "Parquet files with images",
        find_parquet,
        lambda files, folder, label: open_parquet(files, whole=folder, label_column=label),
    ),
    ("idx files", find_idx, lambda files, _, label: labeled(open_idx(files), label)),
    ("batches of CIFAR", find_cifar, lambda files, _, label: labeled(open_cifar(files), label)),
)


def absolute_place(data: str | os.PathLike[str]) -> str:
    """Return DATA as another process, with another working folder, can open it.

    Paths become absolute; the name of a built-in data set is the same everywhere.
    """
    return str(Path(data).absolute()) if Path(data).exists() else os.fspath(data)


def open_place(path: Path, *, path_column: str | None = None, label_column: str | None = None) -> ImageSource:
    """Open a folder or a file, whose kind is told by the content.

    Raises
    ------
    InputError
        If the content is of no kind that toptune reads, or of more than one, or lacks a named column.
    """
    if path.is_file() and path.suffix.lower() in MANIFEST_SUFFIXES and not _holds_images(path):
        return open_manifest(path, path_column=path_column, label_column=label_column)
    if path_column is not None:
        raise InputError(
            f"--path-column {path_column!r} names a column of a list of images "
            f"({', '.join(MANIFEST_SUFFIXES)}), and {path} is none; leave it out"
        )
    return _open_folder(path, label_column) if path.is_dir() else _open_file(path, label_column)


def _holds_images(file: Path) -> bool:
    return file.suffix.lower() == ".parquet" and bool(is_parquet_of_images(file))


def _open_folder(folder: Path, label_column: str | None) -> ImageSource:
    listing = list_folder(folder)
    found = [(kind, files, open_them) for kind, find, open_them in _KINDS if (files := find(listing))]
    if not found:
        _refuse_archives(listing)
        return labeled(open_folder(folder), label_column)
    # Two kinds are never ranked: to read one of them silently would lose the images of the other.
    kinds = [kind for kind, _, _ in found]
    image = _first_image(folder)
    if image is not None:
        kinds.append(f"images ({image.relative_to(folder)})")
    if len(kinds) > 1:
        raise InputError(
            f"{folder} holds {' and '.join(kinds)}; which is meant? Keep them in folders of their own, or "
            f"give the files, for instance {found[0][1][0]}"
        )
    kind, files, open_them = found[0]
    source = open_them(files, folder, label_column)
    source.remarks = (*source.remarks, *_remarks_beside(kind, files, folder))
    return source


def _remarks_beside(kind: str, files: Sequence[Path], folder: Path) -> Remarks:
    """Collect what lies in a folder beside the files of its kind, and in the folders of these files."""
    remarks = Remarks()
    read = {parent for file in files for parent in (file, *file.parents)}
    for place in sorted({folder, *(file if file.is_dir() else file.parent for file in files)}):
        listing = list_folder(place)
        for name in listing.files:
            if place / name in read or _COMPANIONS.match(name):
                continue
            if PurePath(name).suffix.lower() in TABLE_SUFFIXES:
                remarks.add("table", f"beside {kind}, not read", plain_text(name), code="TT008")
            else:
                remarks.add_other_file(plain_text(name))
        for name in listing.others:
            remarks.add("file", SPECIAL, plain_text(name), code="TT002")
        for name in listing.folders:
            if place / name not in read and not is_hidden(name):
                remarks.add("folder", f"beside {kind}", plain_text(name), code="TT004")
    return remarks


def _refuse_archives(listing: FolderListing) -> None:
    """Raise an `InputError` that names the archives of a folder which holds nothing else."""
    archives = [name for name in listing.files if name.lower().endswith(_ARCHIVE_SUFFIXES)]
    if archives and not listing.folders and _first_image(listing.folder) is None:
        more = ", ..." if len(archives) > SHOWN else ""
        raise InputError(
            f"{listing.folder} holds no images; it has {', '.join(archives[:SHOWN])}{more}: give one of them"
        )


def _first_image(folder: Path) -> Path | None:
    return next((file for file in walk_files(folder) if file.suffix.lower() in IMAGE_SUFFIXES), None)


def _open_file(path: Path, label_column: str | None) -> ImageSource:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    suffix = path.suffix.lower()
    if head.startswith(b"PAR1"):
        return open_parquet([path], whole=path, label_column=label_column)
    if suffix == ".tar" or head[_TAR_MAGIC] == b"ustar":
        return labeled(open_shards([path]), label_column)
    if suffix == ".npz" or _is_npz(path, head):
        return labeled(open_npz(path), label_column)
    if head.startswith(b"PK") or (suffix == ".zip" and head):
        return labeled(open_zip(path), label_column)
    if suffix == ".arrow" or head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return open_arrow(path, label_column=label_column)
    inner = _gunzipped(path) if head.startswith(b"\x1f\x8b") else head
    if inner[:4] in IDX_MAGICS:
        return labeled(open_idx([path]), label_column)
    refuse_compressed(path, head)
    raise InputError(f"{path} {_what(path, head)}; {GIVE}")


def _is_npz(path: Path, head: bytes) -> bool:
    if not head.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _gunzipped(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(4)
    except (OSError, EOFError, zlib.error):
        return b""


def _what(path: Path, head: bytes) -> str:
    """Say in words what a file seems to be."""
    if path in find_cifar(list_folder(path.parent)):
        return f"is one batch of CIFAR; give its folder, {path.parent}"
    if not head:
        return "is empty"
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return "is one image; give its folder"
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "is a Python pickle, which is a program; only those of CIFAR are read, by their folder"
    return f"is a file of kind {path.suffix or 'unknown'!r}, and nothing that toptune reads by its content"


def open_source(
    data: ImageData,
    *,
    split: str | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
) -> ImageSource:
    """Open the images of DATA, whose kind is told by the content.

    Parameters
    ----------
    data : path, str, ImageSource, table, or sequence of images
        A folder of images (``class/x.jpg``, ``train|val|test/class/x.jpg``, or images without
        classes); a CSV or Parquet manifest; WebDataset shards (a ``.tar``, a folder of them, or a pattern
        like ``train-{000..099}.tar``); a Hugging Face data set (a folder from ``save_to_disk``, or of
        Parquet files); a zip archive; arrays (``.npz``, idx files, CIFAR's batches); or the name of a
        built-in data set (``digits``, ``greek``). Files on disk go before a built-in of the same name. Also a
        frame of pandas (or another table that Arrow reads) with a column ``path`` and perhaps ``label``; a
        list of arrays, PIL images or tensors, see `source_of_images`, which takes their labels, too.
    split : str, optional
        Keep only this split.
    path_column : str, optional
        Column of a manifest that holds the paths of the images; by default told by its name.
    label_column : str, optional
        Column whose values are the labels, in place of the column that is told by its name.

    Returns
    -------
    ImageSource
        Images in a fixed order, the same on every machine.

    Raises
    ------
    InputError
        If nothing has that name, if DATA is of no known kind or of several, or if DATA holds no images, no
        image of the split, or no column of a given name.

    Examples
    --------
    >>> source = open_source("digits")
    >>> source.name, source.manifest().n_rows, source.manifest().labels[0]
    ('digits', 1797, '0')
    """
    source = _open_whole(data, outside_text(path_column), outside_text(label_column))
    return source if split is None else SplitSource(source, split)


def _open_whole(data: ImageData, path_column: str | None, label_column: str | None) -> ImageSource:
    if not isinstance(data, str | os.PathLike | ImageSource):
        if isinstance(data, ArrowTable):
            return open_frame(data, path_column=path_column, label_column=label_column)
        data = _in_memory(data)
    place = find_place(data) if isinstance(data, str | os.PathLike) else None
    if isinstance(place, Path):
        return open_place(place, path_column=path_column, label_column=label_column)
    if path_column is not None:
        raise InputError(f"--path-column {path_column!r} names a column of a list of images; leave it out")
    if isinstance(place, list):
        return labeled(open_shards(place), label_column)
    if isinstance(data, str | os.PathLike):
        # The import waits until here, because few calls need scikit-learn's digits and matplotlib's fonts.
        from toptune.extract.sources.builtin import open_builtin

        data = open_builtin(str(data))
    return labeled(data, label_column)


def _in_memory(data: object) -> ListSource:
    if is_one_image(data):
        raise InputError(
            f"one {type(data).__name__} of one image; give a list of images, or several in one array of the "
            "shape (n, height, width) or (n, height, width, 3)"
        )
    if not (is_pixels(data) or isinstance(data, list | tuple)):
        raise InputError(
            f"images are of type {type(data).__name__}; {GIVE}, or a frame with a column path, or a list of "
            "arrays, PIL images or tensors"
        )
    return ListSource(data)


def find_place(data: str | os.PathLike[str]) -> Path | list[Path] | None:
    """Find the folder or file that DATA names, or the shards of a pattern; None for a built-in data set.

    Raises
    ------
    InputError
        If nothing has that name.
    """
    from toptune.extract.sources.archives.tar_patterns import expand_pattern, is_pattern

    path = Path(data)
    try:
        if path.is_dir() or path.is_file():
            return path
        is_other = path.exists()
    except OSError as error:
        raise InputError(str(not_readable(path, error))) from error
    if is_other:
        look_at(path)  # says what it is
    if is_pattern(str(data)):
        return expand_pattern(str(data))
    if str(data) in BUILTINS:
        return None
    close = nearest(str(data), BUILTINS, most=1)
    raise InputError(
        f"{str(data)!r} is no folder and no file on this machine, and no built-in data set "
        f"({', '.join(BUILTINS)})" + (f"; did you mean {close[0]!r}?" if close else "; check the path")
    )
