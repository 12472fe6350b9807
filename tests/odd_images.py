"""TIFF and PNG files of any depth and kind, written byte by byte."""

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt


def tiff(
    planes: bytes | Sequence[bytes],
    size: tuple[int, int],
    *,
    bits: int | tuple[int, ...],
    photometric: int | None = 1,
    samples: int = 1,
    order: str = "<",
    tags: Mapping[int, int | tuple[int, ...]] | None = None,
) -> bytes:
    """Write a TIFF of one strip a plane; `tags` are further tags of the type SHORT."""
    strips = [planes] if isinstance(planes, bytes) else list(planes)
    values: dict[int, tuple[str, tuple[int, ...]]] = {
        256: ("I", (size[0],)),
        257: ("I", (size[1],)),
        258: ("H", bits if isinstance(bits, tuple) else (bits,) * samples),
        277: ("H", (samples,)),
        278: ("I", (size[1],)),
        279: ("I", tuple(len(strip) for strip in strips)),
    }
    for tag, value in {
        259: 1,
        284: 1,
        **({} if photometric is None else {262: photometric}),
        **(tags or {}),
    }.items():
        values[tag] = ("H", value if isinstance(value, tuple) else (value,))
    start = 8 + 2 + 12 * (len(values) + 1) + 4
    body, offsets = b"", []
    for strip in strips:
        offsets.append(start + len(body))
        body += strip + bytes(len(strip) % 2)
    values[273] = ("I", tuple(offsets))
    directory = b""
    for tag in sorted(values):
        code, numbers = values[tag]
        data = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        if len(data) > 4:
            place = start + len(body)
            body += data
            data = struct.pack(order + "I", place)
        directory += struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[code], len(numbers)) + data.ljust(
            4, b"\0"
        )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(values))
    return head + directory + bytes(4) + body


def packed(rows: npt.NDArray[np.integer], bits: int) -> bytes:
    """Pack whole numbers of few bits, each row into whole bytes."""
    found = b""
    for row in rows.tolist():
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        found += int(text, 2).to_bytes(len(text) // 8, "big")
    return found


def png16(values: npt.NDArray[np.integer], *, significant: int | None = None) -> bytes:
    """Write a PNG of 16 bits, gray ``(h, w)`` or RGB ``(h, w, 3)``, perhaps with the chunk sBIT."""
    color = 2 if values.ndim == 3 else 0
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    sbit = b"" if significant is None else chunk(b"sBIT", bytes([significant] * (3 if color else 1)))
    return png_of((values.shape[1], values.shape[0]), 16, color, sbit + chunk(b"IDAT", zlib.compress(rows)))


def png_of(size: tuple[int, int], bits: int, color: int, chunks: bytes) -> bytes:
    """Write a PNG around chunks of data."""
    header = struct.pack(">IIBBBBB", *size, bits, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    """Write a chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def empty_png(width: int, height: int) -> bytes:
    """Write a small PNG of a black image, however large; a pixel takes a thousandth of a byte."""
    # Rows are compressed one by one, so that the whole image never lies in memory.
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return png_of((width, height), 1, 0, chunk(b"IDAT", data))
