"""CIFAR-10 and CIFAR-100 are read as their authors publish them, in Python batches or the binary version."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.extract.images.folder_listing import FolderListing
from toptune.extract.images.open_files import look_at
from toptune.extract.images.remarks import Remarks
from toptune.extract.images.source import default_name
from toptune.extract.sources.arrays.cifar_pickles import read_cifar_pickle
from toptune.extract.sources.arrays.pixel_arrays import ArrayPart, ArraySource, label_texts
from toptune.store.datasets.outside_text import outside_column, read_lines

SHAPE = (3, 32, 32)
N_PIXELS = 3072
# CIFAR-100 has two labels an image. The fine label is the label of the manifest.
FINE_FIRST = ("fine", "coarse")
_BATCHES = tuple((f"data_batch_{number}", "train") for number in range(1, 6))
_CIFAR_10 = (*_BATCHES, ("test_batch", "test"))
_CIFAR_100 = (("train", "train"), ("test", "test"))


def find_cifar(listing: FolderListing) -> list[Path]:
    """Return the batches of CIFAR in a folder, in order; no files where the folder holds other data."""
    ten = [name for name, _ in _CIFAR_10]
    # The names of CIFAR-100's batches, train and test, say little: they count only beside the file of its
    # classes.
    hundred = [name for name, _ in _CIFAR_100]
    for names, beside in (
        (ten, None),
        ([f"{name}.bin" for name in ten], None),
        (hundred, "meta"),
        ([f"{name}.bin" for name in hundred], "fine_label_names.txt"),
    ):
        there = [listing.folder / name for name in names if name in listing.file_names]
        if there and (beside is None or beside in listing.file_names):
            return there
    return []


def open_cifar(files: list[Path]) -> ArraySource:
    """Open batches of CIFAR-10, or of CIFAR-100, which has `coarse_label` as a further column.

    Pickles are held in memory, and no code in them runs; binary batches stay mapped from the files.

    Raises
    ------
    InputError
        If a batch is cut off, damaged, or holds anything but images and labels.
    """
    folder = files[0].parent
    is_ten = files[0].stem not in dict(_CIFAR_100)
    splits = dict(_CIFAR_10 if is_ten else _CIFAR_100)
    kinds = ("",) if is_ten else FINE_FIRST
    is_binary = files[0].suffix == ".bin"
    remarks = Remarks()
    if len(files) < len(splits):
        there = ", ".join(file.name for file in files)
        remarks.add(
            "file",
            f"missing, of {len(splits)}; there are {there}",
            None,
            code="TT019",
            count=len(splits) - len(files),
        )
    names = {kind: (_binary_names if is_binary else _pickled_names)(folder, kind) for kind in kinds}
    parts = []
    for file in files:
        images, numbers = _read_binary(file, kinds) if is_binary else _read_pickle(file, kinds)
        columns = {
            kind: label_texts(values, f"the {kind or ''} labels of {file}".replace("  ", " "), names[kind])
            for kind, values in numbers.items()
        }
        parts.append(
            ArrayPart(
                images.reshape(-1, *SHAPE),
                columns[kinds[0]],
                splits[file.stem],
                look_at(file).modified_ns,
                has_planes_first=True,
                extra={} if is_ten else {"coarse_label": columns["coarse"]},
            )
        )
    return ArraySource(default_name(folder), parts, remarks=tuple(remarks))


def _read_pickle(
    file: Path, kinds: tuple[str, ...]
) -> tuple[npt.NDArray[np.uint8], Mapping[str, npt.NDArray[np.integer]]]:
    batch = read_cifar_pickle(file)
    images = batch.get("data")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (N_PIXELS,):
        raise InputError(
            f"{file} has the fields {', '.join(sorted(batch)) or 'none'}; a batch of CIFAR has 'data', an "
            "array of "
            f"(n, {N_PIXELS}) bytes"
        )
    numbers = {}
    for kind in kinds:
        name = f"{kind}_labels" if kind else "labels"
        values = batch.get(name)
        is_list = isinstance(values, list) and all(type(value) is int for value in values)
        if not is_list or len(batch[name]) != len(images):
            raise InputError(f"{file} has {len(images)} images and not as many numbers in {name!r}")
        numbers[kind] = np.array(values, dtype=np.int64)
    return images, numbers


def _read_binary(
    file: Path, kinds: tuple[str, ...]
) -> tuple[npt.NDArray[np.uint8], Mapping[str, npt.NDArray[np.integer]]]:
    record = len(kinds) + N_PIXELS
    n_bytes = look_at(file).bytes
    if n_bytes == 0 or n_bytes % record:
        raise InputError(
            f"{file} has {n_bytes} bytes, no multiple of the {record} of an image; it is cut off: "
            "copy it again"
        )
    # A record is the labels and then the three planes of red, green and blue, row by row.
    table = np.memmap(file, np.uint8, "r").reshape(-1, record)
    # In the binary version the coarse label comes before the fine one.
    columns = {kind: table[:, place] for place, kind in enumerate(reversed(kinds))}
    return table[:, len(kinds) :], columns


def _pickled_names(folder: Path, kind: str) -> list[str] | None:
    file = folder / ("batches.meta" if not kind else "meta")
    if not file.is_file():
        return None
    field = f"{kind}_label_names" if kind else "label_names"
    names = read_cifar_pickle(file).get(field)
    if not isinstance(names, list):
        raise InputError(f"{file} has no list {field!r} of names; copy it again")
    return _class_names(names, file)


def _binary_names(folder: Path, kind: str) -> list[str] | None:
    file = folder / (f"{kind}_label_names.txt" if kind else "batches.meta.txt")
    if not file.is_file():
        return None
    return _class_names([*read_lines(file, "the list of classes").values()], file)


def _class_names(names: Sequence[object], file: Path) -> list[str]:
    found = outside_column(names)
    if None in found or len(set(found)) < len(found):
        raise InputError(f"{file} names a class twice, or not at all; copy it again")
    return [str(name) for name in found]
