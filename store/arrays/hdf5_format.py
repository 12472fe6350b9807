"""Arrays on disk as HDF5: one file a unit, and a virtual data set ``all.h5`` that joins them.

A unit is made as a file image in memory and published whole, so that no HDF5 file is ever open for writing
in a store. Every file holds one data set, ``features``, in chunks with HDF5's Fletcher-32 checksums. The
file's user block holds the digest of the rest. ``h5py.File(path)["features"]`` reads the file anywhere.
"""

import hashlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError, InputError
from toptune.store.arrays.spec import OF_ANOTHER_UNIT, ArraySpec
from toptune.store.arrays.units import count_units
from toptune.store.files.json_values import canonical_json, parse_json
from toptune.store.files.place import place_at
from toptune.store.files.reading import read_file, regular_size

METADATA = "all.h5"
_DATASET = "features"
_DIGITS = 6
_USER_BLOCK = 1024
# The file format is fixed, so that equal values give equal bytes whatever HDF5 writes by default.
_FORMAT = ("v110", "v110")
# Older versions give the image of a file with a user block a superblock whose checksum does not hold, so
# that no version can read the file again.
_WRITING_HDF5 = (2, 0, 0)


def hdf5_library(*, writes: bool = False) -> Any:
    """Return h5py.

    Parameters
    ----------
    writes : bool, optional
        Whether files are to be written, for which its HDF5 must be new enough.

    Raises
    ------
    InputError
        If h5py is missing, or its HDF5 is too old to write; the message says how to get it.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError("HDF5 files need h5py; pip install 'h5py>=3.16'") from error
    if writes and h5py.version.hdf5_version_tuple < _WRITING_HDF5:
        raise InputError(
            f"units in HDF5 are written with HDF5 2.0 or newer, and h5py {h5py.__version__} has HDF5 "
            f"{h5py.version.hdf5_version}, whose file images cannot be read again; pip install "
            "'h5py>=3.16', or take the format zarr"
        )
    return h5py


def unit_path(array: Path, unit: int) -> Path:
    """Return the file of one unit of the array in a folder."""
    return array / _unit_name(unit)


def unit_of(parts: tuple[str, ...]) -> int | None:
    """Return the unit that a path within the array's folder belongs to; None for other files."""
    name = parts[0] if len(parts) == 1 else ""
    stem = name.removesuffix(".h5")
    return int(stem) if stem.isdecimal() and name == _unit_name(int(stem)) else None


def unit_bytes(spec: ArraySpec, unit: int) -> int | None:  # noqa: ARG001
    """Return None: only the ledger knows the size of an HDF5 file."""
    return None


def metadata(spec: ArraySpec) -> bytes:
    """Return the array's ``all.h5``: a virtual data set over the units, NaN where a unit is missing."""
    h5d, h5p, h5s, h5t = (getattr(hdf5_library(), name) for name in ("h5d", "h5p", "h5s", "h5t"))
    # The low-level functions are used because h5py's others stamp a virtual data set with the time.
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    properties.set_fill_value(np.array([spec.fill_value], dtype=spec.dtype))
    whole = h5s.create_simple((spec.n_rows, spec.dim))
    for unit in range(count_units(spec.n_rows, spec.unit_rows)):
        size = (spec.unit_length(unit), spec.dim)
        whole.select_hyperslab((unit * spec.unit_rows, 0), size)
        name = _unit_name(unit).encode()
        properties.set_virtual(whole, name, _DATASET.encode(), h5s.create_simple(size))
    whole.select_all()
    with _new_file() as file:
        kind = h5t.py_create(np.dtype(spec.dtype), logical=True)
        h5d.create(file.id, _DATASET.encode(), kind, whole, dcpl=properties)
        return _sealed(file, {"array": spec.to_dict()})


def describe_metadata(data: bytes) -> tuple[int, str]:
    """Return the number of columns and the type that an ``all.h5`` describes.

    Raises
    ------
    ValueError, TypeError, LookupError
        If `data` is no such file.
    """
    try:
        spec = _unsealed(data)["array"]
    except CorruptError as error:
        raise ValueError(str(error)) from error
    return int(spec["dim"]), str(spec["dtype"])


def is_same_array(found: bytes, spec: ArraySpec) -> bool:
    """Whether an ``all.h5`` found on disk, perhaps by another version of HDF5, describes `spec`."""
    try:
        return bool(_unsealed(found).get("array") == spec.to_dict())
    except CorruptError:
        return False


def encode_unit(spec: ArraySpec, values: npt.NDArray[np.number]) -> bytes:
    """Encode a unit as the bytes of its file.

    Parameters
    ----------
    spec : ArraySpec
    values : array (rows, dim)
        Values in the array's dtype; only as many rows as the unit has.
    """
    with _new_file() as file:
        file.create_dataset(
            _DATASET,
            data=values,
            dtype=spec.dtype,
            chunks=(min(spec.chunk_rows, len(values)), spec.dim),
            fletcher32=True,
            # A time stamp would make equal values give other bytes.
            track_times=False,
        )
        return _sealed(file, {"array": spec.name, "rows": len(values)})


def decode_unit(spec: ArraySpec, data: bytes, unit: int) -> npt.NDArray[np.number]:
    """Decode a unit's file, checking every checksum.

    Returns
    -------
    array (rows, dim)
        The unit's rows of the data set, in the array's dtype.

    Raises
    ------
    CorruptError
        If a checksum does not hold, or `data` is no such file. The caller adds the path to the message.
    """
    _unsealed(data)
    return _decode(spec, data, unit)


def checksum(spec: ArraySpec, data: bytes) -> str | None:  # noqa: ARG001
    """Return what tells a unit's file from those of other units: the digest in the user block.

    None if `data` is no such file.
    """
    try:
        return str(parse_json(data[:_USER_BLOCK])["sha256"])
    except (ValueError, TypeError, KeyError):
        return None


def read_checksum(spec: ArraySpec, path: Path) -> str | None:
    """Read the `checksum` of a unit's file without reading the whole of it."""
    size = regular_size(path) or 0
    if size < _USER_BLOCK:
        return None
    head = bytearray(_USER_BLOCK)
    place_at(path).read_scattered([memoryview(head)], offset=0, file_bytes=size)
    return checksum(spec, bytes(head))


def read_unit(
    spec: ArraySpec,
    path: Path,
    unit: int,
    *,
    out: npt.NDArray[np.number] | None = None,
    check: bool = True,
    checksum: str | None = None,
) -> npt.NDArray[np.number]:
    """Read a unit from its file, into `out` (rows, dim) if given; otherwise like `decode_unit`.

    A `checksum` that the file does not have is a `CorruptError`.
    """
    # The whole file is read into memory, because its digest must hold before HDF5 sees a byte.
    data = read_file(path)
    if check and checksum not in (None, _unsealed(data)["sha256"]):
        raise CorruptError(OF_ANOTHER_UNIT)
    return _decode(spec, data, unit, out)


def read_unit_rows(
    spec: ArraySpec,
    path: Path,
    unit: int,
    rows: npt.NDArray[np.intp],
    *,
    check: bool,
    checksum: str | None = None,
) -> npt.NDArray[np.number]:
    """Read some rows of a unit, in the order given; `rows` count within the unit."""
    return read_unit(spec, path, unit, check=check, checksum=checksum)[rows]


def _decode(
    spec: ArraySpec, data: bytes, unit: int, out: npt.NDArray[np.number] | None = None
) -> npt.NDArray[np.number]:
    h5py = hdf5_library()
    expected = (spec.unit_length(unit), spec.dim)
    try:
        # HDF5 opens the bytes that were checked, not the path, at which another file may stand by now.
        with h5py.File(h5py.h5f.open_file_image(data)) as file:
            found = file[_DATASET]
            if found.shape != expected or found.dtype != np.dtype(spec.dtype):
                was = f"{found.shape} {found.dtype}"
                raise CorruptError(f"holds {was} where {expected} {spec.dtype} were written")
            if found.is_virtual or found.external or not found.fletcher32:
                # Another program may have sealed a file like this. A virtual data set could lead to any
                # file of the machine, and toptune writes neither such data sets nor values without
                # checksums.
                raise CorruptError("does not hold its values itself, with checksums")
            if out is None:
                out = np.empty(expected, dtype=spec.dtype)
            found.read_direct(out)
            return out
    except CorruptError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CorruptError(f"{error}") from error


def _sealed(file: Any, values: Mapping[str, object]) -> bytes:
    """Return a file's image behind a user block that holds `values` and the digest of the image."""
    file.flush()
    # HDF5 gives the image without the user block, which is put before the image here.
    image = bytes(file.id.get_file_image())
    digest = hashlib.sha256(image).hexdigest()
    head = canonical_json({"format": "toptune-hdf5", "sha256": digest, **values}).encode()
    return head.ljust(_USER_BLOCK - 1) + b"\n" + image


def _unsealed(data: bytes) -> dict[str, Any]:
    """Return the user block of a file after comparing the file with its digest.

    This comes before HDF5 sees the file, because a damaged file can crash the library.
    """
    image = memoryview(data)[_USER_BLOCK:]
    try:
        values = parse_json(data[:_USER_BLOCK])
        head = canonical_json(values).encode().ljust(_USER_BLOCK - 1) + b"\n"
        is_sound = head == data[:_USER_BLOCK] and values["sha256"] == hashlib.sha256(image).hexdigest()
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptError(f"has no user block of toptune's: {error}") from error
    if not is_sound:
        raise CorruptError("does not match the digest in its user block")
    return dict(values)


def _unit_name(unit: int) -> str:
    return f"{unit:0{_DIGITS}d}.h5"


def _new_file() -> Any:
    h5py = hdf5_library(writes=True)
    # HDF5 knows files in memory by name too, and refuses two of one name at once.
    return h5py.File(
        uuid.uuid4().hex, "w", driver="core", backing_store=False, libver=_FORMAT, userblock_size=_USER_BLOCK
    )
