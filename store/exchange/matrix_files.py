"""Arrays in files of other programs, opened to be read in slices of rows; nothing in them is executed."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from toptune.errors import InputError
from toptune.store.arrays.hdf5_format import hdf5_library
from toptune.store.exchange.npz_arrays import load_npz
from toptune.store.exchange.parquet_arrays import open_parquet
from toptune.store.exchange.unpacked import check_unpacked
from toptune.store.files.json_values import parse_json
from toptune.store.files.system_errors import refusal

MATRIX_SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".safetensors", ".parquet")
# The safetensors library refuses longer headers too.
_MAX_HEADER_BYTES = 100_000_000
_TENSOR_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip


class Matrix(Protocol):
    """Rows x features, read in slices of rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, rows: slice) -> Any: ...


def open_arrays(path: Path, *, held_bytes: int = 0) -> dict[str, Matrix]:
    """Open every array of a file, by name; ``.npy`` has one, called like the file.

    ``.npy`` and ``.safetensors`` are memory-mapped, HDF5 and ``.parquet`` are read in slices of rows,
    ``.parquet`` quickly in the order of the rows only. ``.npz`` is loaded whole.

    Parameters
    ----------
    path : Path
        The file.
    held_bytes : int
        Bytes of other arrays that the caller has loaded, which count against the memory limit as well.

    Raises
    ------
    InputError
        If the file is of no known kind or damaged, holds Python objects, refers to other files, unpacks to
        many times its size, or is an ``.npz`` above the memory limit.
    """
    suffix = path.suffix.lower()
    if suffix not in MATRIX_SUFFIXES:
        raise InputError(f"{path} is of no known kind; give one of {', '.join(MATRIX_SUFFIXES)}, or .pt")
    if not path.is_file():
        raise InputError(f"{path} is no file on this machine; check the path")
    try:
        if suffix == ".npy":
            return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False)}
        if suffix == ".npz":
            return dict(load_npz(path, held_bytes=held_bytes))
        if suffix == ".safetensors":
            return _safetensors(path)
        if suffix == ".parquet":
            return dict(open_parquet(path))
        return _hdf5(path)
    except InputError:
        raise
    except Exception as error:  # Every library raises errors of its own.
        why = refusal(error) or f"{type(error).__name__}: {error}"
        raise InputError(f"{path} cannot be read: {why}") from error


class BFloat16Array:
    """Values of type bfloat16, which numpy does not know, read as float32."""

    dtype = np.dtype(np.float32)

    def __init__(self, halves: Any) -> None:
        self._halves = halves
        self.shape: tuple[int, ...] = halves.shape

    def __getitem__(self, rows: slice) -> Any:
        # A bfloat16 is the upper half of a float32.
        return (self._halves[rows].astype(np.uint32) << 16).view(np.float32)


def _safetensors(path: Path) -> dict[str, Matrix]:
    from safetensors import safe_open

    # The library checks the header against the file; its arrays would be loaded whole, so they are mapped
    # below.
    with safe_open(path, "numpy") as file:
        metadata = file.metadata() or {}
    with path.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if header_bytes > _MAX_HEADER_BYTES:
            raise InputError(f"{path} has a header of {header_bytes} bytes, above {_MAX_HEADER_BYTES}")
        header = parse_json(stream.read(header_bytes))
    header.pop("__metadata__", None)
    found: dict[str, Matrix] = {}
    for name, tensor in header.items():
        shape, kind = tuple(tensor["shape"]), tensor["dtype"]
        if 0 in shape:
            continue
        place = 8 + header_bytes + tensor["data_offsets"][0]
        if kind == "BF16":
            found[name] = BFloat16Array(np.memmap(path, "<u2", "r", place, shape))
        elif kind in _TENSOR_TYPES:
            found[name] = np.memmap(path, _TENSOR_TYPES[kind], "r", place, shape)
        else:
            raise InputError(f"{path}: {name} is of type {kind}; save it as F32 or F16")
    # `toptune store export` keeps ids, labels and splits in the metadata.
    if "toptune" in metadata:
        found |= {name: _as_column(metadata[name]) for name in ("id", "label", "split") if name in metadata}
    return found


def _as_column(text: str) -> Matrix:
    return np.array(parse_json(text), dtype=object)


def _hdf5(path: Path) -> dict[str, Matrix]:
    h5py = hdf5_library()
    file = h5py.File(path, "r", locking=False)
    found: dict[str, Matrix] = {}

    def visit(name: str, item: Any) -> None:  # `visititems` follows no links to other files.
        if isinstance(item, h5py.Dataset):
            # A file from elsewhere must not make this process read other files of the machine.
            if item.external or item.is_virtual:
                raise InputError(f"{path}: {name} keeps its values in another file; that is not followed")
            check_unpacked(path, name, item.size * item.dtype.itemsize)
            found[name] = item

    file.visititems(visit)
    return found
