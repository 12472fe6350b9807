"""`ArraySource`: images that are arrays of pixels, from idx files, ``.npz`` and CIFAR."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.extract.images.labels import join_labels
from toptune.extract.images.remarks import Remark
from toptune.store.datasets.manifest import LABELS_COLUMN, Manifest
from toptune.store.datasets.outside_text import array_values, outside_column

COLORS = 3


@dataclass(frozen=True)
class ArrayPart:
    """Images in one array.

    Attributes
    ----------
    images : array (n, h, w), (n, h, w, 1), (n, h, w, 3), or (n, 3, h, w) with `has_planes_first`, of uint8
        The images; may be mapped from a file.
    labels : sequence of str or None (n,)
        Label of each image.
    split : str or None
        Split of all images of the array.
    modified_ns : int
        Modification time of the file that holds the images, nanoseconds.
    has_planes_first : bool
        Whether each color of an image is a plane of its own.
    extra : mapping of str to sequence of str or None (n,)
        Further columns.
    """

    images: npt.NDArray[np.uint8]
    labels: Sequence[str | None]
    split: str | None
    modified_ns: int
    has_planes_first: bool = False
    extra: Mapping[str, Sequence[str | None]] = field(default_factory=dict)


class ArraySource:
    """Images in arrays; `read` returns an image as a PGM or PPM file, a short header before the pixels.

    Unlike PNG these formats have no compressor, so that digests are the same on every machine. Ids are the
    split and the number of the row in the split.

    Parameters
    ----------
    name : str
        Name of the data set.
    parts : sequence of ArrayPart
        Parts of one split are numbered on.
    remarks : sequence of Remark
        What of the files is not used.
    """

    def __init__(self, name: str, parts: Sequence[ArrayPart], *, remarks: Sequence[Remark] = ()) -> None:
        self.name = name
        self.remarks = tuple(remarks)
        self._parts = list(parts)
        lengths = [len(part.images) for part in parts]
        self._starts = np.cumsum([0, *lengths])
        self._headers = [_header(part) for part in parts]
        each_bytes = [
            len(header) + int(np.prod(part.images.shape[1:]))
            for header, part in zip(self._headers, parts, strict=True)
        ]
        self._manifest = Manifest.from_columns(
            ids=_ids(parts),
            labels=[label for part in parts for label in part.labels],
            splits=[part.split for part in parts for _ in range(len(part.images))],
            sizes=np.repeat(np.array(each_bytes, dtype=np.int64), lengths),
            modified_ns=np.repeat(np.array([part.modified_ns for part in parts], dtype=np.int64), lengths),
            extra=_extra(parts),
        )

    def manifest(self) -> Manifest:
        return self._manifest

    def read(self, row: int) -> bytes:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        part = self._parts[number]
        pixels = part.images[row - int(self._starts[number])]
        if part.has_planes_first:
            pixels = np.moveaxis(pixels, 0, -1)
        return self._headers[number] + bytes(pixels.tobytes())


def check_images(images: npt.NDArray[np.generic], where: str) -> npt.NDArray[np.uint8]:
    """Check that an array holds images, and return the array.

    Raises
    ------
    InputError
        If the type is not uint8, or the shape not (n, h, w), (n, h, w, 1) or (n, h, w, 3).
    """
    # Other types have no agreed range: a float image may go from 0 to 1 or from 0 to 255.
    if images.dtype != np.uint8:
        raise InputError(
            f"{where} is of {images.dtype}; images are uint8 from 0 to 255: {_conversion(images.dtype)}"
        )
    shape = images.shape
    is_gray, is_color = images.ndim == 3, images.ndim == 4 and shape[3] in (1, COLORS)
    if not (is_gray or is_color) or 0 in shape[1:]:
        hint = _hint(shape)
        raise InputError(
            f"{where} has the shape {shape}; images are (n, height, width), (n, height, width, 1) or "
            f"(n, height, width, 3){hint}"
        )
    checked: npt.NDArray[np.uint8] = images  # type: ignore[assignment]
    return checked


def _conversion(dtype: np.dtype[np.generic]) -> str:
    """Say how values of another type become uint8."""
    if dtype.kind == "b":
        return "convert it by 255 * x.astype('uint8')"
    if dtype.kind == "f":
        return "convert it, for instance by (255 * x).round().astype('uint8') where x is from 0 to 1"
    if dtype.kind == "u":
        return (
            "convert it by x.astype('uint8') where no value is above 255; larger values are scaled first, "
            f"for instance by (x // {256 ** (dtype.itemsize - 1)}).astype('uint8') where they use all "
            f"{8 * dtype.itemsize} bits"
        )
    if dtype.kind == "i" and dtype.itemsize > 1:
        return "convert it by x.astype('uint8') where all values are from 0 to 255, and scale others first"
    return "scale its values to that range, and save them with astype('uint8')"


def _hint(shape: tuple[int, ...]) -> str:
    """Say how an array of another shape becomes one of images, where its shape tells."""
    if len(shape) == 2:
        return "; give each image its height and width, with x.reshape(n, height, width)"
    if len(shape) != 4:
        return ""
    if shape[3] == COLORS + 1:
        return f"; these have {COLORS + 1} channels: drop alpha, with x[..., :3]"
    if shape[1] in (1, COLORS):
        return "; move the colors last, with numpy.moveaxis(x, 1, -1)"
    if shape[1] == COLORS + 1:
        return "; drop alpha and move the colors last, with numpy.moveaxis(x[:, :3], 1, -1)"
    return f"; these have {shape[3]} channels: choose 1 or 3 of them"


def _header(part: ArrayPart) -> bytes:
    shape = part.images.shape[1:]
    height, width = shape[1:] if part.has_planes_first else shape[:2]
    is_color = len(shape) > 2 and COLORS in (shape[0] if part.has_planes_first else shape[2],)
    return b"P%d\n%d %d\n255\n" % (6 if is_color else 5, width, height)


def _ids(parts: Sequence[ArrayPart]) -> list[str]:
    ids: list[str] = []
    seen: dict[str | None, int] = {}
    for part in parts:
        first = seen.get(part.split, 0)
        last = seen[part.split] = first + len(part.images)
        prefix = "" if part.split is None else f"{part.split}/"
        ids += [f"{prefix}{row:08d}" for row in range(first, last)]
    return ids


def _extra(parts: Sequence[ArrayPart]) -> dict[str, list[str | None]]:
    names = {name: None for part in parts for name in part.extra}
    return {
        name: [value for part in parts for value in part.extra.get(name, [None] * len(part.images))]
        for name in names
    }


def array_labels(
    values: npt.NDArray[np.generic], n: int, where: str
) -> tuple[list[str | None], dict[str, list[str | None]]]:
    """Turn an array into labels and further columns.

    Parameters
    ----------
    values : array (n,), (n, 1) or (n, k)
        Whole numbers or texts; a matrix of zeros and ones says which of k labels each image has.
    n : int
        Number of images.
    where : str
        Name of the array, for messages.

    Raises
    ------
    InputError
        If the array has not one row an image, or holds neither whole numbers nor texts.
    """
    if values.ndim not in (1, 2) or len(values) != n:
        raise InputError(f"{where} has the shape {values.shape} for {n} images; it needs one row an image")
    if values.ndim == 2 and values.shape[1] > 1:
        if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
            raise InputError(
                f"{where} is of {values.dtype} and has {values.shape[1]} columns that are not all 0 and 1; "
                "give one label an image, for instance values.argmax(axis=1), or a column of zeros and ones "
                "for each label"
            )
        rows = [np.flatnonzero(row).tolist() for row in values]
        labels, joined = join_labels(rows, where)
        return labels, {LABELS_COLUMN: joined}
    return label_texts(values.reshape(n), where), {}


def label_texts(
    values: npt.NDArray[np.generic], where: str, names: Sequence[str] | None = None
) -> list[str | None]:
    """Turn numbers or texts into labels; whole numbers become names where names are given.

    Raises
    ------
    InputError
        If the values are neither numbers nor texts, or a number has no name.
    """
    kind = values.dtype.kind
    if kind not in "biufUS":
        raise InputError(f"{where} is of {values.dtype}; labels are numbers or texts: convert it")
    if kind in "US" or names is None:
        return outside_column(array_values(values, where))
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < len(names):
        raise InputError(
            f"{where} has labels from {values.min()} to {values.max()} for {len(names)} names; one of the "
            "two files is another data set's, or damaged"
        )
    return [names[int(value)] for value in values.tolist()]
