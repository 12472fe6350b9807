import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from tiny import draw, encode

from toptune.extract import decode_image
from toptune.store import UnreadableImageError


def pixels(data: bytes) -> np.ndarray:
    picture = decode_image(data)
    assert picture.mode == "RGB"
    return np.asarray(picture)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA", "LA", "CMYK", "YCbCr", "P"])
def test_modes_are_what_pillow_converts(mode: str) -> None:
    form = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    picture = draw(1).convert(mode)
    assert np.array_equal(pixels(encode(picture, form)), np.asarray(picture.convert("RGB")))


def test_lab() -> None:
    flat = Image.new("LAB", (4, 3), (255, 128, 128))
    assert np.asarray(pixels(encode(flat, "TIFF"))).min() >= 250


def test_palette_with_transparency_goes_by_way_of_rgba() -> None:
    picture = draw(2).convert("P")
    data = encode(picture, transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pixels(data)
    assert np.array_equal(found, np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_scale_to_eight(form: str) -> None:
    values = np.array([[0, 257, 128, 129, 65535, 65406]], dtype=np.uint16)
    found = pixels(encode(Image.fromarray(values), form))
    assert found[0, :, 0].tolist() == [0, 1, 0, 1, 255, 254]
    assert np.array_equal(found[..., 0], found[..., 2])


def test_thirty_two_bits_only_within_sixteen() -> None:
    assert pixels(encode(Image.fromarray(np.array([[65535]], dtype=np.int32)), "TIFF"))[0, 0, 0] == 255
    with pytest.raises(UnreadableImageError, match="from 70000 to 70000"):
        decode_image(encode(Image.fromarray(np.array([[70000]], dtype=np.int32)), "TIFF"))


def test_floats_are_refused() -> None:
    with pytest.raises(UnreadableImageError, match="floating-point"):
        decode_image(encode(Image.new("F", (2, 2)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_makes_upright(orientation: int, form: str) -> None:
    upright = np.zeros((24, 16, 3), dtype=np.uint8)
    upright[:8, :8] = 255  # white corner at the top left
    # EXIF says how stored rows and columns lie in the scene; this is the inverse of each.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif, "quality": 100} if form == "JPEG" else {"exif": exif}
    found = pixels(encode(Image.fromarray(np.ascontiguousarray(stored)), form, **options))
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() <= 8


def test_first_frame_of_an_animation() -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    data = encode(first, "GIF", save_all=True, append_images=[second])
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]


def test_one_pixel() -> None:
    assert pixels(encode(Image.new("RGB", (1, 1), (1, 2, 3)))).tolist() == [[[1, 2, 3]]]


def header_only_png(width: int, height: int) -> bytes:
    """Make a PNG whose header promises pixels that are not there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_huge_headers_are_refused_before_decoding() -> None:
    with pytest.raises(UnreadableImageError, match="10000000000 pixels, more than the limit of 178956970"):
        decode_image(header_only_png(100_000, 100_000))
    # Between Pillow's warning and its error nothing may leak as a warning.
    with pytest.raises(UnreadableImageError, match="damaged"):
        decode_image(header_only_png(10_000, 10_000))
    with pytest.raises(
        UnreadableImageError, match=r"40 x 32 pixels, more than the limit of 1279;.* --overwrite"
    ):
        decode_image(encode(draw(0)), max_pixels=40 * 32 - 1)
    assert decode_image(encode(draw(0)), max_pixels=40 * 32).size == (40, 32)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"this is text, not a picture", "not a picture"),
        (b"\xff\xd8\xff" + bytes(100), "not a picture|damaged"),
        (encode(draw(3, (200, 200)), "JPEG")[:-900], "truncated"),
        (encode(draw(3, (200, 200)))[:4000], "damaged"),
    ],
)
def test_unreadable(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=reason) as first:
        decode_image(data)
    with pytest.raises(UnreadableImageError) as second:
        decode_image(data)
    assert str(first.value) == str(second.value)  # reasons are stored: no addresses in them


def test_warnings_stay_as_they_were_after_many_threads() -> None:
    data = encode(draw(2).convert("P"), transparency=bytes(range(256)))
    before = list(warnings.filters)
    barrier = threading.Barrier(4)

    def work(_: int) -> None:
        barrier.wait()
        for _ in range(20):
            decode_image(data)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert list(warnings.filters) == before
