"""Which formats are read, and that damage is told from what is not supported."""

import io
import struct
import subprocess
import warnings

import numpy as np
import pytest
from odd_images import png16, tiff
from PIL import EpsImagePlugin, Image
from tiny import draw, encode

from toptune.errors import UnreadableImageError
from toptune.extract.images.decode import decode_image
from toptune.extract.images.formats import FORMATS, is_image, readable

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"
# Formats that run programs, call handlers of other code, or open what they contain in any format.
NEVER = {"EPS", "WMF", "PDF", "FPX", "MIC", "MPEG", "BUFR", "GRIB", "HDF5", "IPTC", "FITS", "MCIDAS"}


def test_every_format_is_one_that_pillow_opens() -> None:
    assert readable() == FORMATS
    assert not NEVER & set(FORMATS)
    # A format that a later Pillow adds has to be looked at before it is read.
    assert set(Image.OPEN) - set(FORMATS) <= NEVER


def test_no_program_is_run_for_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: object, **options: object) -> None:
        raise AssertionError(f"a program was run: {arguments}")

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    for name in ("run", "call", "check_call", "check_output", "Popen"):
        monkeypatch.setattr(subprocess, name, run)
    preview = b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(EPS)) + bytes(20) + EPS
    for data in (EPS, preview):
        with pytest.raises(UnreadableImageError, match="not supported: a PostScript file"):
            decode_image(data)
        assert not is_image(io.BytesIO(data))
    assert is_image(io.BytesIO(encode(draw(0))))


def bmp(compression: int, bits: int, masks: tuple[int, ...] = ()) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 4, -4, 1, bits, compression, 32, 2835, 2835, 0, 0)
    body = header + struct.pack(f"<{len(masks)}I", *masks)
    return b"BM" + struct.pack("<IHHI", 14 + len(body) + 64, 0, 0, 14 + len(body)) + body + bytes(64)


def jpeg(frame: int, bits: int, colors: int = 1) -> bytes:
    components = b"".join(bytes([each + 1, 0x11, 0]) for each in range(colors))
    size = struct.pack(">HBHHB", 8 + 3 * colors, bits, 8, 8, colors)
    return b"\xff\xd8\xff" + bytes([frame]) + size + components + b"\xff\xd9"


WHOLE = {
    "bit fields": bmp(3, 16, (0xF00, 0xF0, 0xF)),
    "odd compression": bmp(11, 24),
    "12-bit JPEG": jpeg(0xC1, 12),
    "hierarchical JPEG": jpeg(0xC5, 8),
    "16-bit lossless JPEG": jpeg(0xC3, 16),
    "JPEG-LS": b"\xff\xd8\xff\xf7" + bytes(40),
    "movie": struct.pack(">I", 24) + b"ftypisom" + bytes(40),
    "JPEG XL": b"\xff\x0a" + bytes(20),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "PDF": b"%PDF-1.7\n" + bytes(20),
    "metafile": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "FlashPix": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "FITS": b"SIMPLE  =                    T".ljust(2880),
    "PAM": b"P7\nWIDTH 1\n",
    "page": b"<!DOCTYPE html><html>not found</html>",
    "drawing": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "PSD of 32 bits": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 32, 3) + bytes(60),
    "DDS": b"DDS " + struct.pack("<7I", 124, 4, 4, 4, 4, 1, 1) + bytes(44)
    + struct.pack("<II4s", 32, 4, b"ZZZZ") + bytes(40),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_are_not_called_damaged(name: str) -> None:
    with pytest.raises(UnreadableImageError, match=r"^not supported: .") as caught:
        decode_image(WHOLE[name])
    assert "object at 0x" not in str(caught.value)


CUT = {
    "PNG in its header": encode(draw(0))[:24],
    "PNG in its data": encode(draw(0))[:300],
    "PNG without a checksum": encode(draw(0))[:29] + b"\0\0\0\0" + encode(draw(0))[33:],
    "JPEG in its data": encode(draw(3, (200, 200)), "JPEG")[:-900],
    "JPEG in its header": encode(draw(3), "JPEG")[:100],
    "GIF": encode(draw(0), "GIF")[:40],
    "BMP in its header": encode(draw(0), "BMP")[:20],
    "BMP in its data": encode(draw(0), "BMP")[:200],
    "TIFF before its directory": tiff(bytes(64), (8, 2), bits=16)[:40],
    "TIFF without a size": tiff(bytes(64), (0, 2), bits=16),
    "16 bits": png16(np.arange(1600).reshape(40, 40))[:60],
    "WebP": encode(draw(0), "WEBP")[:60],
}  # fmt: skip


@pytest.mark.parametrize("name", CUT)
def test_bytes_that_are_cut_off_or_broken_are_called_damaged(name: str) -> None:
    with pytest.raises(UnreadableImageError, match=r"^damaged: ."):
        decode_image(CUT[name])


@pytest.mark.parametrize("form", ["TGA", "PCX", "SGI", "IM", "DDS", "ICO", "JPEG2000", "WEBP", "PPM", "AVIF"])
def test_odd_formats_are_what_pillow_reads(form: str) -> None:
    with warnings.catch_warnings(action="ignore"):  # Pillow is going to drop IM
        data = encode(draw(5, (32, 32)), form)
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
        expected = image.convert("RGB").tobytes()
    assert decode_image(data).tobytes() == expected


def test_a_lossless_jpeg_is_decoded_whole_where_its_draft_fails() -> None:
    n = 600
    start = struct.pack(">HBHHB", 11, 8, n, n, 1) + bytes([1, 0x11, 0])
    table = struct.pack(">HB", 2 + 1 + 16 + 1, 0) + bytes([1] + [0] * 15) + bytes([0])
    scan = struct.pack(">HB", 8, 1) + bytes([1, 0, 1, 0, 0])
    data = (
        b"\xff\xd8\xff\xc4"
        + table
        + b"\xff\xc3"
        + start
        + b"\xff\xda"
        + scan
        + bytes(n * n // 8)
        + b"\xff\xd9"
    )
    assert decode_image(data, draft_edge=150).tobytes() == decode_image(data).tobytes()
