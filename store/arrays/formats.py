"""The formats in which an array can be stored, behind one contract."""

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from toptune.store.arrays import hdf5_format, zarr_format
from toptune.store.arrays.spec import ArraySpec


class ArrayFormat(Protocol):
    """What the module of a format offers; see `zarr_format` for what each function means."""

    METADATA: str

    def unit_path(self, array: Path, unit: int) -> Path: ...
    def unit_of(self, parts: tuple[str, ...]) -> int | None: ...
    def unit_bytes(self, spec: ArraySpec, unit: int) -> int | None: ...
    def metadata(self, spec: ArraySpec) -> bytes: ...
    def describe_metadata(self, data: bytes) -> tuple[int, str]: ...
    def is_same_array(self, found: bytes, spec: ArraySpec) -> bool: ...
    def encode_unit(self, spec: ArraySpec, values: npt.NDArray[np.number]) -> bytes: ...
    def decode_unit(self, spec: ArraySpec, data: bytes, unit: int) -> npt.NDArray[np.number]: ...
    def checksum(self, spec: ArraySpec, data: bytes) -> str | None: ...
    def read_checksum(self, spec: ArraySpec, path: Path) -> str | None: ...
    def read_unit(
        self,
        spec: ArraySpec,
        path: Path,
        unit: int,
        *,
        out: npt.NDArray[np.number] | None = None,
        check: bool = True,
        checksum: str | None = None,
    ) -> npt.NDArray[np.number]: ...
    def read_unit_rows(
        self,
        spec: ArraySpec,
        path: Path,
        unit: int,
        rows: npt.NDArray[np.intp],
        *,
        check: bool,
        checksum: str | None = None,
    ) -> npt.NDArray[np.number]: ...


# Modules fit the protocol as they are, so that a format needs no class and no instance.
_FORMATS: dict[str, ArrayFormat] = {"zarr": zarr_format, "hdf5": hdf5_format}


def format_of(name: str) -> ArrayFormat:
    """Return the functions of a format, ``"zarr"`` or ``"hdf5"``."""
    return _FORMATS[name]


def require_format(name: str) -> None:
    """Refuse a format whose library is missing here, or too old to write.

    Parameters
    ----------
    name : {"zarr", "hdf5"}

    Raises
    ------
    InputError
        If new arrays of the format cannot be written here; the message says how to get it.
    """
    if name == "hdf5":
        hdf5_format.hdf5_library(writes=True)


def holds_array(folder: Path) -> bool:
    """Whether a folder was made as an array of some format: it has a metadata file, or units."""
    inside = [path.relative_to(folder).parts for path in folder.rglob("*")]
    return any(
        parts == (made.METADATA,) or made.unit_of(parts) is not None
        for parts in inside
        for made in _FORMATS.values()
    )
