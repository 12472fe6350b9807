"""Which files are plain JPEGs, whole and of the usual colors, and which way up they lie."""

import pytest
from PIL import Image
from tiny import draw, encode

from toptune.extract.images.jpeg import plain_jpeg

PHOTO = encode(draw(0), "JPEG")
SCAN = PHOTO.index(b"\xff\xda")


def with_thumbnail(data: bytes) -> bytes:
    """Put a whole JPEG into a segment before the scan, where cameras keep one."""
    inside = encode(draw(1, (8, 8)), "JPEG")
    return data[:2] + b"\xff\xe1" + (len(inside) + 2).to_bytes(2, "big") + inside + data[2:]


def tagged(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(draw(0), "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("data", "size", "orientation"),
    [
        (PHOTO, (40, 32), 1),
        (encode(draw(0), "JPEG", progressive=True, subsampling=0), (40, 32), 1),
        (encode(draw(0).convert("L"), "JPEG"), (40, 32), 1),
        (tagged(3), (40, 32), 3),
        (tagged(6), (32, 40), 6),
        (with_thumbnail(PHOTO), (40, 32), 1),
        (PHOTO + b"what a camera wrote behind the image", (40, 32), 1),
    ],
)
def test_a_plain_jpeg_says_its_upright_size(data: bytes, size: tuple[int, int], orientation: int) -> None:
    found = plain_jpeg(data)
    assert found is not None
    assert (found.size, found.orientation, found.pixels) == (size, orientation, 40 * 32)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode(draw(0)),
        encode(draw(0).convert("CMYK"), "JPEG"),
        encode(draw(0), "JPEG", keep_rgb=True),
        PHOTO[:-2],
        PHOTO[: len(PHOTO) // 2],
        with_thumbnail(PHOTO)[:-2],
        PHOTO[:SCAN] + PHOTO[-2:],
        PHOTO[:2] + PHOTO[-2:],
        # The frame says 12 bits, or a lossless or arithmetic coding.
        *(PHOTO.replace(b"\xff\xc0\x00\x11\x08", b"\xff" + bytes(frame)) for frame in (
            (0xC1, 0, 17, 12), (0xC3, 0, 17, 8), (0xC9, 0, 17, 8))),
        b"\xff\xd8\xff" + bytes(100),
    ],
)  # fmt: skip
def test_other_files_and_what_seems_cut_off_are_none(data: bytes) -> None:
    assert plain_jpeg(data) is None


def test_what_is_larger_than_the_limit_is_none() -> None:
    assert plain_jpeg(PHOTO, max_pixels=40 * 32) is not None
    assert plain_jpeg(PHOTO, max_pixels=40 * 32 - 1) is None
