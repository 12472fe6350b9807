"""torch resizes: timm's geometry, nearly Pillow's pixels; the fast route's name and measured deviation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from tiny import encode

from toptune.errors import NumericalError
from toptune.extract import extract, load_backbone
from toptune.extract.backbone import torch_resize
from toptune.extract.backbone.transform import EvalTransform
from toptune.extract.deviation import Deviation, find_large
from toptune.store import FeatureCache
from toptune.store.features.recipe import ROUTES

Make = Callable[..., Path]
Stored = Callable[..., FeatureCache]
CONFIG: dict[str, Any] = {
    "input_size": (3, 64, 64), "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
    "mean": (0.5,) * 3, "std": (0.25,) * 3,
}  # fmt: skip


def routes(**changes: object) -> tuple[EvalTransform, EvalTransform]:
    config = CONFIG | changes
    return EvalTransform(config), EvalTransform(config, route="fast")


def in_float32(**changes: object) -> EvalTransform:
    return EvalTransform(CONFIG | changes, route="gpu")


def scene(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Draw areas of random colors with sharp edges and some noise."""
    small = rng.integers(0, 256, (max(1, height // 9), max(1, width // 9), 3), dtype=np.uint8)
    values = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST))
    return Image.fromarray(np.clip(values + rng.normal(0, 8, values.shape), 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"interpolation": "bilinear", "crop_pct": 0.9},
        {"crop_pct": 1.0},
        {"crop_mode": "squash"},
        {"crop_mode": "squash", "input_size": (3, 48, 64)},
    ],
)
def test_pixels_lie_where_timm_puts_them_and_differ_by_rounding(changes: dict[str, object]) -> None:
    fast, rng, seen = routes(**changes)[1], np.random.default_rng(0), []
    floats = in_float32(**changes)
    resize, crop = create_transform(**CONFIG | changes).transforms[:2]
    # Sizes at which the long edge or the offset of the crop is rounded; 64 and 73 need no resizing.
    sizes = [(64, 64), (73, 73), (1, 1), (1, 40), (97, 1), (73, 74), (500, 375), (201, 399)]
    for width, height in [*sizes, *rng.integers(3, 150, (60, 2)).tolist()]:
        image = scene(rng, width, height)
        wide, high = resize(image).size
        # Some shapes are resized by Pillow along columns first, which is why two calls fix the order here.
        method = Image.Resampling[str((CONFIG | changes)["interpolation"]).upper()]
        rows_first = image.resize((wide, height), method).resize((wide, high), method)
        a, b = np.asarray(crop(rows_first)).astype(int), fast.pixels(image).astype(int)
        c = floats.pixels(image).astype(int)
        assert np.abs(a - b).max() <= 2, (width, height)
        assert np.abs(a - c).max() <= 2, (width, height)
        seen.append(((a != b).mean(), (a != c).mean()))
    assert (np.mean(seen, axis=0) > 0).all()
    assert (np.mean(seen, axis=0) < 0.02).all()


def test_float32_begins_with_an_average_where_an_edge_shrinks_further_than_cuda_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = scene(np.random.default_rng(0), 1500, 1130)
    few: dict[str, Any] = {"input_size": (3, 16, 16), "crop_pct": 1.0}  # to a seventieth and a ninetieth
    expected = routes(**few)[0].pixels(image).astype(int)
    sizes: list[tuple[str, list[int], tuple[int, ...]]] = []
    plain = torch.nn.functional.interpolate

    def watched(values: torch.Tensor, size: tuple[int, ...], *, mode: str, **options: Any) -> torch.Tensor:
        sizes.append((mode, [*values.shape[2:]], size))
        return plain(values, size, mode=mode, **options)

    monkeypatch.setattr(torch_resize, "interpolate", watched)
    found = in_float32(**few).pixels(image).astype(int)
    assert sizes[0] == ("area", [1130, 1500], (565, 750))
    assert all(max(a / b for a, b in zip(was, size, strict=True)) <= 64 for _, was, size in sizes)
    assert np.abs(found - expected).max() <= 8
    assert np.abs(found - expected).mean() < 2


def test_the_result_is_an_array_of_its_own() -> None:
    found = routes()[1].pixels(scene(np.random.default_rng(0), 90, 64))
    assert found.flags.c_contiguous
    assert found.base is None or found.base.nbytes == found.nbytes


@pytest.mark.parametrize(
    "changes",
    [{"interpolation": "nearest"}, {"interpolation": "lanczos"}, {"crop_mode": "border"},
     {"input_size": (3, 48, 64)}],
)  # fmt: skip
def test_what_torch_does_not_resize_alike_is_exact_and_named_so(changes: dict[str, object]) -> None:
    exact, fast = routes(**changes)
    assert fast.route == "exact"
    assert fast.geometry == exact.geometry
    image = scene(np.random.default_rng(1), 91, 70)
    assert np.array_equal(exact.pixels(image), fast.pixels(image))


def test_a_recipe_names_the_route_that_is_taken(model_folder: Path) -> None:
    name = f"local-dir:{model_folder}"
    fast = load_backbone(name, decode="fast")
    assert fast.recipe.decode == ROUTES["fast"]
    assert load_backbone(**fast.spec).recipe == fast.recipe
    assert fast.transform.geometry != load_backbone(name).transform.geometry
    lanczos = load_backbone(name, decode="fast", interpolation="lanczos")
    assert lanczos.recipe == load_backbone(name, interpolation="lanczos").recipe
    assert lanczos.spec["decode"] == "exact"


def test_the_deviation_of_the_route_is_measured_and_told(
    make_folder: Make, stored: Stored, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder(12)
    options = {"precision": "fp32", "dtype": "float32"}
    exact, fast = (stored(folder, decode=route, **options) for route in ("exact", "fast"))
    assert exact.path != fast.path
    assert exact.measured("last.none") == {}
    a, b = (each.blocks(["last.none"]).take(range(12)) for each in (exact, fast))
    moved = np.linalg.norm(a - b) / np.linalg.norm(a)
    assert fast.measured("last.none")["relative_error"] == pytest.approx(moved, rel=0.02)
    assert 0 < moved < 0.01
    monkeypatch.setattr("toptune.extract.deviation.LARGE_RELATIVE_ERROR", 1e-9)
    stored(folder, decode="fast", store=folder.parent / "told", **options)
    assert "decode fast moves last.none by" in caplog.text
    assert "--decode exact is exact, and slower" in caplog.text
    monkeypatch.setattr("toptune.extract.deviation.MAX_RELATIVE_ERROR", 1e-9)
    with pytest.raises(
        NumericalError,
        match=r"^local-dir:\S+: decode fast moves last.none by .*; use --decode exact(\n\[TT\d+\])?$",
    ):
        stored(folder, decode="fast", store=folder.parent / "refused", **options)


def test_what_moves_features_is_named_with_its_remedy() -> None:
    far = {"x": Deviation(0.5, 0.9)}
    told = find_large(far, "bf16, folded-1", "fast")
    assert told is not None
    assert told.startswith("precision bf16, folded-1 with decode fast moves x by 50.0%")
    assert "--precision fp32 with --decode exact is exact" in told


def test_the_same_images_fail_for_the_same_reasons(
    make_folder: Make, model_folder: Path, tmp_path: Path
) -> None:
    folder = make_folder(4)
    photo = encode(scene(np.random.default_rng(2), 90, 80), "JPEG", quality=90)
    damaged = {
        "cut": photo[: len(photo) // 2],
        "head": photo[:200],
        "big": encode(Image.new("RGB", (400, 300))),
    }
    for name, data in damaged.items():
        (folder / "cat" / f"{name}.jpg").write_bytes(data)
    failed = [
        extract(
            folder, model=f"local-dir:{model_folder}", store=tmp_path / route, decode=route, max_pixels=50_000
        ).failed
        for route in ("exact", "fast")
    ]
    assert sorted(failed[0]) == ["cat/big.jpg", "cat/cut.jpg", "cat/head.jpg"]
    assert failed[0] == failed[1]
    assert failed[1]["cat/big.jpg"].startswith("400 x 300 pixels, more than the limit of 50000")
