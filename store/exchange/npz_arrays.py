"""Arrays in ``.npz`` files, loaded whole as far as the memory limit allows."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.machine.memory import check_memory
from toptune.store.files.system_errors import refusal

_DAMAGE = (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)
# numpy writes these two methods. zipfile unpacks them piece by piece, so that a small file cannot fill
# memory.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def load_npz(path: Path, *, held_bytes: int = 0) -> dict[str, npt.NDArray[np.generic]]:
    """Load every array of an ``.npz``, by name.

    Parameters
    ----------
    path : Path
        The file.
    held_bytes : int
        Bytes of arrays from other files that the caller has loaded already.

    Raises
    ------
    InputError
        If the arrays and `held_bytes` are above the memory limit together, or a member is damaged or holds
        Python objects.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_size(path, members, held_bytes)
        arrays = [member for member in members if member.filename.endswith(".npy")]
        return {each.filename.removesuffix(".npy"): _load_member(path, archive, each) for each in arrays}


def _check_size(path: Path, members: Sequence[zipfile.ZipInfo], held_bytes: int) -> None:
    """Refuse an archive whose directory says that it unpacks to more than the memory limit."""
    for member in members:
        if member.compress_type not in _METHODS:
            raise InputError(
                f"{path}: {member.filename} is compressed by method {member.compress_type} of zip, and only "
                "methods 0 and 8 are read; save it with numpy.savez_compressed"
            )
    check_memory(
        # All members count, because several may share the same bytes of the file.
        held_bytes + sum(member.file_size for member in members),
        limit_bytes=None,
        what=f"loading {path}" + (" beside the .npz files before it" if held_bytes else ""),
        instead="save its arrays as .npy, HDF5 or Parquet, which are read in slices of rows",
    )


def _load_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[np.generic]:
    """Load an array to the member's last byte, because only then zipfile compares the checksum."""
    try:
        with archive.open(member) as stream:
            values: npt.NDArray[np.generic] = np.lib.format.read_array(stream, allow_pickle=False)
            has_more = bool(stream.read(1))
    except _DAMAGE as error:
        if why := refusal(error):
            raise InputError(f"{path} cannot be read: {why}") from error
        raise InputError(
            f"{path}: {member.filename} is damaged, or no array of plain numbers or text: {error}; save it "
            "again, names as text"
        ) from error
    if has_more:
        raise InputError(
            f"{path}: {member.filename} has {member.file_size} bytes, more than an array of shape "
            f"{values.shape} and type {values.dtype} needs; save it again"
        )
    return values
