"""Arrays in safetensors files: written one by one, read whole, and checked before they are used."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from toptune.errors import CorruptError
from toptune.store.files.json_values import parse_json
from toptune.store.files.reading import read_linked
from toptune.store.files.writing import new_file

# safetensors' names of numpy's types; the widest type comes first in a file, so that every array is aligned.
TENSOR_TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """An array that is made piece by piece as it is written, so that it is never in memory whole.

    Attributes
    ----------
    dtype : numpy.dtype
    shape : tuple of int
    pieces : iterable of ndarray
        Consecutive parts of the array along its first axis.
    """

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    pieces: Iterable[npt.NDArray[np.generic]]

    def __iter__(self) -> Iterator[npt.NDArray[np.generic]]:
        return iter(self.pieces)


def write_tensors(
    path: Path,
    arrays: Mapping[str, npt.NDArray[np.generic] | Pieces],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, array after array, without a second copy of them in memory."""
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    sizes = {name: (values.dtype.name, values.shape) for name, values in ordered}
    with new_file(path) as file:
        file.write(tensors_header(sizes, metadata))
        for _, values in ordered:
            for piece in values if isinstance(values, Pieces) else [values]:
                file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)


def tensors_header(
    tensors: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return the first bytes of a safetensors file, behind which the arrays stand in the order given.

    Parameters
    ----------
    tensors : mapping of str to (str, sequence of int)
        Type, by numpy's name, and shape of each array.
    metadata : mapping of str to str, optional
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        header[name] = {"dtype": TENSOR_TYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    # Arrays begin at a multiple of 8 bytes, so that readers can map them.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_tensors(path: Path, *, advice: str) -> tuple[dict[str, npt.NDArray[np.generic]], dict[str, str]]:
    """Read the arrays and the metadata of a file, whose numbers must all be finite.

    Parameters
    ----------
    path : Path
    advice : str
        The next step if the file is damaged, such as ``train again``.

    Raises
    ------
    CorruptError
        If the file is missing or damaged, or holds a number that is not finite.
    StoreError
        If the system refuses to read it; safetensors itself would say that there is no such file.
    """
    try:
        # Read and not mapped: a disk that fails under a mapping ends the process.
        data = read_linked(path)
        arrays = load(data)
        size = int.from_bytes(data[:8], "little")
        metadata = parse_json(data[8 : 8 + size]).get("__metadata__", {})
    except FileNotFoundError as error:
        raise CorruptError(f"{path} is missing; {advice}", path) from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise CorruptError(f"{path} cannot be read ({error}); {advice}", path) from error
    check_finite_arrays(path, arrays, advice=advice)
    return arrays, metadata


def check_finite_arrays(path: Path, arrays: dict[str, npt.NDArray[np.generic]], *, advice: str) -> None:
    """Refuse arrays that hold NaN or infinity, which would pass through a prediction without an error."""
    for name, values in arrays.items():
        if values.dtype.kind in "fc" and not np.isfinite(values).all():
            raise CorruptError(
                f"{path}: {name} holds a number that is not finite, and nothing can be computed with it; "
                f"{advice}",
                path,
            )
