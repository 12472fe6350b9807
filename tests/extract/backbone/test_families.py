"""Features against timm's own outputs, by value, across the families that timm offers."""

from typing import Any

import pytest
import timm
import torch

from toptune.extract import Backbone, load_backbone
from toptune.store import InputError

# Architecture, arguments that make it small, image size, a module path that is no block.
FAMILIES = [
    ("test_resnet", {}, 64, "layer2.0.conv1"),
    ("mobilenetv3_small_050", {}, 64, "blocks.1.0.conv_pw"),
    ("test_efficientnet", {}, 64, "conv_stem"),
    ("test_convnext", {}, 64, "stages.1.blocks.0.mlp.fc1"),
    ("regnetx_002", {}, 64, "s2.b1.conv1"),
    ("densenet121", {"block_config": [1, 1, 1, 1], "growth_rate": 8}, 64, "features.conv0"),
    ("vit_tiny_patch16_224", {"depth": 3}, 64, "blocks.1.mlp.fc1"),
    ("deit_tiny_distilled_patch16_224", {"depth": 3}, 64, "blocks.1.attn.proj"),
    ("swin_tiny_patch4_window7_224", {"depths": [1, 1], "num_heads": [1, 2], "embed_dim": 16}, 56,
     "layers.1.blocks.0"),
    ("mixer_s32_224", {}, 64, "blocks.0.mlp_channels"),
    ("test_coatnet", {}, 64, "stages.1"),
    ("test_maxvit", {}, 64, "stem.conv1"),
    ("vit_tiny_r_s16_p8_224", {"depth": 2}, 64, "patch_embed.backbone.conv"),
    ("eva02_tiny_patch14_224", {"depth": 2}, 56, "blocks.0.norm1"),
    ("beit_base_patch16_224", {"depth": 2, "embed_dim": 48, "num_heads": 3}, 64, "blocks.0.mlp"),
    ("test_byobnet", {}, 64, "stages.0.0"),
    ("test_nfnet", {}, 64, "stages.0.0.conv1"),
    ("test_mambaout", {}, 64, "stages.0.blocks.0"),
    ("resnest14d", {"layers": [1, 1, 1, 1], "base_width": 16}, 64, "layer1.0"),
    ("xcit_nano_12_p16_224", {"depth": 2}, 64, "blocks.0"),
    ("levit_128s", {}, 64, "stages.0.blocks.0"),
    ("pvt_v2_b0", {}, 64, "stages.0"),
    # Weights of rank 5, which have no layout with the channels last.
    ("lambda_resnet26t", {}, 64, "stages.2.0.shortcut.conv"),
]  # fmt: skip


def load(architecture: str, kwargs: dict[str, Any], size: int) -> Backbone:
    return load_backbone(f"random:{architecture}", img_size=size, model_kwargs=kwargs)


def timm_values(backbone: Backbone, batch: torch.Tensor, path: str) -> dict[str, torch.Tensor]:
    """Poolings worked out from ``model(x)``, ``forward_intermediates`` and a hook of our own."""
    model, values = backbone.model, {}
    kept: list[torch.Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(lambda *args: kept.append(args[-1].clone()))
    values["last.none"] = model(batch)
    handle.remove()
    n_prefix = getattr(model, "num_prefix_tokens", 0)
    has_prefix = isinstance(backbone.model, timm.models.VisionTransformer | timm.models.eva.Eva
                            | timm.models.beit.Beit) and n_prefix  # fmt: skip
    more = {"return_prefix_tokens": True} if has_prefix else {}
    for tap, output in zip(backbone.taps, model.forward_intermediates(batch, intermediates_only=True, **more),
                           strict=False):  # fmt: skip
        body, prefix = output if has_prefix else (output, None)
        values[f"{tap.name}.mean"] = body.mean((2, 3))
        values[f"{tap.name}.max"] = body.amax((2, 3))
        if prefix is not None:
            values[f"{tap.name}.cls"] = prefix[:, 0]
    values[path] = kept[0]
    return values


@pytest.mark.parametrize(("architecture", "kwargs", "size", "path"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_values_are_timms(architecture: str, kwargs: dict[str, Any], size: int, path: str) -> None:
    backbone = load(architecture, kwargs, size)
    assert not backbone.model.training
    batch = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    poolings = {pooling for tap in backbone.taps for pooling in tap.poolings}
    wanted = [p for p in ("mean", "max", "cls") if p in poolings]
    arrays = backbone.resolve("all", wanted) + backbone.resolve(f"{path},last", "mean")[:1]
    found = backbone.forward(batch, arrays)
    with torch.inference_mode():
        expected = timm_values(backbone, batch.contiguous(memory_format=torch.channels_last), path)
    blocks = [array.name for array in arrays if array.tap.name != path]
    assert len(blocks) >= 3
    for name in blocks:
        assert found[name].dtype == torch.float32
        assert torch.allclose(found[name], expected[name].float(), rtol=1e-4, atol=1e-5), name
    hooked, (tap,) = expected[path], {array.tap for array in arrays if array.tap.name == path}
    if hooked.ndim == 2:
        assert torch.allclose(found[f"{path}.none"], hooked, atol=1e-5)
    else:
        # Whatever the layout: the channels are the axis of the tap's size.
        axis = hooked.ndim - 1 if hooked.shape[-1] == tap.channels else 1
        places = [i for i in range(1, hooked.ndim) if i != axis]
        if hooked.ndim == 3 and tap.n_prefix:
            hooked = hooked[:, tap.n_prefix :]
        assert torch.allclose(found[f"{path}.mean"], hooked.mean(places), rtol=1e-4, atol=1e-5)
    # One pass for everything gives what each costs alone; and a row does not know its batch mates.
    for name in ("last.none", blocks[0]):
        assert torch.allclose(backbone.forward(batch, [name])[name], found[name], rtol=1e-4, atol=1e-5)
    alone = backbone.forward(batch[1:2], arrays)
    for name, values in alone.items():
        assert torch.allclose(values[0], found[name][1], rtol=1e-3, atol=1e-4), name


def test_one_forward_pass_for_all_taps() -> None:
    backbone = load("test_vit", {}, 64)
    arrays = backbone.resolve("all,blocks.*.mlp.fc1", "mean,cls")
    batch = torch.zeros(2, 3, 64, 64)
    backbone.forward(batch, arrays)
    calls = []
    for module in (backbone.model.patch_embed, *backbone.model.blocks):
        module.register_forward_hook(lambda *_: calls.append(1))
    backbone.forward(batch, arrays)
    assert len(calls) == 1 + 6
    backbone.forward(batch, ["blocks.1.cls"])
    calls.clear()
    backbone.forward(batch, ["blocks.1.cls"])
    assert len(calls) == 1 + 2  # stops early


@pytest.mark.parametrize(
    ("architecture", "default"),
    [("test_vit", "cls"), ("eva02_tiny_patch14_224", "mean"), ("test_resnet", "mean"), ("test_vit3", "mean")],
)
def test_default_pooling_follows_the_family(architecture: str, default: str) -> None:
    kwargs = {"depth": 1} if "eva" in architecture else {}
    backbone = load(architecture, kwargs, 56 if "eva" in architecture else 64)
    assert {tap.default_pooling for tap in backbone.taps if tap.kind != "vector"} == {default}


@pytest.mark.parametrize(
    ("architecture", "layer", "message"),
    [
        ("test_vit", "blocks.0.attn.qkw", "did you mean 'blocks.0.attn.qkv'"),
        ("test_maxvit", "**.attn_block.attn", "windows"),
        ("test_vit", "blocks.0.attn.attn_drop", "runs 0 times"),
    ],
)
def test_layers_that_cannot_be_tapped(architecture: str, layer: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(architecture, {}, 64).resolve(layer)


def test_a_tap_that_gives_several_tensors_is_named() -> None:
    backbone = load_backbone("random:crossvit_tiny_240")
    assert backbone.taps[0].name == "blocks.0-0"  # two branches share one module path in timm's list
    with pytest.raises(InputError, match=r"layer blocks\.0 gives a list, not a tensor"):
        backbone.resolve("blocks.0")
