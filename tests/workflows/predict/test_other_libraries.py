"""A network of torchvision goes the whole way: stored, trained on, predicted from and exported."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import save_shapes

from toptune.errors import InputError
from toptune.extract import extract
from toptune.store import FeatureStore
from toptune.train import train
from toptune.workflows import Classifier, export, finetune

NAME = "torchvision:shufflenet_v2_x0_5"
PLAIN = "torchvision-shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import shufflenet_v2_x0_5

    folder = tmp_path_factory.mktemp("torchvision")
    torch.manual_seed(0)
    torch.save(shufflenet_v2_x0_5().state_dict(), folder / "weights.pth")
    photos = save_shapes(folder / "photos")
    extract(
        photos, model=NAME, store=folder / "store", weights=folder / "weights.pth", img_size=32, device="cpu"
    )
    train(folder / "store", dataset="photos", model=NAME, out=folder / "run", cv=3, head="ridge")
    return folder


def test_what_is_stored_is_found_by_the_name(folder: Path) -> None:
    cache = FeatureStore.open(folder / "store").cache(NAME, "photos")
    assert cache.recipe.architecture == NAME
    names = {spec.name for spec in cache.arrays()}
    assert names == {"stage3.mean", "stage4.mean", "last.none"}
    extract(
        folder / "photos", model=NAME, store=folder / "store", weights=folder / "weights.pth", img_size=32,
        device="cpu",
    )  # fmt: skip
    assert len(FeatureStore.open(folder / "store").caches(dataset="photos")) == 1


def test_predictions_are_those_of_the_stored_features(folder: Path) -> None:
    classifier = Classifier.load(folder / "run")
    run = classifier.run
    cache = FeatureStore.open(folder / "store").cache(NAME, "photos")
    stored = run.predict_blocks(cache.blocks([array.name for array in run.arrays], [0, 12, 30]))[1]
    images = [folder / "photos" / cache.manifest.ids[row] for row in (0, 12, 30)]
    found = [list(each.probabilities.values()) for each in classifier.predict(images)]
    np.testing.assert_allclose(found, stored, atol=5e-3)


def test_the_run_is_exported(folder: Path, tmp_path: Path) -> None:
    export(folder / "run", tmp_path / "net.pt2")
    assert (tmp_path / "net.pt2").is_file()
    card = (tmp_path / "net.pt2.md").read_text()
    assert "- torchvision" in card
    assert "- timm" not in card


def test_commands_know_the_network(folder: Path, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = run_cli("layers", NAME, "--img-size", 32)
    assert code == 0
    assert "stage3" in out
    options = ("--weights", folder / "weights.pth", "--img-size", 32, "--json")
    code, out, _ = run_cli(
        "extract", folder / "photos", "--model", NAME, "--store", folder / "s", "--dry-run", *options
    )
    assert code == 0
    assert json.loads(out)["model"].startswith(f"{PLAIN}@")
    assert not (folder / "s").exists()
    assert run_cli("verify", folder / "run")[0] == 0
    assert run_cli("store", "verify", "--store", folder / "store")[0] == 0


def test_fine_tuning_is_refused_before_data_is_read(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="a network of torchvision, and fine-tuning writes networks in timm's"
    ):
        finetune(tmp_path / "none", model=f"random:{NAME}", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
