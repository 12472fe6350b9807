"""Idx files such as MNIST's ``train-images-idx3-ubyte`` are read, also where they are compressed."""

import gzip
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.extract.images.folder_listing import FolderListing, list_folder
from toptune.extract.images.open_files import look_at
from toptune.extract.images.remarks import Remarks
from toptune.extract.images.source import default_name
from toptune.extract.sources.arrays.pixel_arrays import ArrayPart, ArraySource, array_labels, check_images
from toptune.store.files.system_errors import refusal

# A compressed file cannot be mapped. A header may say any size, and a small file can unpack to a large one.
MAX_LOADED_BYTES = 4 * 2**30
# An idx file begins with two zeros, the type (8 is the unsigned byte) and the number of dimensions.
IDX_MAGICS = tuple(bytes([0, 0, 8, dimensions]) for dimensions in (1, 3, 4))
_NAME = re.compile(r"idx[1-4]-ubyte(\.gz)?$", re.IGNORECASE)
_IMAGES = re.compile(r"images|idx[34]", re.IGNORECASE)
_SPLITS = (("t10k", "test"), ("test", "test"), ("train", "train"), ("val", "val"))


def find_idx(listing: FolderListing) -> list[Path]:
    """Return the idx files of images in a folder, or in its folder ``raw``, where torchvision puts them.

    A compressed file is passed over where the unpacked file lies beside it.
    """
    for place in (listing, listing.inner("raw")):
        names = [name for name in place.files if _NAME.search(name)]
        names = [name for name in names if name.removesuffix(".gz") == name or name[:-3] not in names]
        if names:
            return [place.folder / name for name in names if _IMAGES.search(name)]
    return []


def open_idx(files: list[Path]) -> ArraySource:
    """Open idx files of images, each together with the file of labels of the same name, where one exists.

    Splits are told by the names: ``train``, ``val``, ``test`` or ``t10k``. Uncompressed files are mapped.

    Raises
    ------
    InputError
        If a file is cut off or of another kind, or two files belong to one split.
    """
    parts: list[ArrayPart] = []
    for file in files:
        images = check_images(read_idx(file), str(file))
        labels_file = _labels_file(file)
        labels: list[str | None] = [None] * len(images)
        extra: dict[str, list[str | None]] = {}
        if labels_file is not None:
            labels, extra = array_labels(read_idx(labels_file), len(images), str(labels_file))
        split = next((name for text, name in _SPLITS if text in file.name.lower()), None)
        twice = next((other for other, part in zip(files, parts, strict=False) if part.split == split), None)
        if twice is not None:
            raise InputError(
                f"{twice.name} and {file.name} in {file.parent} both are {split or 'of no'} split; give one "
                "of the files, or a folder with those of one data set"
            )
        parts.append(ArrayPart(images, labels, split, look_at(file).modified_ns, extra=extra))
    folder, remarks = files[0].parent, Remarks()
    of_images = {found.name.removesuffix(".gz") for file in files if (found := _labels_file(file))}
    for name in list_folder(folder).files:
        is_labels = _NAME.search(name) and not _IMAGES.search(name)
        if is_labels and name.removesuffix(".gz") not in of_images:
            remarks.add("file", "of labels without images", name, code="TT019")
    name = default_name(folder.parent if folder.name == "raw" else folder)
    return ArraySource(name, parts, remarks=tuple(remarks))


def read_idx(file: Path) -> npt.NDArray[np.uint8]:
    """Read an idx file of unsigned bytes; a file that is not compressed is mapped.

    Raises
    ------
    InputError
        If the file is cut off, damaged, of another type or too large to be unpacked.
    """
    try:
        with file.open("rb") as stream:
            is_packed = stream.read(2) == b"\x1f\x8b"
        if not is_packed:
            return _mapped(file)
        with gzip.open(file) as stream:
            shape = _shape(stream.read(16), file)
            # Python's integers do not overflow, as the product of three numbers of 32 bits can in int64.
            n_bytes = int(np.prod(shape, dtype=object))
            if n_bytes > MAX_LOADED_BYTES:
                raise InputError(
                    f"{file} unpacks to {n_bytes} bytes, more than the {MAX_LOADED_BYTES} that are held in "
                    "memory; unpack it with `gunzip`, then it is mapped"
                )
            stream.seek(4 + 4 * len(shape))
            data = stream.read(n_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        why = refusal(error) or f"it is cut off or damaged ({error}); copy it again"
        raise InputError(f"{file} cannot be read: {why}") from error
    if len(data) != n_bytes:
        raise InputError(_length(file, n_bytes, "fewer" if len(data) < n_bytes else "more"))
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _mapped(file: Path) -> npt.NDArray[np.uint8]:
    with file.open("rb") as stream:
        shape = _shape(stream.read(20), file)
    offset = 4 + 4 * len(shape)
    wanted, there = int(np.prod(shape, dtype=object)), file.stat().st_size - offset
    if there != wanted:
        raise InputError(_length(file, wanted, "fewer" if there < wanted else "more"))
    return np.memmap(file, dtype=np.uint8, mode="r", offset=offset, shape=shape)


def _shape(head: bytes, file: Path) -> tuple[int, ...]:
    if head[:4] not in IDX_MAGICS or len(head) < 4 + 4 * head[3]:
        raise InputError(
            f"{file} begins with {head[:4].hex(' ')}; an idx file of labels or images begins with 00 00 "
            "08 and "
            "01 or 03 (bytes of one or three dimensions)"
        )
    return struct.unpack(f">{head[3]}I", head[4 : 4 + 4 * head[3]])


def _length(file: Path, n_bytes: int, than: str) -> str:
    return (
        f"{file} holds {than} than the {n_bytes} bytes that its header says; it is cut off or damaged: "
        "copy it again"
    )


def _labels_file(file: Path) -> Path | None:
    stem = file.name.removesuffix(".gz")
    name = re.sub("idx[34]", "idx1", re.sub("images", "labels", stem))
    for candidate in (file.with_name(name), file.with_name(f"{name}.gz")):
        if name != stem and candidate.is_file():
            return candidate
    return None
