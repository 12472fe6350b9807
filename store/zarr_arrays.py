"""Arrays on disk as Zarr v3: one shard file a unit, byte for byte what zarr itself would write.

zarr's own stores replace files but do not fsync, and return the fill value for what is not there. So zarr
encodes and decodes one whole shard in memory, and toptune publishes and reads the files. The result is
an ordinary Zarr array: ``zarr.open_array(path)`` reads it anywhere.
"""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store.errors import CorruptError, InputError

# zarr takes half a second to import, so its import waits until an array is read or written.

DTYPES = ("float16", "float32", "uint8")
_CRC32C_BYTES = 4
_INDEX_BYTES_PER_CHUNK = 16


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """Shape and cut of one array of a cache.

    Attributes
    ----------
    name : str
        ``<tap>.<pooling>``.
    dim : int
        Columns.
    dtype : str
        ``"float16"``, ``"float32"`` or ``"uint8"``.
    unit_rows, chunk_rows : int
        Rows of a shard (one file) and of a chunk in it (one checksum); the second divides the first.
    n_rows : int
        Rows of the data set.
    """

    name: str
    dim: int
    dtype: str
    unit_rows: int
    chunk_rows: int
    n_rows: int

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"array {self.name} has dtype {self.dtype!r}; it must be one of {DTYPES}")
        for field in ("dim", "unit_rows", "chunk_rows", "n_rows"):
            if getattr(self, field) < 1:
                raise InputError(f"array {self.name} has {field} {getattr(self, field)}; at least 1 needed")
        if self.unit_rows % self.chunk_rows:
            raise InputError(
                f"array {self.name} has {self.chunk_rows} rows a chunk, which does not divide "
                f"{self.unit_rows} rows a unit"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)

    @property
    def is_feature(self) -> bool:
        """Whether the columns are features (floating point) rather than bytes."""
        return self.dtype != "uint8"

    @property
    def shard_bytes(self) -> int:
        """Size of every shard file, full or not: nothing is compressed and no chunk is left out."""
        n_chunks = self.unit_rows // self.chunk_rows
        data = self.unit_rows * self.dim * np.dtype(self.dtype).itemsize
        return data + n_chunks * (_CRC32C_BYTES + _INDEX_BYTES_PER_CHUNK) + _CRC32C_BYTES


def array_metadata(spec: ArraySpec) -> bytes:
    """Return the array's ``zarr.json``."""
    return _metadata(spec, spec.n_rows)


def is_same_array(metadata: bytes, spec: ArraySpec) -> bool:
    """Whether a ``zarr.json`` found on disk, perhaps by another version of zarr, describes `spec`."""
    from zarr.core.metadata import ArrayV3Metadata
    from zarr.errors import BaseZarrError

    ours = array_metadata(spec)
    if metadata == ours:
        return True
    try:
        found, expected = (ArrayV3Metadata.from_dict(json.loads(data)).to_dict() for data in (metadata, ours))
    except (ValueError, TypeError, KeyError, AttributeError, BaseZarrError):
        return False
    return found == expected


def encode_shard(spec: ArraySpec, values: npt.NDArray[Any]) -> bytes:
    """Encode a unit as the bytes of its shard file.

    Parameters
    ----------
    spec : ArraySpec
    values : array (rows, dim)
        In the array's dtype; at most ``unit_rows`` rows, the rest is filled as zarr fills it.
    """
    import zarr
    from zarr.storage import MemoryStore

    if len(values) < spec.unit_rows:
        padded = np.full((spec.unit_rows, spec.dim), _fill_value(spec), dtype=spec.dtype)
        padded[: len(values)] = values
        values = padded
    contents = _one_unit_store(spec)
    array = zarr.open_array(MemoryStore(contents), mode="r+", zarr_format=3)
    # Kept even where a chunk is all fill: that a chunk is there is what tells it from one never written.
    array.with_config({"write_empty_chunks": True})[:] = values
    return bytes(contents["c/0/0"].to_bytes())


def decode_shard(spec: ArraySpec, data: bytes) -> npt.NDArray[Any]:
    """Decode a shard file, all ``unit_rows`` rows of it, checking every checksum.

    Returns
    -------
    array (unit_rows, dim)
        In the array's dtype.

    Raises
    ------
    CorruptError
        If a checksum does not hold or the size is wrong; the message is to be completed with the place.
    """
    import zarr
    from zarr.core.buffer import cpu
    from zarr.storage import MemoryStore

    if len(data) != spec.shard_bytes:
        raise CorruptError(f"{len(data)} bytes where {spec.shard_bytes} were written")
    contents = _one_unit_store(spec)
    contents["c/0/0"] = cpu.Buffer.from_bytes(data)
    array = zarr.open_array(MemoryStore(contents), mode="r", zarr_format=3)
    try:
        values = array[:]
    except (ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
        raise CorruptError(f"{error}") from error
    return np.asarray(values)


def _fill_value(spec: ArraySpec) -> float | int:
    return float("nan") if spec.is_feature else 0


def _one_unit_store(spec: ArraySpec) -> dict[str, Any]:
    from zarr.core.buffer import cpu

    return {"zarr.json": cpu.Buffer.from_bytes(_metadata(spec, spec.unit_rows))}


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
        fill_value=_fill_value(spec),
        filters=None,
        compressors=[Crc32cCodec()],
        zarr_format=3,
        dimension_names=("row", "feature"),
    )
    return bytes(contents["zarr.json"].to_bytes())
