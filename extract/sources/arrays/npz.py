"""Arrays of images in an ``.npz`` are found by the names of keras (``x_train``, ``y_train``) and MedMNIST."""

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.extract.images.open_files import look_at
from toptune.extract.images.remarks import Remarks
from toptune.extract.images.source import SPLITS, default_name
from toptune.extract.sources.arrays.pixel_arrays import ArrayPart, ArraySource, array_labels, check_images
from toptune.store.datasets.outside_text import column_names
from toptune.store.files.system_errors import refusal

# A compressed array cannot be mapped, and a small file can unpack to a large array.
MAX_LOADED_BYTES = 4 * 2**30
IMAGES = ("x", "images", "image", "data", "pictures")
LABELS = ("y", "labels", "label", "targets", "target")
_ORDER = ("train", "val", "test", None)
# Errors that zipfile and numpy raise on damaged bytes; numpy parses its headers as literals of Python.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, OSError, EOFError, ValueError),
    *(RuntimeError, SyntaxError, TypeError, KeyError, IndexError, OverflowError, MemoryError),
)
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def open_npz(path: Path) -> ArraySource:
    """Open images and labels in an ``.npz``.

    Names are made of ``x`` or ``images`` for images, ``y`` or ``labels`` for labels, and the split before
    or after, where there are splits: ``x_train``, ``train_images``, ``val_labels``. Arrays that were saved
    uncompressed (``numpy.savez``) are mapped, the others are loaded once.

    Raises
    ------
    InputError
        If no array has such a name, or an array cannot be used.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            names = column_names([info.filename.removesuffix(".npy") for info in infos], str(path))
            members = {name: info for name, info in zip(names, infos, strict=True) if name is not None}
            roles = {name: role for name in members if (role := _role(name)) is not None}
            unused = sorted(set(members) - set(roles))
            found: dict[tuple[str, str | None], str] = {}
            for name, role in roles.items():
                if role in found:
                    raise InputError(f"{path} has both {found[role]!r} and {name!r}; save only one of them")
                found[role] = name
            arrays = {role: _read(path, archive, members[name]) for role, name in found.items()}
    except _DAMAGE as error:
        if isinstance(error, InputError):
            raise
        if why := refusal(error):
            raise InputError(f"{path} cannot be read: {why}") from error
        raise InputError(
            f"{path} is no whole .npz file, or holds Python objects: {error}; save it again"
        ) from error
    remarks = Remarks()
    unused += [name for (_, split), name in found.items() if ("images", split) not in found]
    for name in unused:
        remarks.add("array", "neither images nor their labels, by their names", name, code="TT019")
    modified_ns = look_at(path).modified_ns
    parts = []
    for split in _ORDER:
        if ("images", split) not in arrays:
            continue
        images = check_images(arrays["images", split], f"array {found['images', split]!r} of {path}")
        labels: list[str | None] = [None] * len(images)
        extra: dict[str, list[str | None]] = {}
        if ("labels", split) in arrays:
            where = f"array {found['labels', split]!r} of {path}"
            labels, extra = array_labels(arrays["labels", split], len(images), where)
        parts.append(ArrayPart(images, labels, split, modified_ns, extra=extra))
    if not parts:
        raise InputError(
            f"{path} holds the arrays {', '.join(sorted(members)) or 'none'}; images are in x_train and "
            "x_test, in train_images, val_images and test_images, or in images, with labels in y_train, "
            "train_labels, ..."
        )
    return ArraySource(default_name(path.with_suffix("")), parts, remarks=tuple(remarks))


def _role(name: str) -> tuple[str, str | None] | None:
    """Return the role and the split that the name of an array says, or None for other arrays."""
    words = name.lower().split("_")
    splits = [SPLITS[word] for word in words if word in SPLITS]
    rest = [word for word in words if word not in SPLITS]
    if len(rest) != 1 or len(splits) > 1:
        return None
    split = splits[0] if splits else None
    if rest[0] in IMAGES:
        return "images", split
    return ("labels", split) if rest[0] in LABELS else None


def _read(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> npt.NDArray[np.generic]:
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        reader = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, is_fortran, dtype = reader(stream)
        header_bytes = stream.tell()
    # Objects are stored as a pickle, which is a program: the type is checked before any value is read.
    if dtype.hasobject:
        raise InputError(
            f"array {info.filename!r} of {path} holds Python objects, which are never loaded; save it as "
            "integers, texts or uint8 images"
        )
    n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if info.file_size != header_bytes + n_bytes:
        raise InputError(f"array {info.filename!r} of {path} is cut off or damaged; save it again")
    # numpy itself maps no array inside an archive. A stored member is a plain .npy file at an offset.
    if info.compress_type == zipfile.ZIP_STORED and n_bytes:
        with path.open("rb") as file:
            file.seek(info.header_offset)
            magic, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if magic != b"PK\x03\x04":
            raise InputError(f"{path} is damaged at byte {info.header_offset}; save it again")
        offset = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes + header_bytes
        return np.memmap(path, dtype, "r", offset, shape, order="F" if is_fortran else "C")
    if n_bytes > MAX_LOADED_BYTES:
        raise InputError(
            f"array {info.filename!r} of {path} unpacks to {n_bytes} bytes, more than the "
            f"{MAX_LOADED_BYTES} that are "
            "held in memory; save it with numpy.savez, then it is mapped"
        )
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
