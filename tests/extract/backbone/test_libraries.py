"""Networks of other libraries give what the libraries' own forward passes give."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from toptune.errors import InputError, WeightsError
from toptune.extract import load_backbone
from toptune.extract.backbone.libraries.built_network import BuiltNetwork, find_block_names
from toptune.extract.backbone.libraries.data_config import data_config
from toptune.extract.backbone.libraries.torchvision_models import library_blocks
from toptune.store import plain_model_name

SIZES = ((90, 61), (64, 64), (47, 121))


def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)).resize(
            (width, height)
        )
        for width, height in SIZES
    ]


@pytest.fixture(scope="module")
def shufflenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models import shufflenet_v2_x0_5

    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "shufflenet.pth"
    torch.save(shufflenet_v2_x0_5().state_dict(), file)
    return file


def test_torchvision_equals_its_own_pass_on_its_own_preset(shufflenet: Path) -> None:
    from torchvision.models import ShuffleNet_V2_X0_5_Weights, shufflenet_v2_x0_5

    own = shufflenet_v2_x0_5().eval()
    own.load_state_dict(torch.load(shufflenet, weights_only=True))
    own.fc = nn.Identity()
    preset = ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.transforms()
    backbone = load_backbone("torchvision:shufflenet_v2_x0_5", weights=shufflenet)
    assert backbone.recipe.architecture == "torchvision:shufflenet_v2_x0_5"
    assert [tap.name for tap in backbone.taps] == ["stage2", "stage3", "stage4", "last"]
    for image in images():
        there = preset(image)
        here = backbone.transform(image)
        assert torch.allclose(here, there, atol=1e-6)
        with torch.inference_mode():
            expected, kept = own(there[None]), own.stage3(own.stage2(own.maxpool(own.conv1(there[None]))))
        found = backbone.forward(here[None], ["last.none", "stage3.mean"])
        assert torch.allclose(found["last.none"], expected, atol=1e-5)
        assert torch.allclose(found["stage3.mean"], kept.mean((2, 3)), atol=1e-5)


def test_the_digest_is_that_of_the_weights_and_not_of_their_name(shufflenet: Path, tmp_path: Path) -> None:
    state = torch.load(shufflenet, weights_only=True)
    torch.save(
        {name: value for name, value in state.items() if not name.startswith("fc.")}, tmp_path / "a.pt"
    )
    state["conv1.0.weight"] = state["conv1.0.weight"] + 1
    torch.save(state, tmp_path / "b.pt")
    name = "torchvision:shufflenet_v2_x0_5"
    recipe = load_backbone(name, weights=shufflenet).recipe
    assert load_backbone(name, weights=tmp_path / "a.pt").recipe.digest == recipe.digest
    assert load_backbone(name, weights=tmp_path / "b.pt").recipe.digest != recipe.digest


def test_a_checkpoint_in_the_cache_of_torch_hub_is_taken(
    shufflenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "shufflenetv2_x0.5-f707e7126e.pth").symlink_to(shufflenet)
    name = "torchvision:shufflenet_v2_x0_5/IMAGENET1K_V1"
    assert plain_model_name(name) == "torchvision-shufflenet_v2_x0_5.IMAGENET1K_V1"
    backbone = load_backbone(name)
    assert backbone.recipe == load_backbone("torchvision:shufflenet_v2_x0_5", weights=shufflenet).recipe


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision:resnet19", "did you mean 'resnet18'"),
        ("torchvision:resnet18/IMAGENET1K_V9", "IMAGENET1K_V1"),
        ("torchvision:inception_v3", "inception_v3.tv_in1k"),
        ("torchvision:", "a name after it"),
        ("tensorflow:resnet18", "torchvision, transformers"),
        ("transformers:/no/such/folder", "there is none"),
    ],
)
def test_names_that_are_none(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_backbone(name)


def test_weights_of_another_network_are_refused(shufflenet: Path) -> None:
    with pytest.raises(WeightsError, match="do not fit torchvision's squeezenet1_1"):
        load_backbone("torchvision:squeezenet1_1", weights=shufflenet)


def test_tokens_of_torchvision_are_told_apart() -> None:
    backbone = load_backbone("random:torchvision:vit_b_32", model_kwargs={"image_size": 64}, img_size=64)
    taps = {tap.name: tap for tap in backbone.taps}
    assert taps["encoder.layers.encoder_layer_3"].poolings[:2] == ("cls", "mean")
    assert taps["encoder.layers.encoder_layer_3"].shape == (5, 768)
    assert len(taps) == 13


@pytest.mark.parametrize(
    ("name", "first", "n_blocks"),
    [
        ("densenet121", "features.denseblock1", 7),
        ("vgg11", "features.2", 5),
        ("swin_t", "features.0", 8),
        ("mnasnet0_5", "layers.8", 6),
        ("regnet_y_400mf", "trunk_output.block1", 4),
    ],
)
def test_blocks_of_torchvisions_families(name: str, first: str, n_blocks: int) -> None:
    from torchvision.models import get_model

    # Names do not depend on numbers, which the device `meta` does not have; one family computes with them.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        blocks = library_blocks(get_model(name, weights=None))
    assert (blocks[0], len(blocks)) == (first, n_blocks)


class Answer(nn.Module):
    """Gives what it was made with, by the mean of the colors of each image."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: torch.Tensor) -> Any:
        return self.answer(images)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda images: (images.mean((2, 3)), 0), "gives a tuple, not a tensor"),
        (lambda images: images, "a module that pools its output"),
        (lambda images: torch.rand(len(images), 3), "random numbers"),
        (lambda images: images.mean((2, 3)) @ torch.ones(2, 2), "cannot run on 32 x 32 pixels"),
    ],
)
def test_what_is_no_function_from_images_to_vectors_is_refused(answer: Any, said: str) -> None:
    built = BuiltNetwork(module=Answer(answer), architecture="custom:x", transform={})
    with pytest.raises(InputError, match=said):
        built.adapted((32, 32), name="x")


def test_blocks_are_children_of_the_outermost_list() -> None:
    network = nn.Module()
    network.stem = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    network.encoder = nn.Module()
    network.encoder.blocks = nn.ModuleList(nn.Sequential(nn.ReLU(), nn.Linear(1, 1)) for _ in range(2))
    assert find_block_names(network) == []
    network.encoder.layer = nn.ModuleList(nn.TransformerEncoderLayer(4, 2) for _ in range(3))
    assert find_block_names(network) == [f"encoder.layer.{i}" for i in range(3)]


@pytest.mark.parametrize(
    ("size", "resized", "said"),
    [
        ((224, 192), 256, "only as a square"),
        ((224, 224), (223, 224), "pads images"),
        ((200, 100), (400, 150), "no one crop_pct"),
    ],
)
def test_what_timm_has_no_words_for(size: tuple[int, int], resized: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        data_config(size, resized=resized, mean=[0.0] * 3, std=[1.0] * 3, interpolation="box", where="x")


@pytest.mark.parametrize("edge", range(224, 400, 7))
def test_a_crop_of_any_edge_is_resized_to_just_that_edge(edge: int) -> None:
    from toptune.extract.backbone.transform import EvalTransform

    config = data_config(
        (224, 224), resized=edge, mean=[0.0] * 3, std=[1.0] * 3, interpolation="box", where="x"
    )
    assert EvalTransform(config).resized_to == edge
