"""Images of other kinds than Pillow's equal what the library of each kind reads, after the stated scale."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from toptune.extract.images.decode import Decoding, decode_image, decoding
from toptune.extract.images.kinds import heif
from toptune.extract.images.kinds.reading import Reading, check_reading
from toptune.store import InputError, UnreadableImageError

RNG = np.random.default_rng(0)
SHAPE = (24, 20)


def read(data: bytes, **stated: Any) -> np.ndarray:
    with decoding(data, Decoding(reading=check_reading(**{**NOTHING, **stated}))) as decoded:
        return np.asarray(decoded.image)


NOTHING: dict[str, Any] = {"bands": None, "scale": None, "channels": None}


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The stated scale, written as the page on sources has it."""
    return np.clip(np.floor((values.astype(np.float64) - low) * 255 / (high - low) + 0.5), 0, 255).astype(
        np.uint8
    )


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def tiff(values: np.ndarray, **options: Any) -> bytes:
    tifffile = pytest.importorskip("tifffile", reason="the extra tiff is not installed")
    file = io.BytesIO()
    tifffile.imwrite(file, values, **{"photometric": "minisblack", **options})
    return file.getvalue()


def reference(data: bytes) -> np.ndarray:
    import tifffile

    return np.asarray(tifffile.imread(io.BytesIO(data)))


def sample(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if dtype.startswith("float"):
        return (RNG.standard_normal(shape) * 100).astype(dtype)
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
def test_tiff_of_every_type_equals_tifffile(dtype: str) -> None:
    data = tiff(sample(dtype, (*SHAPE, 4)), planarconfig="contig")
    values = reference(data)
    for scale, limits in (
        ("-10:200", (-10, 200)),
        ("dtype", (0, 1) if dtype.startswith("f") else (np.iinfo(dtype).min, np.iinfo(dtype).max)),
    ):
        found = read(data, bands=(3, 2, 1), scale=scale)
        np.testing.assert_array_equal(found, expected(values[..., [2, 1, 0]], *limits))
    found = read(data, bands=(4,), scale="percentile")
    low, high = np.percentile(values[..., 3], [1, 99])
    np.testing.assert_array_equal(found, np.repeat(expected(values[..., 3:], low, high), 3, axis=2))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((24, 20, 5), {"planarconfig": "contig"}),
        ((5, 24, 20), {"planarconfig": "separate"}),
        ((5, 24, 20), {}),
        ((5, 24, 20), {"metadata": {"axes": "CYX"}}),
        ((24, 20, 5), {"planarconfig": "contig", "tile": (16, 16), "compression": "zlib", "predictor": True}),
        ((24, 20, 5), {"planarconfig": "contig", "byteorder": ">", "bigtiff": True}),
    ],
)
def test_bands_as_samples_planes_and_pages(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    values = sample("uint16", shape)
    data = tiff(values, **options)
    last = values if shape[2] == 5 else np.moveaxis(values, 0, -1)
    np.testing.assert_array_equal(read(data, channels=5), expected(last, 0, 65535))
    np.testing.assert_array_equal(read(data, bands=(5, 1), channels=2), expected(last[..., [4, 0]], 0, 65535))


def test_pages_of_any_writer_are_bands() -> None:
    pages, file = [Image.fromarray(sample("uint8", SHAPE)) for _ in range(4)], io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(
        read(file.getvalue(), bands=(4, 1, 2)), np.stack([np.asarray(pages[at]) for at in (3, 0, 1)], axis=-1)
    )


def test_what_a_tiff_says_of_white_and_of_transparency() -> None:
    values = sample("uint16", SHAPE)
    data = tiff(values, photometric="miniswhite")
    np.testing.assert_array_equal(read(data, scale="dtype")[..., 0], 255 - expected(values, 0, 65535))
    colors = sample("uint8", (*SHAPE, 4))
    data = tiff(colors, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read(data, scale="dtype"), colors[..., :3])
    np.testing.assert_array_equal(read(data, scale="0:100", channels=4), expected(colors, 0, 100))


def test_a_tiff_of_which_nothing_is_stated_is_left_to_pillow() -> None:
    values = sample("uint16", SHAPE)
    found = np.asarray(decode_image(tiff(values)))
    np.testing.assert_array_equal(found[..., 1], expected(values, 0, 65535))
    with pytest.raises(UnreadableImageError, match="floating-point pixels have no agreed range"):
        decode_image(tiff(sample("float32", SHAPE)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_arrays_of_numpy(dtype: str) -> None:
    high = np.iinfo(dtype).max
    gray, colors = sample(dtype, SHAPE), sample(dtype, (*SHAPE, 3))
    found = np.asarray(decode_image(npy(gray)))
    np.testing.assert_array_equal(found, np.repeat(expected(gray, 0, high)[..., None], 3, axis=2))
    np.testing.assert_array_equal(
        np.asarray(decode_image(npy(np.asfortranarray(colors)))), expected(colors, 0, high)
    )
    np.testing.assert_array_equal(
        read(npy(colors), channels=1, bands=(2,)), expected(colors[..., 1:2], 0, high)
    )


def test_arrays_of_floats_need_a_scale() -> None:
    values = sample("float32", SHAPE)
    with pytest.raises(UnreadableImageError, match=r"of which no file says what is black.*--scale MIN:MAX"):
        decode_image(npy(values))
    np.testing.assert_array_equal(read(npy(values), scale="-50:50")[..., 0], expected(values, -50, 50))
    flags = values > 0
    np.testing.assert_array_equal(read(npy(flags), scale="dtype")[..., 0], 255 * flags.astype(np.uint8))
    np.testing.assert_array_equal(read(npy(values * 0), scale="percentile"), 0)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}]), "Python objects"),
        (np.zeros(5, np.uint8), r"of shape \(5,\); an image is \(height, width\)"),
        (np.zeros((0, 4), np.uint8), "of shape"),
        (np.zeros((4, 4), np.complex64), "of complex64"),
        (
            np.zeros((4, 4, 5), np.uint8),
            r"of shape \(4, 4, 5\) has 5 bands, and the network takes 3; choose them with --bands",
        ),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, message: str) -> None:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    with pytest.raises(UnreadableImageError, match=message):
        decode_image(file.getvalue())


def test_damage_and_sizes() -> None:
    data = npy(sample("uint8", SHAPE))
    for part in (data[:20], data[:-5], b"\x93NUMPY\x09\x00aaaa"):
        with pytest.raises(UnreadableImageError, match="damaged"):
            decode_image(part)
    with pytest.raises(UnreadableImageError, match="20 x 24 pixels, more than the limit of 100"):
        decode_image(data, max_pixels=100)
    header = npy(np.zeros((1, 1), np.uint8)).replace(b"(1, 1), }    ", b"(9000, 9000, 99), }"[:13])
    with pytest.raises(UnreadableImageError):
        decode_image(header)
    odd = sample("float32", SHAPE)
    odd[3, 4] = np.nan
    with pytest.raises(UnreadableImageError, match="1 of 480 values are not finite; fill them"):
        read(npy(odd), scale="0:1")


def test_a_tiff_that_cannot_be_read() -> None:
    stack = tiff(sample("uint16", (2, 3, *SHAPE)), metadata={"axes": "TCYX"}, ome=True)
    with pytest.raises(
        UnreadableImageError, match=r"a TIFF of 2 times \(axes TCYX of 2 x 3 x 24 x 20\), .* save each image"
    ):
        read(stack, scale="dtype")
    pages = tiff(sample("uint8", (2, *SHAPE, 3)), photometric="rgb")
    with pytest.raises(UnreadableImageError, match="a TIFF of 2 pages"):
        read(pages, scale="dtype")
    few = tiff(sample("uint16", (*SHAPE, 4)), planarconfig="contig")
    with pytest.raises(
        UnreadableImageError, match="a TIFF has 4 bands, counted from 1, and --bands asks for 7"
    ):
        read(few, bands=(1, 2, 7))
    with pytest.raises(UnreadableImageError, match="damaged"):
        read(few[:60], scale="dtype")
    how = Decoding(reading=Reading(scale="dtype", channels=4))
    with (
        pytest.raises(UnreadableImageError, match="more than the limit of 100"),
        decoding(few, how, max_pixels=100),
    ):
        pass


def test_bands_and_scale_of_images_that_pillow_reads() -> None:
    colors = sample("uint8", (*SHAPE, 3))
    file = io.BytesIO()
    Image.fromarray(colors).save(file, "PNG")
    np.testing.assert_array_equal(read(file.getvalue(), bands=(3, 2, 1)), colors[..., ::-1])
    np.testing.assert_array_equal(read(file.getvalue(), scale="10:99"), expected(colors, 10, 99))
    with pytest.raises(
        UnreadableImageError, match="has 3 bands, and the network takes 1; choose them with --bands"
    ):
        read(file.getvalue(), channels=1)
    gray, file = sample("uint16", SHAPE), io.BytesIO()
    Image.fromarray(gray).save(file, "PNG")
    np.testing.assert_array_equal(read(file.getvalue(), scale="0:3000")[..., 2], expected(gray, 0, 3000))
    np.testing.assert_array_equal(read(file.getvalue(), channels=1)[..., 0], expected(gray, 0, 65535))


def test_bands_are_turned_upright() -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    colors = sample("uint8", (*SHAPE, 3))
    Image.fromarray(colors).save(file, "PNG", exif=exif)
    plain = np.asarray(decode_image(file.getvalue()))
    assert plain.shape == (20, 24, 3)
    np.testing.assert_array_equal(read(file.getvalue(), bands=(2, 1), channels=2), plain[..., [1, 0]])
    # The same file lies the same way whether tifffile reads it or Pillow.
    for orientation in (3, 5, 6):
        data = tiff(colors, photometric="rgb", extratags=[(0x0112, "H", 1, orientation, True)])
        np.testing.assert_array_equal(read(data, scale="dtype"), np.asarray(decode_image(data)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bands": (0, 1, 2)}, "counted from 1"),
        ({"bands": ()}, "bands are none"),
        (
            {"bands": (1, 2)},
            "2 bands for a network that takes 3; name 3 of them, or 1 that stands for all colors, or",
        ),
        ({"bands": (1, 2), "channels": 4}, "name 4 of them, or give in_chans 2"),
        ({"channels": 0}, "in_chans is 0; the first layer of a network takes 1 to 1024 bands"),
        ({"scale": "5"}, "scale is '5'; give the values that become black and white, MIN:MAX such as 0:3000"),
        ({"scale": "5:5"}, "MIN below MAX"),
        ({"scale": "0:inf"}, "MIN:MAX"),
        ({"scale": "minmax"}, "or percentile, or dtype"),
    ],
)
def test_what_cannot_be_stated(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_reading(**{**NOTHING, **given})
    assert message in str(caught.value)


def test_one_range_has_one_text() -> None:
    assert check_reading(None, "0:3000.0", None).scale == check_reading(None, "0.0:3e3", 3).scale == "0:3000"


def test_heif_is_read_by_pillow_heif() -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heif is not installed")
    y, x = np.mgrid[:48, :64]
    image = Image.fromarray(np.stack([x * 4, y * 5, x + y], axis=-1).astype(np.uint8))
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=90)
    data = file.getvalue()
    assert heif.is_heif(data)
    found = np.asarray(decode_image(data))
    np.testing.assert_array_equal(found, np.asarray(pillow_heif.open_heif(io.BytesIO(data)).to_pillow()))
    assert np.abs(found.astype(int) - np.asarray(image)).mean() < 5
    with pytest.raises(UnreadableImageError, match="damaged"):
        decode_image(data[:60])
    with pytest.raises(UnreadableImageError, match="64 x 48 pixels, more than the limit"):
        decode_image(data, max_pixels=100)


def test_avif_is_pillows_own() -> None:
    image, file = Image.fromarray(sample("uint8", (16, 16, 3))), io.BytesIO()
    image.save(file, "AVIF", quality=100)
    assert not heif.is_heif(file.getvalue())
    np.testing.assert_array_equal(
        np.asarray(decode_image(file.getvalue())),
        np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB")),
    )


def test_a_reader_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("pillow_heif", "pydicom", "tifffile"):
        monkeypatch.setitem(sys.modules, name, None)
    heic = b"\0\0\0\x1cftypheic" + bytes(40)
    for data, extra in ((heic, "heif"), (bytes(128) + b"DICM", "dicom")):
        with pytest.raises(UnreadableImageError, match=rf"not installed; pip install 'toptune\[{extra}\]'"):
            decode_image(data)
    with pytest.raises(UnreadableImageError, match=r"not installed; pip install 'toptune\[tiff\]'"):
        read(b"II*\0" + bytes(40), scale="dtype")
