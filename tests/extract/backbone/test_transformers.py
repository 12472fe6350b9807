"""Vision networks of transformers give what the library gives, on its own image processor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from toptune.errors import InputError, WeightsError
from toptune.extract import Backbone, load_backbone

library = pytest.importorskip("transformers", reason="toptune[transformers] is not installed")
SIZES = ((90, 61), (64, 64), (47, 121), (133, 70))


def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)).resize(
            (width, height)
        )
        for width, height in SIZES
    ]


def saved(folder: Path, config: Any, processor: Any, **arguments: Any) -> Any:
    """Save an untrained network with its processor, and return the network."""
    torch.manual_seed(3)
    network = library.AutoModel.from_config(config, **arguments).eval()
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network


def vit(folder: Path, **arguments: Any) -> Any:
    config = library.ViTConfig(
        hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=48,
        patch_size=16,
    )  # fmt: skip
    processor = library.ViTImageProcessor(size={"height": 48, "width": 48})
    return saved(folder, config, processor, **arguments)


def dinov2(folder: Path) -> Any:
    config = library.Dinov2Config(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, image_size=48, patch_size=16
    )
    processor = library.BitImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 48, "width": 48})
    return saved(folder, config, processor)


def swin(folder: Path) -> Any:
    config = library.SwinConfig(
        embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=3, image_size=48, patch_size=4
    )
    return saved(folder, config, library.ViTImageProcessor(size={"height": 48, "width": 48}))


def convnext(folder: Path) -> Any:
    config = library.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=48)
    return saved(folder, config, library.ConvNextImageProcessor(size={"shortest_edge": 48}, crop_pct=0.8))


def resnet(folder: Path) -> Any:
    config = library.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    processor = library.ConvNextImageProcessor(size={"shortest_edge": 48}, crop_pct=0.8)
    return saved(folder, config, processor)


def expected(folder: Path, network: Any, image: Image.Image) -> tuple[torch.Tensor, Any]:
    processor = library.AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels = processor(image, return_tensors="pt").pixel_values
    with torch.inference_mode():
        return pixels[0], network(pixels, output_hidden_states=True)


@pytest.mark.parametrize("make", [vit, dinov2, swin, convnext, resnet])
def test_features_equal_the_libraries_own(make: Any, tmp_path: Path) -> None:
    network = make(tmp_path)
    backbone = load_backbone(f"transformers:{tmp_path}")
    assert backbone.recipe.architecture == f"transformers:{type(network).__name__}"
    blocks = [tap for tap in backbone.taps if tap.name != "last"]
    assert len(blocks) >= 2
    for image in images():
        pixels, outputs = expected(tmp_path, network, image)
        here = backbone.transform(image)
        assert torch.allclose(here, pixels, atol=1e-6)
        names = ["last.none", *(f"{tap.name}.mean" for tap in blocks)]
        found = backbone.forward(here[None], names)
        assert torch.allclose(found["last.none"], outputs.pooler_output.flatten(1), atol=1e-5)
        if make in (vit, dinov2):
            states = outputs.hidden_states
            # The network's last state may have gone through its norm.
            for tap, state in list(zip(blocks, states[1:], strict=True))[:-1]:
                assert tap.poolings[0] == "cls"
                mean = found[f"{tap.name}.mean"]
                assert torch.allclose(mean, state[:, 1:].mean(1), atol=1e-5)
                cls = backbone.forward(here[None], [f"{tap.name}.cls"])[f"{tap.name}.cls"]
                assert torch.allclose(cls, state[:, 0], atol=1e-5)


def test_the_same_weights_under_another_name_are_the_same(tmp_path: Path) -> None:
    network = vit(tmp_path / "a")
    vit(tmp_path / "b")
    first = load_backbone(f"transformers:{tmp_path / 'a'}")
    assert load_backbone(f"transformers:{tmp_path / 'b'}").recipe.digest == first.recipe.digest
    assert first.name == "transformers-a"
    with torch.no_grad():
        network.layernorm.bias.add_(1)
    network.save_pretrained(tmp_path / "b")
    assert load_backbone(f"transformers:{tmp_path / 'b'}").recipe.digest != first.recipe.digest


def test_a_pooler_without_weights_is_left_out(tmp_path: Path) -> None:
    network = vit(tmp_path, add_pooling_layer=False)
    backbone = load_backbone(f"transformers:{tmp_path}")
    image = images()[0]
    pixels, outputs = expected(tmp_path, network, image)
    found = backbone.forward(pixels[None], ["last.none"])["last.none"]
    assert torch.allclose(found, outputs.last_hidden_state[:, 0], atol=1e-5)


def test_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    vit(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"would be random: layernorm\.weight"):
        load_backbone(f"transformers:{tmp_path}")


def clip(folder: Path) -> Any:
    tower = {
        "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
        "image_size": 48, "patch_size": 16,
    }  # fmt: skip
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = library.CLIPConfig(vision_config=tower, text_config=text | {"vocab_size": 40})
    processor = library.CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    return saved(folder, config, processor)


def test_of_two_towers_the_one_of_images_is_taken(tmp_path: Path) -> None:
    network = clip(tmp_path)
    backbone = load_backbone(f"transformers:{tmp_path}")
    for image in images():
        _, outputs = expected(tmp_path, network.vision_model, image)
        found = backbone.forward(backbone.transform(image)[None], ["last.none"])["last.none"]
        assert torch.allclose(found, outputs.pooler_output, atol=1e-5)
    assert len(backbone.taps) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"do_resize": False}, "does not resize"),
        ({"do_rescale": False}, "do_rescale is off"),
        ({"rescale_factor": 1 / 127.5}, "scales pixels by"),
        ({"size": {"shortest_edge": 48}}, "does not crop"),
        ({"size": {"shortest_edge": 48, "longest_edge": 96}}, "limits the longer edge"),
    ],
)
def test_steps_without_words_are_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    vit(tmp_path)
    library.ViTImageProcessor(**{"size": {"height": 48, "width": 48}} | changes).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=said):
        load_backbone(f"transformers:{tmp_path}")


def test_a_processor_of_its_own_kind_is_refused(tmp_path: Path) -> None:
    vit(tmp_path)
    library.LevitImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a resize of its own"):
        load_backbone(f"transformers:{tmp_path}")


def test_a_network_without_processor_is_refused(tmp_path: Path) -> None:
    vit(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="finds no image processor"):
        load_backbone(f"transformers:{tmp_path}")


def test_untrained_weights_come_from_a_fixed_seed(tmp_path: Path) -> None:
    vit(tmp_path)
    name = f"random:transformers:{tmp_path}"
    first: Backbone = load_backbone(name)
    assert load_backbone(name).recipe == first.recipe
    assert first.recipe.weights != load_backbone(f"transformers:{tmp_path}").recipe.weights


def test_a_model_of_timm_is_sent_to_its_own_door(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "timm_wrapper", "architecture": "resnet10t", "num_classes": 0}'
    )
    with pytest.raises(InputError, match=f"is a model of timm; give local-dir:{tmp_path}"):
        load_backbone(f"transformers:{tmp_path}")
