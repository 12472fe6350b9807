"""Arrays on disk as Zarr v3: one shard file a unit, byte for byte what zarr itself would write.

zarr's own stores replace files without fsync, and return the fill value for a missing file. So toptune makes
and reads the shards (`zarr_shards`), while zarr makes the metadata and reads shards that another program has
laid out differently. The result is an ordinary Zarr array, which ``zarr.open_array(path)`` reads anywhere.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.zarr_shards import (
    chunk_sums,
    has_plain_index,
    pack_shard,
    read_chunk_sums,
    read_chunks,
    read_rows,
    shard_bytes,
    unpack_shard,
)
from toptune.store.files.json_values import parse_json
from toptune.store.files.reading import read_file

# zarr takes half a second to import, so its import waits until an array is made.

METADATA = "zarr.json"


def unit_path(array: Path, unit: int) -> Path:
    """Return the file of one unit of the array in a folder."""
    return array / "c" / str(unit) / "0"


def unit_of(parts: tuple[str, ...]) -> int | None:
    """Return the unit that a path within the array's folder belongs to; None for other files."""
    match parts:
        case ("c", unit, "0") if unit.isdecimal():
            return int(unit)
    return None


def unit_bytes(spec: ArraySpec, unit: int) -> int | None:  # noqa: ARG001
    """Return the size of a unit's file in bytes; the last unit's file is as large as a full one."""
    return shard_bytes(spec)


def metadata(spec: ArraySpec) -> bytes:
    """Return the array's ``zarr.json``."""
    return _metadata(spec, spec.n_rows)


def describe_metadata(data: bytes) -> tuple[int, str]:
    """Return the number of columns and the type that a ``zarr.json`` describes.

    Raises
    ------
    ValueError, TypeError, LookupError
        If `data` is no such file.
    """
    found = parse_json(data)
    return int(found["shape"][1]), str(found["data_type"])


def is_same_array(found: bytes, spec: ArraySpec) -> bool:
    """Whether a ``zarr.json`` found on disk, perhaps by another version of zarr, describes `spec`."""
    from zarr.core.metadata import ArrayV3Metadata
    from zarr.errors import BaseZarrError

    ours = metadata(spec)
    if found == ours:
        return True
    try:
        # Other versions of zarr may order or default keys differently, so parsed metadata are compared.
        theirs, expected = (ArrayV3Metadata.from_dict(parse_json(data)).to_dict() for data in (found, ours))
    except (ValueError, TypeError, KeyError, AttributeError, BaseZarrError):
        return False
    return theirs == expected


def encode_unit(spec: ArraySpec, values: npt.NDArray[np.number]) -> bytes:
    """Encode a unit as the bytes of its shard file.

    Parameters
    ----------
    spec : ArraySpec
    values : array (rows, dim)
        Values in the array's dtype, at most ``unit_rows`` rows; the rest is filled as zarr fills it.
    """
    if len(values) < spec.unit_rows:
        # Zarr requires that the last shard is as large as the others.
        padded = np.full((spec.unit_rows, spec.dim), spec.fill_value, dtype=spec.dtype)
        padded[: len(values)] = values
        values = padded
    return pack_shard(spec, values)


def decode_unit(spec: ArraySpec, data: bytes, unit: int) -> npt.NDArray[np.number]:
    """Decode a shard file, checking every checksum.

    Returns
    -------
    array (rows, dim)
        The unit's rows of the data set, in the array's dtype.

    Raises
    ------
    CorruptError
        If a checksum does not hold or the size is wrong. The caller adds the path to the message.
    """
    if len(data) != shard_bytes(spec):
        raise CorruptError(f"{len(data)} bytes where {shard_bytes(spec)} were written")
    values = unpack_shard(spec, data) if has_plain_index(spec, data) else _decode_with_zarr(spec, data)
    return values[: spec.unit_length(unit)]


def checksum(spec: ArraySpec, data: bytes) -> str | None:
    """Return what tells a unit's file from those of other units: the crc32c of every chunk.

    None if another program laid out the file, which then stands for no unit of the ledger.
    """
    return chunk_sums(spec, data).hex() if has_plain_index(spec, data) else None


def read_checksum(spec: ArraySpec, path: Path) -> str | None:
    """Read the `checksum` of a unit's file without reading the whole of it."""
    try:
        return read_chunk_sums(spec, path).hex()
    except CorruptError:
        return None


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
    length = spec.unit_length(unit)
    n_chunks = spec.unit_rows // spec.chunk_rows
    is_whole = length == spec.unit_rows
    try:
        values = read_chunks(
            spec, path, range(n_chunks), out=out if is_whole else None, check=check, expected=checksum
        )
    except CorruptError:
        # A shard that the ledger names was laid out by toptune.
        if checksum is not None:
            raise
        # The shard was laid out by another program, or is damaged; zarr's own reader tells the two cases
        # apart.
        values = decode_unit(spec, read_file(path), unit)
    if out is None:
        return values[:length]
    if not (is_whole and values is out):
        out[:] = values[:length]
    return out


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
    try:
        return read_rows(spec, path, rows, check=check, expected=checksum)
    except CorruptError:
        if checksum is not None:
            raise
        # As for whole units, zarr's own reader decides whether the shard is damaged.
        return decode_unit(spec, read_file(path), unit)[rows]


def _decode_with_zarr(spec: ArraySpec, data: bytes) -> npt.NDArray[np.number]:
    import zarr
    from zarr.core.buffer import cpu
    from zarr.storage import MemoryStore

    contents: dict[str, Any] = {
        "zarr.json": cpu.Buffer.from_bytes(_metadata(spec, spec.unit_rows)),
        "c/0/0": cpu.Buffer.from_bytes(data),
    }
    array = zarr.open_array(MemoryStore(contents), mode="r", zarr_format=3)
    try:
        values = array[:]
    except (ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
        raise CorruptError(f"{error}") from error
    return np.asarray(values)


@lru_cache(maxsize=256)
def _metadata(spec: ArraySpec, n_rows: int) -> bytes:
    import zarr
    from zarr.codecs import Crc32cCodec
    from zarr.storage import MemoryStore

    contents: dict[str, Any] = {}
    zarr.create_array(
        MemoryStore(contents),
        shape=(n_rows, spec.dim),
        shards=(spec.unit_rows, spec.dim),
        chunks=(spec.chunk_rows, spec.dim),
        dtype=spec.dtype,
        fill_value=spec.fill_value,
        filters=None,
        # Features hardly compress. Without compression the place of every row follows by arithmetic.
        compressors=[Crc32cCodec()],
        zarr_format=3,
        dimension_names=("row", "feature"),
    )
    return bytes(contents["zarr.json"].to_bytes())
