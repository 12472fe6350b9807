"""Pixels mean what the file says: depth, range, white or black zero, signs, planes, significant bits."""

import contextlib
import zlib

import numpy as np
import PIL
import pytest
from odd_images import packed, png16, tiff
from PIL import Image
from tiny import encode

from toptune.errors import UnreadableImageError
from toptune.extract.images.decode import Decoding, decode_image, decoding
from toptune.extract.images.narrow import NarrowImages

RAMP = np.linspace(0, 65535, 8).astype(np.int64)[None].repeat(2, 0)
EIGHT = [0, 36, 73, 109, 146, 182, 219, 255]
SIZE = (8, 2)
COLORS = np.stack([RAMP, 65535 - RAMP, RAMP // 2], axis=-1)


def row_of(data: bytes) -> list[int]:
    """Return the gray values of the first row."""
    pixels = np.asarray(decode_image(data))
    assert np.array_equal(pixels[..., 0], pixels[..., 2])
    row: list[int] = pixels[0, :, 0].tolist()
    return row


def is_narrow(data: bytes) -> bool:
    with decoding(data, Decoding()) as decoded:
        return decoded.is_narrow(np.asarray(decoded.image))


def gray_tiff(bits: int, order: str, *, compression: int = 1, **options: object) -> bytes:
    values = RAMP >> (16 - bits) if bits < 32 else RAMP * 65537
    plain = packed(values, bits) if bits in (1, 2, 4, 12) else values.astype(f"{order}u{bits // 8}").tobytes()
    data = zlib.compress(plain) if compression == 8 else plain
    return tiff(data, SIZE, bits=bits, order=order, tags={259: compression}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize(("bits", "order"), [(8, "<"), (12, "<"), (16, "<"), (32, "<"), (8, ">"), (16, ">")])
def test_the_declared_depth_scales_and_zero_is_black_or_white(
    bits: int, order: str, compression: int
) -> None:
    found = [
        row_of(gray_tiff(bits, order, compression=compression, photometric=photometric))
        for photometric in (1, 0)
    ]
    assert found[0] == pytest.approx(EIGHT, abs=1)
    assert found[1] == pytest.approx([255 - value for value in EIGHT], abs=1)
    assert [found[0][0], found[0][-1], found[1][0], found[1][-1]] == [0, 255, 255, 0]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_shallow_samples_reach_from_black_to_white(bits: int) -> None:
    first = row_of(gray_tiff(bits, ">", photometric=1))
    assert (first[0], first[-1]) == (0, 255)
    assert row_of(gray_tiff(bits, ">", photometric=0)) == [255 - value for value in first]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_planes_of_sixteen_bit_colors(order: str, is_packed: bool) -> None:
    planes = [COLORS[..., color].astype(f"{order}u2").tobytes() for color in range(3)]
    data = tiff(
        [zlib.compress(plane) for plane in planes] if is_packed else planes,
        SIZE, bits=16, photometric=2, samples=3, order=order, tags={284: 2, 259: 8 if is_packed else 1},
    )  # fmt: skip
    assert np.array_equal(np.asarray(decode_image(data)), (COLORS >> 8).astype(np.uint8))


def test_differences_that_are_not_compressed_are_summed() -> None:
    values = RAMP >> 4
    differences = np.diff(values, axis=1, prepend=0) & 4095
    data = tiff(packed(differences, 12), SIZE, bits=12, tags={317: 2})
    assert row_of(data) == pytest.approx(EIGHT, abs=1)


@pytest.mark.parametrize(
    ("data", "has"),
    [
        (tiff(RAMP.astype("<i2").tobytes(), SIZE, bits=16, tags={339: 2}), "1 signed sample of 16 bits"),
        (tiff(RAMP.astype("<u1").tobytes(), SIZE, bits=8, tags={339: 2}), "1 signed sample of 8 bits"),
        (tiff(RAMP.astype("<f4").tobytes(), SIZE, bits=32, tags={339: 3}), "floating-point sample of 32"),
        (tiff(RAMP.astype("<f8").tobytes(), SIZE, bits=64, tags={339: 3}), "floating-point sample of 64"),
        (tiff(packed(RAMP >> 6, 10), SIZE, bits=10), "1 unsigned sample of 10 bits"),
        (tiff(packed(RAMP >> 4, 12), SIZE, bits=12, order=">", photometric=0), "12 bits, white is zero"),
        (tiff(bytes(64), SIZE, bits=16, samples=2, tags={338: 2}), "2 unsigned samples of 16 bits"),
        (tiff(bytes(96), SIZE, bits=16, photometric=8, samples=3), r"CIE L\*a\*b\*"),
        (tiff(bytes(24), SIZE, bits=8, photometric=6, samples=3, tags={530: (2, 2)}), "YCbCr.*subsampled"),
        (tiff([bytes(32)] * 4, SIZE, bits=16, photometric=5, samples=4, tags={284: 2}), "CMYK.*in planes"),
        (tiff(zlib.compress(packed(RAMP >> 4, 12)), SIZE, bits=12, tags={259: 8, 317: 2}), "predictor 2"),
        (tiff(bytes(16), SIZE, bits=8, tags={259: 34887}), "compression 34887"),
        (tiff(bytes(16), SIZE, bits=8, tags={259: 50001}), "compression 50001"),
        (b"Pf\n2 1\n-1.0\n" + bytes(8), "floating-point"),
    ],
)  # fmt: skip
def test_what_has_no_agreed_meaning_is_not_supported_and_named(data: bytes, has: str) -> None:
    with pytest.raises(UnreadableImageError, match=f"^not supported.*{has}"):
        decode_image(data)


@pytest.mark.parametrize("tag", [256, 258, 259, 262, 277])
def test_tags_without_a_value_are_no_fault_of_toptune(tag: int) -> None:
    data = bytearray(tiff(bytes(32), SIZE, bits=16, photometric=0))
    place = next(at for at in range(10, 200, 12) if int.from_bytes(data[at : at + 2], "little") == tag)
    data[place + 4 : place + 8] = bytes(4)
    with contextlib.suppress(UnreadableImageError):
        assert decode_image(bytes(data)).mode == "RGB"


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow 13 reads such files first")
def test_premultiplied_gray_is_divided_by_its_alpha() -> None:
    values = np.stack([[[64, 64]], [[255, 128]]], axis=-1).astype(np.uint8)
    data = tiff(values.tobytes(), (2, 1), bits=8, samples=2, tags={338: 1})
    assert row_of(data) == pytest.approx([64, 128], abs=1)


@pytest.mark.parametrize("white", [100, 255, 1023, 4095, 65535])
def test_portable_maps_reach_their_largest_value(white: int) -> None:
    values = np.array([[0, white // 2, white]])
    data = b"P5\n3 1\n%d\n" % white + values.astype(">u2" if white > 255 else "u1").tobytes()
    assert row_of(data) == [0, pytest.approx(127, abs=1), 255]


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_jpeg_2000_of_any_depth_reaches_white(bits: int) -> None:
    values = (RAMP >> (16 - bits)).astype(np.uint16).repeat(8, 0)
    data = bytearray(encode(Image.fromarray(values << (16 - bits)), "JPEG2000", no_jp2=True))
    assert is_narrow(bytes(data)) is False
    assert row_of(bytes(data)) == pytest.approx(EIGHT, abs=2)


SCALED = (RAMP >> 4) << 4 | (RAMP >> 12)


def test_significant_bits_that_are_scaled_as_the_standard_says_change_nothing() -> None:
    assert row_of(png16(SCALED, significant=12)) == row_of(png16(SCALED)) == EIGHT
    # A dark image: its low bits are zeros, so that it is not taken for one that lies in them.
    dark = SCALED // 16 // 16 * 16
    assert row_of(png16(dark, significant=12)) == row_of(png16(dark))
    assert max(row_of(png16(dark))) < 20


def test_significant_bits_that_lie_in_the_low_bits_are_scaled() -> None:
    assert row_of(png16(RAMP >> 4, significant=12)) == pytest.approx(EIGHT, abs=1)
    assert row_of(png16(RAMP >> 6, significant=10)) == pytest.approx(EIGHT, abs=1)
    found = np.asarray(decode_image(png16(COLORS >> 4, significant=12)))
    assert np.abs(found.astype(int) - (COLORS >> 8)).max() <= 1
    assert max(row_of(png16(RAMP >> 4))) == 16


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png16(RAMP >> 4), True),
        (png16(RAMP >> 3), False),
        (png16((RAMP >> 4) + 30000), True),
        (png16(RAMP >> 4, significant=12), False),
        (png16(np.zeros((2, 2), int)), False),
        (png16(COLORS >> 4), True),
        (png16(COLORS), False),
        (tiff((RAMP >> 4).astype("<u2").tobytes(), SIZE, bits=16, photometric=0), True),
        (tiff(RAMP.astype("<u4").tobytes(), SIZE, bits=32), True),
        (tiff(packed(RAMP >> 4, 12), SIZE, bits=12), False),
        (encode(Image.fromarray((RAMP >> 12).astype(np.uint8))), True),
        (encode(Image.fromarray((RAMP >> 11).astype(np.uint8))), False),
        (encode(Image.fromarray(((RAMP >> 12) + 230).astype(np.uint8))), False),
        (encode(Image.fromarray((RAMP >> 12).astype(np.uint8)).convert("P")), False),
        (encode(Image.fromarray(RAMP > 65534)), False),
    ],
)
def test_a_sixteenth_of_the_declared_range_is_noticed(data: bytes, expected: bool) -> None:
    assert is_narrow(data) is expected


def test_narrow_images_are_counted_by_their_bits() -> None:
    names = ["a.png", "b.png", "c.png"]
    found = NarrowImages().with_rows({1: 16}, names.__getitem__).with_rows({}, names.__getitem__)
    found += NarrowImages().with_rows({0: 8, 2: 16}, names.__getitem__)
    text = str(found)
    assert text.startswith(
        "1 image of 8 bits and 2 images of 16 bits use 1/16 of the range or less, the first is b"
    )
    assert str(NarrowImages({16: 1}, "x")).startswith("1 image of 16 bits uses")


def test_the_first_route_ignores_what_files_say() -> None:
    twelve, inverted = gray_tiff(12, "<"), gray_tiff(16, "<", photometric=0)
    with decoding(twelve, Decoding(version=1)) as old:
        assert np.asarray(old.image)[0, :, 0].max() == 16
    with decoding(inverted, Decoding(version=1)) as old:
        assert np.asarray(old.image)[0, :, 0].tolist() == EIGHT
    for data in (encode(Image.fromarray(COLORS.astype(np.uint8))), gray_tiff(16, "<")):
        assert decode_image(data, version=1).tobytes() == decode_image(data).tobytes()
