"""The route ``gpu``: JPEGs are decoded and all images resized on a device; here mostly a pretended one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from fake_cuda import fake_cuda
from odd_images import png16
from PIL import Image
from tiny import draw, encode, feature_bytes

from toptune.errors import DeviceMemoryError, InputError, InterruptedRunError, UnreadableImageError
from toptune.extract import extract, extraction_profile, load_backbone
from toptune.extract.backbone.transform import EvalTransform
from toptune.extract.images.decode import BUDGET, UPRIGHT, decode_image
from toptune.extract.pipeline import device_decoder
from toptune.extract.pipeline.features_of import features_of
from toptune.extract.pipeline.forwarding import forward_pixels
from toptune.extract.pipeline.reader import Batch, BatchReader
from toptune.extract.pipeline.transfers import in_memory
from toptune.store import FeatureCache, FeatureStore
from toptune.store.features.recipe import ROUTES

Make = Callable[..., Path]
Stored = Callable[..., FeatureCache]
Cli = Callable[..., tuple[int, str, str]]
CONFIG: dict[str, Any] = {
    "input_size": (3, 32, 32), "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
    "mean": (0.5,) * 3, "std": (0.25,) * 3,
}  # fmt: skip
EXACT, ON_DEVICE = EvalTransform(CONFIG), EvalTransform(CONFIG, route="gpu")
# Of the small networks, the one that takes the fewest operations.
VIT: dict[str, Any] = {
    "model": "random:test_vit",
    "img_size": 32,
    "precision": "fp32",
    "dtype": "float32",
    "batch_size": 4,
}
CUDA = torch.device("cuda")


def photo(seed: int, size: tuple[int, int] = (90, 70), *, orientation: int = 1, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(draw(seed, size), "JPEG", exif=exif, quality=92, **options)


def broken(data: bytes) -> bytes:
    """Break a JPEG where its header does not tell: the tables of Huffman codes are empty."""
    at = data.index(b"\xff\xc4")
    return data[: at + 5] + bytes(16) + data[at + 21 :]


MIXED = {
    **{f"turned{tag}": photo(tag, orientation=tag) for tag in range(1, 9)},
    "small": photo(10, (20, 9)),
    "gray": encode(draw(11).convert("L"), "JPEG"),
    "progressive": photo(12, progressive=True),
    "png": encode(draw(13)),
    "deep": png16(np.random.default_rng(0).integers(0, 65536, (40, 40))),
    "cmyk": encode(draw(14).convert("CMYK"), "JPEG"),
    "rgb": photo(15, keep_rgb=True),
    "cut": photo(16)[:900],
    "end": photo(17)[:-2],
    "broken": broken(photo(18)),
    "big": photo(19, (400, 300)),
    "text": b"no image",
    "empty": b"",
    "thin": encode(Image.new("RGB", (1, 65_000)), "JPEG"),
}
FAILING = ["big", "broken", "cut", "empty", "end", "text", "thin"]


class Images:
    def __init__(self, *images: bytes) -> None:
        self.images = images

    def read(self, row: int) -> bytes:
        return self.images[row]


def read(*images: bytes, transforms: tuple[EvalTransform, ...] = (ON_DEVICE,)) -> list[Batch]:
    with BatchReader(Images(*images), transforms, workers=2, max_pixels=100_000, device=CUDA) as reader:
        (batches,) = reader.batches([slice(0, len(images))])
    return batches


def folder_of(images: dict[str, bytes], folder: Path) -> Path:
    for name, data in images.items():
        (folder / "a").mkdir(parents=True, exist_ok=True)
        (folder / "a" / name).with_suffix(".jpg").write_bytes(data)
    return folder


def reference(data: bytes, orientation: int) -> npt.NDArray[np.uint8]:
    """Decode a JPEG by torchvision on the CPU, turn it by Pillow, and resize it in float32."""
    mode = torchvision.io.ImageReadMode.RGB.value
    decoded = torch.ops.image.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode, False)
    image = Image.fromarray(decoded.permute(1, 2, 0).numpy())
    turn = UPRIGHT.get(orientation)
    return ON_DEVICE.pixels(image if turn is None else image.transpose(turn))


@pytest.mark.usefixtures("cuda")
def test_pixels_are_those_of_the_same_arithmetic_on_the_cpu() -> None:
    larger = EvalTransform(CONFIG | {"input_size": (3, 48, 48)}, route="gpu")
    images = [photo(tag, (61, 90), orientation=tag) for tag in range(1, 9)]
    exact, first, second = read(*images, MIXED["png"], MIXED["deep"], transforms=(EXACT, ON_DEVICE, larger))
    assert isinstance(exact.pixels, np.ndarray)
    assert isinstance(first.pixels, torch.Tensor)
    assert (first.pixels.device.type, second.pixels.shape) == ("cuda", (10, 48, 48, 3))
    found = in_memory(first.pixels)
    for place, data in enumerate(images):
        np.testing.assert_array_equal(found[place], reference(data, place + 1))
    for place, name in ((8, "png"), (9, "deep")):
        np.testing.assert_array_equal(found[place], ON_DEVICE.pixels(decode_image(MIXED[name])))
    assert np.abs(found.astype(int) - exact.pixels).max() <= 6
    assert not first.failed
    assert first.digests.tobytes() == exact.digests.tobytes()


def test_the_same_images_fail_and_features_are_nearly_the_same(tmp_path: Path, gpu: str) -> None:
    images = folder_of(MIXED, tmp_path / "mixed")

    def run(route: str, device: str) -> tuple[Mapping[str, str], FeatureCache]:
        summary = extract(
            images, store=tmp_path / route, decode=route, device=device, max_pixels=100_000, **VIT
        )
        return summary.failed, FeatureStore.open(tmp_path / route).caches()[0]

    (expected, fast), (found, on_device) = run("fast", "cpu"), run("gpu", gpu)
    assert sorted(expected) == [f"a/{name}.jpg" for name in FAILING]
    assert found == expected
    a, b = (cache.blocks(["last.none"]).take(range(len(MIXED))) for cache in (fast, on_device))
    good = ~np.isnan(a).any(axis=1)
    assert np.array_equal(good, ~np.isnan(b).any(axis=1))
    moved = np.linalg.norm(a - b, axis=1)[good] / np.linalg.norm(a, axis=1)[good]
    assert moved.max() < 0.02
    assert on_device.recipe.decode == ROUTES["gpu"]
    assert on_device.recipe.digest != fast.recipe.digest
    assert 0 < on_device.measured("last.none")["relative_error"] < 0.02


def test_what_is_decoded_beside_a_pass_leaves_its_memory_alone(gpu: str) -> None:
    images = [photo(seed, (320, 240)) for seed in range(20)]
    backbone = load_backbone("random:test_vit", img_size=64, device=gpu, decode="gpu")
    arrays = backbone.resolve("all")
    batches = list(features_of(Images(*images), len(images), [(backbone, arrays)], batch_size=4))
    for start, found in zip(range(0, 20, 4), batches, strict=True):
        (alone,) = read(*images[start : start + 4], transforms=(backbone.transform,))
        torch.cuda.synchronize()
        for name, values in forward_pixels(backbone, alone.pixels, arrays).result().items():
            np.testing.assert_array_equal(found.values[0][name], values)


@pytest.mark.usefixtures("cuda")
def test_an_image_that_is_refused_keeps_the_rest_of_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    good = photo(0)
    (batch,) = read(good, MIXED["broken"], good, MIXED["broken"])
    assert [*batch.failed] == [1, 3]
    with pytest.raises(UnreadableImageError) as error:
        decode_image(MIXED["broken"])
    assert batch.failed[1] == str(error.value)
    pixels = in_memory(batch.pixels)
    assert np.array_equal(pixels[0], pixels[2])
    assert pixels[0].any()
    assert not pixels[[1, 3]].any()
    (told,) = [record.message for record in caplog.records if "nvJPEG" in record.message]
    assert told.startswith(
        "nvJPEG refuses an image (Error while decoding JPEG images: Failed to decode batch: 3"
    )


@pytest.mark.usefixtures("cuda")
def test_a_refused_image_that_pillow_decodes_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    odd, plain = photo(1), torchvision.io.decode_jpeg

    def refusing(data: list[torch.Tensor], **options: Any) -> Any:
        if any(len(each) == len(odd) for each in data):
            raise RuntimeError("Error while decoding JPEG images: Unknown chroma subsampling")
        return plain(data, **options)

    monkeypatch.setattr(torchvision.io, "decode_jpeg", refusing)
    (batch,) = read(photo(0), odd)
    assert not batch.failed
    np.testing.assert_array_equal(in_memory(batch.pixels)[1], ON_DEVICE.pixels(decode_image(odd)))


def no_room_above(most: int, monkeypatch: pytest.MonkeyPatch, words: str) -> list[int]:
    sizes: list[int] = []
    plain = torchvision.io.decode_jpeg

    def small(data: list[torch.Tensor], **options: Any) -> Any:
        sizes.append(len(data))
        if len(data) > most:
            raise RuntimeError(f"Error while decoding JPEG images: {words}")
        return plain(data, **options)

    monkeypatch.setattr(torchvision.io, "decode_jpeg", small)
    return sizes


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(
    "words", ["CUDA out of memory. Tried to allocate 2 GiB", "Failed to decode batch: 5"]
)
def test_jpegs_that_do_not_fit_are_decoded_in_parts(
    words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    images = [photo(seed) for seed in range(7)]
    expected = in_memory(read(*images)[0].pixels)
    sizes = no_room_above(2, monkeypatch, words)
    np.testing.assert_array_equal(in_memory(read(*images)[0].pixels), expected)
    # The first is the small image that tells whether there is a decoder.
    assert sizes == [1, 7, 4, 2, 2, 2, 1]
    assert "7 images at once do not fit: the memory of cuda" in caplog.text
    monkeypatch.setattr(device_decoder, "_check_decoder", lambda _: None)
    no_room_above(0, monkeypatch, words)
    with pytest.raises(DeviceMemoryError, match="decode on the CPU \\(--decode fast\\)"):
        read(*images)


@pytest.mark.usefixtures("cuda")
def test_the_pixels_decoded_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_decoder, "PIXELS_AT_ONCE", 2 * 90 * 70)
    sizes = no_room_above(9, monkeypatch, "")
    read(photo(0), photo(1), photo(2), photo(3, (200, 100)), photo(4))
    assert sizes == [1, 2, 1, 1, 1]


@pytest.mark.usefixtures("cuda")
def test_images_decoded_on_the_cpu_share_the_budget_also_after_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BUDGET, "pixels", 2000)
    monkeypatch.setattr(BUDGET, "_left", 2000)
    images = [encode(draw(seed)) for seed in range(9)]  # 1,280 pixels each: one at a time
    (batch,) = read(*images)
    assert not batch.failed
    assert BUDGET._left == 2000
    full = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(ON_DEVICE, "resized", lambda _: (_ for _ in ()).throw(full))
    with pytest.raises(DeviceMemoryError, match="decoding and resizing 1 image does not fit"):
        read(*images)
    assert BUDGET._left == 2000


@pytest.mark.usefixtures("cuda")
def test_dark_images_are_told_as_narrow() -> None:
    dark = Image.fromarray(np.random.default_rng(0).integers(0, 9, (40, 40, 3), dtype=np.uint8))
    black = Image.new("RGB", (40, 40))
    files = [encode(image, form) for image in (dark, black, draw(0)) for form in ("JPEG", "PNG")]
    exact, on_device = read(*files, MIXED["deep"], transforms=(EXACT, ON_DEVICE))
    assert on_device.narrow == {0: 8, 1: 8}
    assert exact.narrow == on_device.narrow


def test_a_resumed_extraction_equals_an_undisturbed_one(
    tmp_path: Path, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {name: data for name, data in MIXED.items() if name not in FAILING}
    images = folder_of(good, tmp_path / "images")
    monkeypatch.setattr("toptune.extract.planning.choose_unit_rows", lambda *_: 4)
    options = {"decode": "gpu", "device": "cuda", **VIT}
    asked: list[int] = []

    def stop() -> float | None:
        asked.append(1)
        return 0.0 if len(asked) > 2 else None

    with fake_cuda():
        expected = stored(images, store=tmp_path / "undisturbed", **options)
        with pytest.raises(InterruptedRunError):
            stored(images, stop=stop, **options)
        found = stored(images, **options)
    assert feature_bytes(found) == feature_bytes(expected)


def test_each_stage_is_counted_where_it_happens(tmp_path: Path, stored: Stored) -> None:
    images = folder_of(MIXED, tmp_path / "images")
    profile = extraction_profile()
    with fake_cuda() as counts:
        stored(images, decode="gpu", device="cuda", profile=profile, max_pixels=100_000, **VIT)
    seen = {use.stage: use.images for use in profile.uses()}
    # The broken one and the thin one are plain JPEGs by their headers.
    assert seen["device decode"] == 13
    assert seen["device resize"] == len(MIXED) - len(FAILING) + 1
    assert seen["decode"] == 4
    assert seen["resize"] == 0
    assert counts.operations["decode_jpeg"] > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--device", "cpu"], "decode gpu decodes and resizes on a CUDA device, and the device is cpu; use"),
        (["--device", "auto"], "decode gpu decodes and resizes on a CUDA device, and the device is cpu; use"),
        (["--device", "cuda"], "'cuda' is not there"),
    ],
)
def test_without_a_cuda_device_the_route_is_refused_before_a_model_is_loaded(
    given: list[str], said: str, photos: Path, tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toptune.extract.drafting.load_backbone", pytest.fail)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = ["extract", photos, "--model", "random:test_vit", "--store", tmp_path / "s", "--decode", "gpu"]
    code, _, err = run_cli(*command, *given)
    assert (code, said in " ".join(err.split())) == (2, True), err
    assert not (tmp_path / "s").exists()


def test_features_of_images_are_refused_on_the_cpu() -> None:
    backbone = load_backbone("random:test_vit", img_size=32, decode="gpu")
    with pytest.raises(
        InputError, match="the device is cpu; use --device cuda, or extract with --decode fast"
    ):
        list(features_of(Images(photo(0)), 1, [(backbone, backbone.resolve())]))


@pytest.mark.parametrize(
    "changes", [{"interpolation": "lanczos"}, {"crop_mode": "border"}, {"input_size": (3, 32, 48)}], ids=str
)
def test_a_geometry_that_the_device_does_not_have_is_refused(changes: dict[str, Any]) -> None:
    config = CONFIG | changes
    with pytest.raises(
        InputError,
        match=r"^decode gpu does not have this model's resizing: .*; use --decode exact(\n\[TT\d+\])?$",
    ) as error:
        EvalTransform(config, route="gpu")
    assert f"interpolation {config['interpolation']!r} and crop_mode {config['crop_mode']!r}" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("torchvision not compiled with nvJPEG support"), "was built without nvJPEG on cuda"),
        (RuntimeError("Couldn't load the image extension."), "decodes no JPEG on cuda:0 .Couldn't load"),
        (AttributeError("module 'torchvision.io' has no attribute 'decode_jpeg'"), "decodes no JPEG on cuda"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("cuda")
def test_a_torchvision_that_cannot_decode_there_is_told(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torchvision.io, "decode_jpeg", fail)
    with pytest.raises(InputError, match=f"{said}.*; use --decode fast, or install a torchvision"):
        read(photo(0))
