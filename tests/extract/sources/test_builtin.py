"""The built-in data sets, the shipped weights, and that the one transfers to the other."""

import importlib.resources
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from timm.data import create_transform, resolve_model_data_config

from toptune.extract.sources.builtin import BUILTINS, GREEK_FONTS, _greek, open_builtin
from toptune.extract.sources.glyphs import HELD_OUT_FONTS, PRETRAINING_FONTS, source_characters
from toptune.store import InputError

NAME = "resnet10t.toptune_glyphs"
PACKAGE = Path(str(importlib.resources.files("toptune.extract.backbone")))
CONFIG = json.loads((PACKAGE / f"{NAME}.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "n", "classes", "side"), [("digits", 1797, 10, 8), ("greek", 1200, 24, 20)])
def test_manifest_and_images_agree(name: str, n: int, classes: int, side: int) -> None:
    source = open_builtin(name)
    manifest = source.manifest()
    assert source.name == name
    assert manifest.n_rows == n
    assert len(set(manifest.ids)) == n
    assert list(manifest.ids) == sorted(manifest.ids) or name == "greek"
    assert len(set(manifest.labels)) == classes
    assert set(manifest.splits) == {None}
    for row in range(n):
        data = source.read(row)
        assert len(data) == manifest.sizes[row]
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (side, side))
            image.load()


def test_digits_are_scikit_learns_in_its_order() -> None:
    images, targets = load_digits(return_X_y=True)
    source = open_builtin("digits")
    assert source.manifest().ids[0] == "digits/0000"
    assert source.manifest().ids[-1] == "digits/1796"
    assert list(source.manifest().labels) == [str(t) for t in targets]
    for row in (0, 1, 1000, 1796):
        gray = np.asarray(Image.open(io.BytesIO(source.read(row))), dtype=float)
        assert np.abs(gray / 255 * 16 - images[row].reshape(8, 8)).max() < 0.04


def test_greek_is_drawn_the_same_every_time_and_balanced() -> None:
    source = open_builtin("greek")
    assert set(Counter(source.manifest().labels).values()) == {50}
    assert _greek.__wrapped__().pngs == source.pngs


def test_half_of_the_greek_fonts_were_not_in_the_pretraining() -> None:
    assert set(HELD_OUT_FONTS) <= set(GREEK_FONTS)
    assert len(set(GREEK_FONTS) & set(PRETRAINING_FONTS)) == len(GREEK_FONTS) // 2


def test_every_builtin_opens_under_its_name_and_has_a_description() -> None:
    for name, description in BUILTINS.items():
        assert open_builtin(name).name == name
        assert "\n" not in description


@pytest.mark.parametrize(
    ("name", "split", "message"), [("letters", None, "letters"), ("digits", "test", "test")]
)
def test_unknown_name_and_split_are_refused(name: str, split: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_builtin(name, split)


@pytest.mark.parametrize("row", [-1, 1797])
def test_a_row_out_of_range_is_refused(row: int) -> None:
    with pytest.raises(InputError, match="0 to 1796"):
        open_builtin("digits").read(row)


def build(*, trained: bool, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model: Any = timm.create_model(
        CONFIG["architecture"],
        num_classes=CONFIG["num_classes"],
        pretrained_cfg=CONFIG["pretrained_cfg"],
        **CONFIG["model_args"],
    )
    if trained:
        model.load_state_dict(load_file(PACKAGE / f"{NAME}.safetensors"), strict=True)
    model.reset_classifier(0)
    network: torch.nn.Module = model.eval()
    return network


def accuracies(name: str, model: torch.nn.Module, splits: int) -> list[float]:
    """Test accuracies of an RBF SVC on the standardized last layer, stratified 2/3-1/3 splits."""
    source = open_builtin(name)
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    images = (Image.open(io.BytesIO(source.read(row))).convert("RGB") for row in range(source.n))
    with torch.inference_mode():
        x = model(torch.stack([transform(image) for image in images])).numpy()
    y = np.array(source.manifest().labels)
    scores = []
    for seed in range(splits):
        a, b, ya, yb = train_test_split(x, y, test_size=1 / 3, stratify=y, random_state=seed)
        scores.append(make_pipeline(StandardScaler(), SVC(C=10.0)).fit(a, ya).score(b, yb))
    return scores


def test_shipped_files_are_small_and_name_a_source_task_without_digits() -> None:
    size = sum((PACKAGE / f"{NAME}{ending}").stat().st_size for ending in (".safetensors", ".json"))
    assert size <= 3_000_000
    assert CONFIG["num_classes"] == len(CONFIG["label_names"])
    assert {chr(int(name[2:], 16)) for name in CONFIG["label_names"]} <= set(source_characters())
    assert f"{CONFIG['architecture']}.{CONFIG['pretrained_cfg']['tag']}" == NAME


def test_shipped_weights_fit_the_architecture_in_float32() -> None:
    model = build(trained=True)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_shipped_files_are_a_local_dir_of_timm(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((PACKAGE / f"{NAME}.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((PACKAGE / f"{NAME}.safetensors").read_bytes())
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert tuple(resolve_model_data_config(loaded)["input_size"]) == (3, 32, 32)
    batch = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(batch), build(trained=True)(batch))


@pytest.mark.parametrize(("name", "at_least", "margin"), [("digits", 0.975, 0.03), ("greek", 0.93, 0.4)])
def test_pretraining_transfers(name: str, at_least: float, margin: float) -> None:
    trained = accuracies(name, build(trained=True), splits=2)
    untrained = accuracies(name, build(trained=False), splits=2)
    assert min(trained) >= at_least
    assert np.mean(trained) >= np.mean(untrained) + margin
