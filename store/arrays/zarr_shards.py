"""The bytes of a Zarr v3 shard of uncompressed, checksummed chunks.

A shard is ``chunk, crc32c, chunk, crc32c, ..., index``; the index holds offset and size of every chunk
(uint64, little-endian) and the index's own crc32c (Zarr v3, sharding codec 1.0). Because nothing is
compressed, every offset is arithmetic, and rows are read straight into place. ``benchmarks/RESULTS.md``
compares the speed with zarr's own pipeline, zarrs and tensorstore. Tests compare every byte with zarr's.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError
from toptune.store.arrays.spec import OF_ANOTHER_UNIT, ArraySpec
from toptune.store.files.place import place_at

_CRC_BYTES = 4
_INDEX_BYTES_PER_CHUNK = 16
# Single rows are read instead of whole chunks if fewer than one row in eight is wanted, because each row
# costs a system call.
_SPARSE = 8

Values = npt.NDArray[np.number]


def shard_bytes(spec: ArraySpec) -> int:
    """Return the size of a shard file, full or not: nothing is compressed, and no chunk is left out."""
    n_chunks = spec.unit_rows // spec.chunk_rows
    return spec.unit_rows * spec.row_bytes + n_chunks * (_CRC_BYTES + _INDEX_BYTES_PER_CHUNK) + _CRC_BYTES


def pack_shard(spec: ArraySpec, values: Values) -> bytes:
    """Encode a whole unit ``(unit_rows, dim)`` in the array's type."""
    values = np.ascontiguousarray(values).view()
    # google_crc32c takes read-only memory only; the view leaves the caller's array writable.
    values.flags.writeable = False
    parts: list[Any] = []
    for start in range(0, spec.unit_rows, spec.chunk_rows):
        chunk = values[start : start + spec.chunk_rows].reshape(-1).view(np.uint8)
        parts += [chunk.data, _crc(chunk)]
    return b"".join([*parts, _index(spec.unit_rows // spec.chunk_rows, spec.chunk_rows * spec.row_bytes)])


def has_plain_index(spec: ArraySpec, data: bytes) -> bool:
    """Whether a shard's chunks stand one after the other, as `pack_shard` writes them."""
    index = _index(spec.unit_rows // spec.chunk_rows, spec.chunk_rows * spec.row_bytes)
    return len(data) == shard_bytes(spec) and data.endswith(index)


def unpack_shard(spec: ArraySpec, data: bytes) -> Values:
    """Decode all ``unit_rows`` rows of a shard with a plain index, checking every checksum.

    Raises
    ------
    CorruptError
        If a checksum does not hold.
    """
    n_chunks, size = spec.unit_rows // spec.chunk_rows, spec.chunk_rows * spec.row_bytes
    content = np.frombuffer(data, np.uint8, n_chunks * (size + _CRC_BYTES)).reshape(n_chunks, -1)
    values = np.empty((spec.unit_rows, spec.dim), dtype=spec.dtype)
    values.reshape(-1).view(np.uint8).reshape(n_chunks, size)[:] = content[:, :size]
    _check(values, content[:, size:], range(n_chunks), spec)
    return values


def chunk_sums(spec: ArraySpec, data: bytes) -> bytes:
    """Return the checksums of all chunks of a shard with a plain index, one after the other."""
    n_chunks, size = spec.unit_rows // spec.chunk_rows, spec.chunk_rows * spec.row_bytes + _CRC_BYTES
    return b"".join(data[(i + 1) * size - _CRC_BYTES : (i + 1) * size] for i in range(n_chunks))


def read_chunk_sums(spec: ArraySpec, path: Path) -> bytes:
    """Read the checksums of all chunks, and nothing else but the index.

    Raises
    ------
    CorruptError
        If the file's size is wrong, or its index is not plain.
    FileNotFoundError
        If there is no such file.
    """
    n_chunks, size = spec.unit_rows // spec.chunk_rows, spec.chunk_rows * spec.row_bytes
    expected = _index(n_chunks, size)
    sums, index = np.empty((n_chunks, _CRC_BYTES), dtype=np.uint8), bytearray(len(expected))
    offsets = [chunk * (size + _CRC_BYTES) + size for chunk in range(n_chunks)]
    place_at(path).read_scattered(
        [*(each.data for each in sums), memoryview(index)],
        offset=[*offsets, n_chunks * (size + _CRC_BYTES)],
        file_bytes=shard_bytes(spec),
    )
    if index != expected:
        raise CorruptError("the shard's index is damaged")
    return sums.tobytes()


def read_chunks(
    spec: ArraySpec,
    path: Path,
    chunks: range,
    *,
    out: Values | None = None,
    check: bool = True,
    expected: str | None = None,
) -> Values:
    """Read consecutive chunks of a shard straight into place.

    Parameters
    ----------
    spec : ArraySpec
    path : Path
        The shard's file.
    chunks : range
        Numbers of the chunks; with the last chunk the index is read and compared too.
    out : array (len(chunks) * chunk_rows, dim), optional
        C-contiguous, in the array's type; made if not given.
    check : bool
        Whether to compare the checksums.
    expected : str, optional
        The checksums that all chunks of the shard should have, in hexadecimal digits; compared if `check`.

    Raises
    ------
    CorruptError
        If the file's size is wrong, its index is not plain, or a checksum does not hold. The caller adds the
        path to the message.
    FileNotFoundError
        If there is no such file.
    """
    n_chunks, size = spec.unit_rows // spec.chunk_rows, spec.chunk_rows * spec.row_bytes
    if out is None:
        out = np.empty((len(chunks) * spec.chunk_rows, spec.dim), dtype=spec.dtype)
    raw = out.reshape(-1).view(np.uint8).reshape(len(chunks), size)
    sums = np.empty((len(chunks), _CRC_BYTES), dtype=np.uint8)
    plain = _index(n_chunks, size)
    # Chunks, checksums and index come with one scattered read, and every chunk lands in its final place.
    index = bytearray(len(plain))
    buffers = [part.data for pair in zip(raw, sums, strict=True) for part in pair]
    if chunks.stop == n_chunks:
        buffers.append(memoryview(index))
    place_at(path).read_scattered(
        buffers, offset=chunks.start * (size + _CRC_BYTES), file_bytes=shard_bytes(spec)
    )
    # Every plain shard of one shape has the same index, so that comparing bytes replaces parsing.
    if chunks.stop == n_chunks and index != plain:
        raise CorruptError("the shard's index is damaged")
    if check:
        _check(out, sums, chunks, spec)
        digits = 2 * _CRC_BYTES
        named = expected and expected[chunks.start * digits : chunks.stop * digits]
        # Sums that hold say that the values are undamaged; only the ledger says whose values they are.
        if named is not None and named != sums.tobytes().hex():
            raise CorruptError(OF_ANOTHER_UNIT)
    return out


def read_rows(
    spec: ArraySpec,
    path: Path,
    rows: npt.NDArray[np.intp],
    *,
    check: bool,
    expected: str | None = None,
) -> Values:
    """Read some rows of a shard, in the order given.

    Parameters
    ----------
    spec : ArraySpec
    path : Path
        The shard's file.
    rows : array of int (m,)
        Rows within the unit.
    check : bool
        Whether to compare the checksums of the chunks that hold the rows. Otherwise, where the rows are few,
        only their bytes are read.
    expected : str, optional
        As for `read_chunks`.
    """
    # A row that is wanted twice is read once.
    distinct, places = np.unique(rows, return_inverse=True)
    # A checksum covers a chunk, so rows can be read alone only after the unit was checked once.
    if not check and len(distinct) * _SPARSE < spec.unit_rows:
        values = np.empty((len(distinct), spec.dim), dtype=spec.dtype)
        raw = values.reshape(-1).view(np.uint8).reshape(len(distinct), spec.row_bytes)
        offsets = distinct * spec.row_bytes + distinct // spec.chunk_rows * _CRC_BYTES
        place_at(path).read_scattered(
            [row.data for row in raw], offset=offsets.tolist(), file_bytes=shard_bytes(spec)
        )
        return values[places]
    values = np.empty((len(rows), spec.dim), dtype=spec.dtype)
    chunk_of = rows // spec.chunk_rows
    needed = np.unique(chunk_of)
    # Neighboring chunks are read together, which saves system calls and requests to a bucket.
    for span in np.split(needed, np.flatnonzero(np.diff(needed) > 1) + 1):
        chunks = range(int(span[0]), int(span[-1]) + 1)
        found = read_chunks(spec, path, chunks, check=check, expected=expected)
        here = (chunk_of >= chunks.start) & (chunk_of < chunks.stop)
        values[here] = found[rows[here] - chunks.start * spec.chunk_rows]
    return values


def _check(values: Values, sums: Values, chunks: range, spec: ArraySpec) -> None:
    # google_crc32c takes read-only memory only; a view leaves the caller's array writable.
    view = values.view()
    view.flags.writeable = False
    raw = view.reshape(-1).view(np.uint8).reshape(len(chunks), -1)
    for chunk, content, expected in zip(chunks, raw, sums, strict=True):
        if _crc(content) != expected.tobytes():
            rows = f"rows {chunk * spec.chunk_rows} to {(chunk + 1) * spec.chunk_rows} of the unit"
            raise CorruptError(f"the crc32c checksum of {rows} does not hold")


def _crc(content: Values) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(_CRC_BYTES, "little")


@lru_cache(maxsize=256)
def _index(n_chunks: int, size: int) -> bytes:
    entries = np.empty((n_chunks, 2), dtype="<u8")
    entries[:, 0] = np.arange(n_chunks) * (size + _CRC_BYTES)
    entries[:, 1] = size + _CRC_BYTES
    raw = np.frombuffer(entries.tobytes(), np.uint8)
    return raw.tobytes() + _crc(raw)
