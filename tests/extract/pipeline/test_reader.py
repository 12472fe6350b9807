"""One image never ends the work: whatever it raises is its own failure, and odd ones are counted once."""

import logging
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_images import png16
from PIL import Image
from tiny import draw, encode

from toptune.errors import ConflictError, InputError
from toptune.extract import extract, extract_models, load_backbone
from toptune.extract.backbone.transform import EvalTransform
from toptune.extract.images.decode import DECODE
from toptune.extract.images.kinds.band_image import AnyImage
from toptune.extract.pipeline.reader import Batch, BatchReader
from toptune.store import FeatureCache, FeatureStore
from toptune.store.features.recipe import ROUTES

Make = Callable[..., Path]
Stored = Callable[..., FeatureCache]
CONFIG = {
    "input_size": (3, 32, 32), "interpolation": "bilinear", "crop_pct": 0.9, "crop_mode": "center",
    "mean": (0.5,) * 3, "std": (0.25,) * 3,
}  # fmt: skip
GOOD = encode(draw(0))


class Images:
    """Encoded images, or errors that reading them raises."""

    def __init__(self, *images: bytes | Exception) -> None:
        self.images = images

    def read(self, row: int) -> bytes:
        image = self.images[row]
        if isinstance(image, Exception):
            raise image
        return image


def read(source: Images, *transforms: EvalTransform) -> list[Batch]:
    with BatchReader(source, transforms, workers=2, max_pixels=10**6) as reader:
        (batches,) = reader.batches([slice(0, len(source.images))])
    return batches


def test_whatever_reading_an_image_raises_is_its_failure() -> None:
    errors = [
        RecursionError("deep"),
        struct.error("short"),
        zlib.error("bad"),
        MemoryError(),
        OSError(5, "I/O"),
    ]
    errors += [KeyError("x"), RuntimeError("File is encrypted"), NotImplementedError("method")]
    (batch,) = read(Images(GOOD, *errors, GOOD), EvalTransform(CONFIG))
    assert sorted(batch.failed) == [*range(1, len(errors) + 1)]
    assert batch.failed[1] == "cannot be read: RecursionError: deep"
    assert batch.failed[5] == "cannot be read: I/O"
    assert batch.pixels[0].any()
    assert np.array_equal(batch.pixels[0], batch.pixels[-1])


@pytest.mark.parametrize("error", [InputError("the shard changed"), ConflictError("other images")])
def test_what_concerns_the_data_set_ends_the_work(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        read(Images(GOOD, error), EvalTransform(CONFIG))


@pytest.mark.parametrize(
    "error", [ValueError("height"), ZeroDivisionError(), RecursionError(), MemoryError()]
)
def test_whatever_a_transform_raises_is_the_failure_of_that_image(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, plain = EvalTransform(CONFIG), EvalTransform(CONFIG | {"crop_pct": 1.0})

    def steps(image: Image.Image) -> Image.Image:
        if image.size == (40, 32):
            raise error
        return image.resize((32, 32))

    monkeypatch.setattr(odd, "_geometry", steps)
    other = encode(draw(1, (41, 32)))
    first, second = read(Images(GOOD, other), odd, plain)
    assert [*first.failed] == [0]
    assert first.failed[0].startswith("the model's transform cannot use 40 x 32 pixels: ")
    assert not second.failed


def test_a_transform_of_another_shape_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = EvalTransform(CONFIG)
    monkeypatch.setattr(odd, "_geometry", lambda image: image.resize((16, 64)))
    (batch,) = read(Images(GOOD), odd)
    assert "into an array of shape (64, 16, 3), not (32, 32, 3)" in batch.failed[0]


@pytest.mark.parametrize("mode", ["border", "squash", "center"])
@pytest.mark.parametrize("size", [(1000, 1), (1, 1000), (1, 1), (3, 5000)])
def test_thin_images_are_pixels_or_failures(mode: str, size: tuple[int, int]) -> None:
    (batch,) = read(Images(encode(Image.new("RGB", size))), EvalTransform(CONFIG | {"crop_mode": mode}))
    assert batch.pixels.shape == (1, 32, 32, 3)
    assert all("cannot use" in reason for reason in batch.failed.values())


def test_borders_of_another_color_are_other_pixels() -> None:
    gray, black = (
        EvalTransform(CONFIG | {"crop_mode": "border", "crop_pct": 1.0, "mean": (mean,) * 3})
        for mean in (0.5, 0.0)
    )
    assert gray.geometry != black.geometry
    assert EvalTransform(CONFIG).geometry == EvalTransform(CONFIG | {"mean": (0.0,) * 3}).geometry
    first, second = read(Images(encode(draw(0, (40, 10)))), gray, black)
    assert first.pixels[0, 0, 0].tolist() != second.pixels[0, 0, 0].tolist()


def test_narrow_images_are_told_once(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "xray" / label).mkdir(parents=True)
        for number in range(3):
            values = random.integers(0, 4096 if number else 65536, (40, 40))
            (tmp_path / "xray" / label / f"{number}.png").write_bytes(png16(values))
    caplog.set_level(logging.WARNING)
    models = [f"local-dir:{model_folder}", "random:test_vit"]
    extract_models(tmp_path / "xray", models=models, store=tmp_path / "store", batch_size=2, img_size=32)
    (told,) = [record.message for record in caplog.records if "of the range" in record.message]
    assert told.startswith("4 images of 16 bits use 1/16 of the range or less, the first is a/1.png: ")
    caplog.clear()
    again = extract(tmp_path / "xray", model=models[0], store=tmp_path / "store", batch_size=2, img_size=32)
    assert again.nothing_to_do
    assert "of the range" not in caplog.text


@pytest.mark.parametrize(
    ("began", "route"),
    [("exact-1", "exact"), ("draft-1", "draft"), ("exact-1", "auto"), ("exact", "auto"), ("fast", "auto")],
)
def test_features_that_another_route_began_go_on_with_it(
    began: str, route: str, make_folder: Make, stored: Stored, model_folder: Path
) -> None:
    data = make_folder(4)
    old = stored(data, decode=began)
    assert old.recipe.decode == ROUTES[began]
    (data / "cat" / "wide.png").write_bytes(png16(np.full((40, 40), 40000)))
    root = data.parent / "store"
    extract(data, model=f"local-dir:{model_folder}", store=root, decode=route, update=True, workers=2)
    assert [cache.recipe for cache in FeatureStore.open(root).caches()] == [old.recipe] * 2


def test_new_features_are_of_the_new_route(make_folder: Make, stored: Stored, model_folder: Path) -> None:
    data = make_folder(2)
    assert stored(data).recipe.decode == ROUTES["fast"]
    assert stored(data, decode="exact").recipe.decode == DECODE
    assert load_backbone(f"local-dir:{model_folder}").recipe.decode == DECODE
    spec = load_backbone(f"local-dir:{model_folder}", decode="draft-1").spec
    assert load_backbone(**spec).recipe.decode == ROUTES["draft-1"]


def test_threads_that_read_resize_on_one_core_each() -> None:
    seen = []

    class Watched(EvalTransform):
        def pixels(self, image: AnyImage) -> np.ndarray:
            seen.append((threading.current_thread().name, torch.get_num_threads()))
            return super().pixels(image)

    torch.set_num_threads(3)
    batches = [read(Images(*[GOOD] * 8), Watched(CONFIG, route="fast"))[0] for _ in range(2)]
    assert torch.get_num_threads() == 3
    assert {threads for _, threads in seen} == {1}
    assert all(name.startswith("toptune-read") for name, _ in seen)
    assert np.array_equal(batches[0].pixels, batches[1].pixels)
