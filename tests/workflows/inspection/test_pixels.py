"""Copies are told by their pixels where features alone do not tell them from images that look alike."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from toptune.store import FeatureStore, import_features
from toptune.workflows import inspect
from toptune.workflows.inspection.neighbors import Neighbors
from toptune.workflows.inspection.pixels import EDGE, LEAST_CORRELATION, pixel_copies

N = 60


def near_copies() -> np.ndarray:
    """Rows (N + 3, 4), of which the last three are near the first three, but not too near."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(N, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    tenth = np.sort(np.linalg.norm(rows[:3, None] - rows, axis=2), axis=1)[:, 10]
    aside = rng.normal(size=(3, 4))
    aside -= (aside * rows[:3]).sum(axis=1, keepdims=True) * rows[:3]
    aside *= 0.12 * tenth[:, None] / np.linalg.norm(aside, axis=1, keepdims=True)
    return np.concatenate([rows, rows[:3] + aside]).astype(np.float32)


def test_mirrored_resized_and_brightened_copies_are_found_with_the_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    photos = tmp_path / "photos"
    photos.mkdir()
    for row in range(N):
        small = Image.fromarray(rng.integers(40, 160, (6, 6), dtype=np.uint8))
        small.resize((48, 48), Image.Resampling.BICUBIC).save(photos / f"{row:02}.png")
    opened = [Image.open(photos / f"{row:02}.png") for row in range(3)]
    ImageOps.mirror(opened[0]).save(photos / "60.png")
    opened[1].resize((30, 30)).save(photos / "61.png")
    ImageEnhance.Brightness(opened[2]).enhance(1.3).save(photos / "62.png")
    store = FeatureStore.create(tmp_path / "s")
    ids = [f"{row:02}.png" for row in range(N + 3)]
    import_features(store, {"last": near_copies()}, dataset="pets", model="mine", ids=ids)
    counts = {}
    for data in (None, photos):
        found = inspect(store, dataset="pets", model="mine", out=tmp_path / str(data is None), data=data)
        counts[data] = {group.ids for group in found.groups}
    assert counts[photos] - counts[None] == {("00.png", "60.png"), ("01.png", "61.png"), ("02.png", "62.png")}
    assert found.thresholds["near_duplicate_correlation"] >= LEAST_CORRELATION


@pytest.mark.parametrize("shading", [0, 100])
def test_images_of_one_shading_are_no_copies(shading: int) -> None:
    rng = np.random.default_rng(2)
    n = 300
    ramp = np.linspace(0, shading, EDGE)[:, None] + np.linspace(0, shading, EDGE)
    tiles = np.clip(ramp + 6 * rng.normal(size=(n, EDGE, EDGE)), 0, 255).astype(np.uint8)
    tiles[7] = tiles[3][:, ::-1]
    tiles[8:10] = 90  # blank
    distances = np.sort(rng.uniform(0.5, 1, size=(n, 10)), axis=1)
    rows = np.array([rng.choice(np.delete(np.arange(n), row), 10, replace=False) for row in range(n)])
    rows[3, 0], rows[7, 0], rows[8, 0], rows[9, 0] = 7, 3, 9, 8
    distances[[3, 7, 8, 9], 0] = 0.01
    neighbors = Neighbors(cosines=(1 - distances**2 / 2).astype(np.float32), rows=rows)
    known = np.ones(n, dtype=bool)
    found = pixel_copies(tiles, known, neighbors, false_alarms=0.001)
    assert found is not None
    assert found.pairs.tolist() == [[3, 7]]
    assert pixel_copies(tiles, ~known, neighbors, false_alarms=0.001) is None
