"""Arrays on disk as HDF5: one file a unit, and a virtual data set ``all.h5`` that joins them.

A unit is made as a file image in memory and published whole, so that no HDF5 file is ever open for writing
in a store. Every file holds one data set, ``features``, in chunks with HDF5's Fletcher-32 checksums:
``h5py.File(path)["features"]`` reads it anywhere, without locks.
"""

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store.array_spec import ArraySpec
from toptune.store.errors import CorruptError
from toptune.store.reading import read_file
from toptune.store.units import count_units

METADATA = "all.h5"
_DATASET = "features"
_DIGITS = 6
# Fixed, so that equal values give equal bytes whatever version of HDF5 writes them by default.
_FORMAT = ("v110", "v110")


def unit_path(array: Path, unit: int) -> Path:
    """Return the file of one unit of the array in a folder."""
    return array / _unit_name(unit)


def unit_of(parts: tuple[str, ...]) -> int | None:
    """Return the unit whose file has that path within the array's folder, None if it is no unit's."""
    name = parts[0] if len(parts) == 1 else ""
    stem = name.removesuffix(".h5")
    return int(stem) if stem.isdecimal() and name == _unit_name(int(stem)) else None


def unit_bytes(spec: ArraySpec, unit: int) -> int | None:  # noqa: ARG001
    """Size of a unit's file where it is arithmetic: not for HDF5, whose ledger tells it."""
    return None


def metadata(spec: ArraySpec) -> bytes:
    """Return the array's ``all.h5``: a virtual data set over the units, NaN where one is not there."""
    import h5py

    layout = h5py.VirtualLayout((spec.n_rows, spec.dim), spec.dtype)
    for unit in range(count_units(spec.n_rows, spec.unit_rows)):
        length = spec.unit_length(unit)
        source = h5py.VirtualSource(_unit_name(unit), _DATASET, shape=(length, spec.dim), dtype=spec.dtype)
        layout[unit * spec.unit_rows : unit * spec.unit_rows + length] = source
    with _new_file() as file:
        file.create_virtual_dataset(_DATASET, layout, fillvalue=spec.fill_value)
        return _image(file)


def describe_metadata(data: bytes) -> tuple[int, str]:
    """Return columns and type that an ``all.h5`` tells.

    Raises
    ------
    ValueError, TypeError, LookupError
        If it is none.
    """
    try:
        with _open_image(data) as file:
            found = file[_DATASET]
            return int(found.shape[1]), str(found.dtype)
    except (OSError, RuntimeError) as error:
        raise ValueError(str(error)) from error


def is_same_array(found: bytes, spec: ArraySpec) -> bool:
    """Whether an ``all.h5`` found on disk, perhaps by another version of HDF5, describes `spec`."""
    if found == metadata(spec):
        return True
    try:
        with _open_image(found) as theirs, _open_image(metadata(spec)) as ours:
            return _summary(theirs[_DATASET]) == _summary(ours[_DATASET])
    except (OSError, RuntimeError, KeyError, AttributeError, ValueError):
        return False


def encode_unit(spec: ArraySpec, values: npt.NDArray[Any]) -> bytes:
    """Encode a unit as the bytes of its file.

    Parameters
    ----------
    spec : ArraySpec
    values : array (rows, dim)
        In the array's dtype; only as many rows as the unit has.
    """
    with _new_file() as file:
        file.create_dataset(
            _DATASET,
            data=values,
            dtype=spec.dtype,
            chunks=(min(spec.chunk_rows, len(values)), spec.dim),
            fletcher32=True,
            track_times=False,
        )
        return _image(file)


def decode_unit(spec: ArraySpec, data: bytes, unit: int) -> npt.NDArray[Any]:
    """Decode a unit's file, checking every checksum.

    Returns
    -------
    array (rows, dim)
        The unit's rows of the data set, in the array's dtype.

    Raises
    ------
    CorruptError
        If a checksum does not hold or it is not such a file; the message is to be completed with the
        place.
    """
    try:
        with _open_image(data) as file:
            return _read(spec, file[_DATASET], unit, None)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CorruptError(f"{error}") from error


def read_unit(
    spec: ArraySpec,
    path: Path,
    unit: int,
    *,
    out: npt.NDArray[Any] | None = None,
    check: bool = True,  # noqa: ARG001  (HDF5 always checks)
) -> npt.NDArray[Any]:
    """Read a unit from its file, into `out` (rows, dim) if given; otherwise like `decode_unit`."""
    values = decode_unit(spec, read_file(path), unit)
    if out is None:
        return values
    out[:] = values
    return out


def read_unit_rows(
    spec: ArraySpec, path: Path, unit: int, rows: npt.NDArray[np.intp], *, check: bool
) -> npt.NDArray[Any]:
    """Read some rows of a unit, in the order given; `rows` count within the unit."""
    return read_unit(spec, path, unit, check=check)[rows]


def _read(spec: ArraySpec, found: Any, unit: int, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    expected = (spec.unit_length(unit), spec.dim)
    if found.shape != expected or found.dtype != np.dtype(spec.dtype):
        raise CorruptError(f"holds {found.shape} {found.dtype} where {expected} {spec.dtype} were written")
    if found.is_virtual or found.external or not found.fletcher32:
        # Data of other files, or without a checksum: not what toptune writes.
        raise CorruptError("does not hold its values itself, with checksums")
    if out is None:
        out = np.empty(expected, dtype=spec.dtype)
    found.read_direct(out)
    return out


def _unit_name(unit: int) -> str:
    return f"{unit:0{_DIGITS}d}.h5"


def _new_file() -> Any:
    import h5py

    # HDF5 knows files in memory by name too, and refuses two of one name at once.
    return h5py.File(uuid.uuid4().hex, "w", driver="core", backing_store=False, libver=_FORMAT)


def _image(file: Any) -> bytes:
    file.flush()
    return bytes(file.id.get_file_image())


def _open_image(data: bytes) -> Any:
    import h5py

    return h5py.File(h5py.h5f.open_file_image(data))


def _summary(found: Any) -> tuple[Any, ...]:
    sources = [(s.file_name, s.dset_name, s.vspace.get_regular_hyperslab()) for s in found.virtual_sources()]
    return found.shape, str(found.dtype), sources
