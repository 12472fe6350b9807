"""A module of one's own is a backbone, by what it is made of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import save_shapes
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

from toptune.errors import InputError
from toptune.extract import Custom, extract, list_taps, load_backbone
from toptune.extract.backbone.libraries import custom
from toptune.store import FeatureStore
from toptune.train import train
from toptune.workflows import Classifier

TRANSFORM = transforms.Compose([
    transforms.Resize(40), transforms.CenterCrop(32), transforms.ToTensor(),
    transforms.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]),
])  # fmt: skip


def network(seed: int = 0, *, width: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    module = nn.Sequential()
    module.add_module("stem", nn.Conv2d(3, width, 4, stride=4))
    module.add_module("blocks", nn.Sequential(*(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))))
    module.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    return module.eval()


def test_features_equal_the_modules_own_on_its_own_transform() -> None:
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    backbone = load_backbone(Custom(module, TRANSFORM, name="equal"))
    assert [tap.name for tap in backbone.taps] == ["blocks.0", "blocks.1", "blocks.2", "last"]
    rng = np.random.default_rng(0)
    for size in ((90, 61), (32, 32), (47, 121)):
        image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        there = TRANSFORM(image)
        assert torch.equal(backbone.transform(image), there)
        with torch.inference_mode():
            expected = module(there[None])
            block = module.get_submodule("blocks.0")(module.get_submodule("stem")(there[None]))
        found = backbone.forward(there[None], ["last.none", "blocks.0.mean"])
        assert torch.allclose(found["last.none"], expected, atol=1e-5)
        assert torch.allclose(found["blocks.0.mean"], block.mean((2, 3)), atol=1e-5)
    # The caller's module is left as it was.
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(each.requires_grad for each in module.parameters())
    assert not hasattr(module, "pretrained_cfg")


def test_the_identity_is_that_of_structure_weights_and_transform() -> None:
    def digest(module: nn.Module, transform: Any = TRANSFORM, name: str = "a") -> str:
        return load_backbone(Custom(module, transform, name=name)).recipe.digest

    first = digest(network())
    assert digest(network(), name="b") == first
    assert digest(network(1)) != first
    other = network()
    other.pool = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())
    assert digest(other.eval()) != first
    assert (
        digest(network(), transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])) != first
    )


def test_it_goes_the_whole_way_and_another_process_must_make_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, store = save_shapes(tmp_path / "photos"), tmp_path / "store"
    own = Custom(network(), TRANSFORM, name="mine")
    extract(photos, model=own, store=store, layers="all", device="cpu")
    assert extract(photos, model="custom:mine", store=store, layers="all", device="cpu").rows == 36
    assert len(FeatureStore.open(store).caches(dataset="photos")) == 1
    run = train(store, dataset="photos", model="custom:mine", out=tmp_path / "run", cv=3, head="ridge")
    image = photos / FeatureStore.open(store).cache(str(own), "photos").manifest.ids[0]
    assert Classifier.load(tmp_path / "run").predict(image)[0].label in run.classes
    assert [tap.name for tap in list_taps(own)][-1] == "last"
    monkeypatch.setattr(custom, "_MADE", {})
    with pytest.raises(InputError, match="no network called 'mine' was made in this process"):
        Classifier.load(tmp_path / "run").predict(image)
    Custom(network(1), TRANSFORM, name="mine")
    with pytest.raises(InputError, match="is not the backbone that"):
        Classifier.load(tmp_path / "run").predict(image)


def in_training(module: nn.Module) -> nn.Module:
    module.get_submodule("blocks").train()
    return module


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (in_training, r"training mode \(blocks\)"),
        (lambda module: module.half(), r"module\.float\(\)"),
        (lambda module: module.to("meta"), "lies on meta"),
        (lambda module: module[:2].eval(), "a module that pools its output"),
        (lambda module: "resnet18", "give a module of torch"),
    ],
)
def test_states_that_are_refused(change: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_backbone(Custom(change(network()), TRANSFORM, name="refused"))


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (None, "is missing, and nothing else says what the network takes; give Compose"),
        (
            v2.Compose([v2.Resize(32)]),
            r"type torchvision\.transforms\.v2\..*Compose, whose steps are unknown",
        ),
        (transforms.Compose([transforms.Resize(32), transforms.ToTensor()]), "images differ in shape"),
        (transforms.Compose([transforms.Grayscale(3), transforms.ToTensor()]), "the step Grayscale"),
        (transforms.Compose([transforms.Resize((32, 32))]), "has no ToTensor"),
        ({"input_size": (3, 32, 32)}, "lacks mean, std"),
    ],
)
def test_transforms_without_words_are_refused(transform: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_backbone(Custom(network(), transform, name="refused"))
