"""Real weights and real images, where a machine has them."""

import json
from pathlib import Path

import numpy as np
import pytest

from toptune.extract import extract, load_backbone, open_source
from toptune.extract.deviation import MAX_DRAWN_ERROR
from toptune.extract.drafting import drawn_deviations
from toptune.store import FeatureStore

BACKBONES = [
    "deit_tiny_patch16_224.in1k",
    "mobilenetv2_100.tf2_in1k",
    "mobilenetv2_100.inat_insect",
    "mobilenetv2_100.onnxzoo_in1k_nohead",
]
SETS = [
    ("clothing_small", 820, 10, {"train", "test"}),
    ("grocery_store", 1118, 26, {"train", "test"}),
    ("trashnet/images", 987, 6, {None}),
    ("bccd_cells/images", 1020, 3, {None}),
    ("omniglot_50/images", 1000, 50, {None}),
]


@pytest.mark.parametrize(("name", "n", "n_classes", "splits"), SETS)
def test_data_sets_open_as_they_lie(
    assets: Path, name: str, n: int, n_classes: int, splits: set[str | None]
) -> None:
    source = open_source(assets / "datasets" / name)
    manifest = source.manifest()
    assert source.name == name.removesuffix("/images")
    assert (manifest.n_rows, len(set(manifest.labels)), set(manifest.splits)) == (n, n_classes, splits)
    assert None not in manifest.labels


@pytest.mark.parametrize("name", BACKBONES)
def test_real_weights_load(assets: Path, name: str) -> None:
    backbone = load_backbone(f"local-dir:{assets / 'weights' / name}")
    config = json.loads((assets / "weights" / name / "config.json").read_text())
    assert backbone.name == name
    assert backbone.recipe.transform["mean"] == config["pretrained_cfg"]["mean"]
    assert backbone.recipe.model_kwargs == config["model_args"]


@pytest.mark.parametrize(
    ("name", "is_moved"),
    [
        # What bf16 does to clothing, grocery, trashnet, bccd, omniglot and digits: at most 0.06 and 0.15.
        ("mobilenetv2_100.inat_insect", False),
        ("mobilenetv2_100.onnxzoo_in1k_nohead", True),
        ("tf_efficientnet_lite0.in1k", True),
    ],
)
def test_drawn_images_move_networks_as_real_ones_do(assets: Path, name: str, is_moved: bool) -> None:
    model = f"local-dir:{assets / 'weights' / name}"
    found = drawn_deviations(load_backbone(model, precision="bf16", fold=True), load_backbone(model))
    assert (max(each.relative_error for each in found.values()) > MAX_DRAWN_ERROR) == is_moved


def test_nearest_neighbors_know_clothes(assets: Path, tmp_path: Path) -> None:
    source = open_source(assets / "datasets" / "clothing_small", split="test")
    model = f"local-dir:{assets / 'weights' / 'mobilenetv2_100.onnxzoo_in1k_nohead'}"
    listing = tmp_path / "some.csv"
    rows = range(0, source.manifest().n_rows, 2)
    root = assets / "datasets" / "clothing_small"
    lines = [f"{root / source.manifest().ids[row]},{source.manifest().labels[row]}" for row in rows]
    listing.write_text("path,label\n" + "\n".join(lines) + "\n")
    summary = extract(listing, model=model, store=tmp_path / "s", img_size=128)
    cache = FeatureStore.open(tmp_path / "s").cache(model, "some")
    values = cache.blocks(["last.none"]).take(range(summary.rows))
    values = values - values.mean(0)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    similar = values @ values.T
    np.fill_diagonal(similar, -1)
    labels = np.array(cache.manifest.labels)
    assert (labels[similar.argmax(1)] == labels).mean() > 0.4  # ten classes, some fifty images
