import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import draw, encode

from toptune.extract import decode_image, load_backbone
from toptune.extract.backbone.transform import EvalTransform
from toptune.store import InputError, UnreadableImageError


def pixels(data: bytes) -> np.ndarray:
    image = decode_image(data)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "RGBA", "LA", "CMYK", "YCbCr", "P"])
def test_modes_are_what_pillow_converts(mode: str) -> None:
    form = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    image = draw(1).convert(mode)
    assert np.array_equal(pixels(encode(image, form)), np.asarray(image.convert("RGB")))


def test_lab() -> None:
    flat = Image.new("LAB", (4, 3), (255, 128, 128))
    assert np.asarray(pixels(encode(flat, "TIFF"))).min() >= 250


def test_palette_with_transparency_goes_by_way_of_rgba() -> None:
    image = draw(2).convert("P")
    data = encode(image, transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pixels(data)
    assert np.array_equal(found, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_scale_to_eight(form: str) -> None:
    values = np.array([[0, 257, 128, 129, 65535, 65406]], dtype=np.uint16)
    found = pixels(encode(Image.fromarray(values), form))
    assert found[0, :, 0].tolist() == [0, 1, 0, 1, 255, 254]
    assert np.array_equal(found[..., 0], found[..., 2])


def test_the_first_route_takes_thirty_two_bits_for_sixteen() -> None:
    data = encode(Image.fromarray(np.array([[65535]], dtype=np.int32)), "TIFF")
    assert decode_image(data, version=1).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(UnreadableImageError, match=r"1 signed sample of 32 bits.*no agreed range"):
        decode_image(data)
    with pytest.raises(UnreadableImageError, match="from 70000 to 70000"):
        decode_image(encode(Image.fromarray(np.array([[70000]], dtype=np.int32)), "TIFF"), version=1)


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
        (b"this is text, not an image", "not an image"),
        (b"\xff\xd8\xff" + bytes(100), "not an image|damaged"),
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


def photograph(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Make an image with detail at every scale, as photographs have it."""
    rng = np.random.default_rng(seed)
    values = np.zeros((size[1], size[0], 3))
    for level in range(3, 10):
        cells = rng.normal(size=(2**level * size[1] // size[0] + 1, 2**level, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(cells[:, :, channel]).resize(size, Image.Resampling.BICUBIC)
            values[:, :, channel] += np.asarray(layer) / 2 ** (level / 2)
    values = 255 * (values - values.min()) / (values.max() - values.min())
    return Image.fromarray(values.astype(np.uint8))


@pytest.mark.parametrize("orientation", [1, 6])
def test_draft_decodes_less_of_a_large_jpeg_and_differs_within_the_stated_tolerance(
    orientation: int,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photograph((2200, 1500)), "JPEG", quality=90, exif=exif)
    small = decode_image(data, draft_edge=2 * 256)
    assert min(small.size) == 750
    config = {
        "input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
        "mean": (0.5,) * 3, "std": (0.5,) * 3,
    }  # fmt: skip
    exact, draft = EvalTransform(config), EvalTransform(config, route="draft")
    assert (exact.decoding.draft_edge, draft.decoding.draft_edge) == (None, 512)
    assert exact.geometry != draft.geometry
    a, b = (
        each.pixels(decode_image(data, draft_edge=each.decoding.draft_edge)).astype(int)
        for each in (exact, draft)
    )
    assert 0 < np.abs(a - b).mean() < 0.5
    assert np.abs(a - b).max() <= 6


def test_draft_leaves_small_jpegs_and_other_formats_alone() -> None:
    image = photograph((900, 640))
    for form in ("JPEG", "PNG"):
        data = encode(image, form)
        assert decode_image(data).tobytes() == decode_image(data, draft_edge=512).tobytes()


def test_features_of_the_routes_are_told_apart(model_folder: Path) -> None:
    exact, draft = (load_backbone(f"local-dir:{model_folder}", decode=route) for route in ("exact", "draft"))
    assert exact.recipe != draft.recipe
    data = encode(photograph((900, 600)), "JPEG", quality=90)
    assert exact.decode(data).size == (900, 600)
    assert min(draft.decode(data).size) < 600
    with pytest.raises(InputError, match="decode 'quick' is unknown; choose one of auto, exact, fast, draft"):
        load_backbone(f"local-dir:{model_folder}", decode="quick")
