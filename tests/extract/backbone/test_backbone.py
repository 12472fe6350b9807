import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from fake_cuda import fake_cuda
from PIL import Image
from timm.data import create_transform, resolve_data_config
from tiny import draw
from torch.nn.modules.module import register_module_forward_pre_hook

from toptune.extract import DECODE, list_models, list_taps, load_backbone
from toptune.machine.devices import has_fast_bf16, resolve_precision
from toptune.store import InputError, UnreadableImageError, plain_model_name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"img_size": 48, "crop_pct": 1.0},
        {"interpolation": "bicubic", "mean": [0.1, 0.2, 0.3], "std": [0.5]},
    ],
)
@pytest.mark.parametrize("size", [(40, 32), (31, 97), (300, 200), (1, 1)])
def test_transform_is_timms_to_the_bit(
    model_folder: Path, options: dict[str, object], size: tuple[int, int]
) -> None:
    name = f"local-dir:{model_folder}"
    backbone = load_backbone(name, **options)  # type: ignore[arg-type]
    model = timm.create_model(name, pretrained=True, num_classes=0)
    theirs = create_transform(**resolve_data_config(dict(options), model=model), is_training=False)
    image = draw(1, size)
    found = backbone.transform(image)
    assert found.dtype == torch.float32
    assert torch.equal(found, theirs(image))
    # In a batch too, and from bytes.
    pixels = torch.from_numpy(np.stack([backbone.transform.pixels(image)] * 2))
    assert torch.equal(backbone.transform.normalize(pixels)[1], found)


def test_features_are_timms(model_folder: Path) -> None:
    name = f"local-dir:{model_folder}"
    backbone = load_backbone(name)
    model = timm.create_model(name, pretrained=True, num_classes=0).eval()
    batch = torch.stack([backbone.transform(draw(i)) for i in range(3)])
    with torch.inference_mode():
        expected = model(batch)
    assert torch.allclose(backbone.forward(batch, ["last.none"])["last.none"], expected, rtol=1e-5, atol=1e-6)
    assert not any(p.requires_grad for p in backbone.model.parameters())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fp32_means_float32_whatever_the_process_has_chosen(device: str) -> None:
    """CPUs with bf16 would compute linear layers and convolutions in it, CUDA devices in TF32."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        pytest.skip("torch < 2.9 has no switch for each operation")
    # Where these differ, torch refuses to say what the older switches are.
    chosen = {backends.mkldnn.matmul: "bf16", backends.mkldnn.conv: "bf16", backends.cudnn.conv: "ieee"}
    found: set[str] = set()

    def note(*_: object) -> None:
        found.update(owner.fp32_precision for owner in (*chosen, backends.cuda.matmul))

    with fake_cuda() if device == "cuda" else nullcontext():
        backbone = load_backbone("random:test_vit", device=device, img_size=64)
        backbone.resolve("last")  # looks at shapes only
        hook = register_module_forward_pre_hook(note)
        for owner, value in chosen.items():
            owner.fp32_precision = value
        try:
            backbone.forward(torch.zeros(2, 3, 64, 64), ["last.none"])
            assert [owner.fp32_precision for owner in chosen] == [*chosen.values()]
        finally:
            hook.remove()
            for owner in chosen:
                owner.fp32_precision = "none"
            backends.cudnn.allow_tf32 = True
    assert found == {"ieee"}


def test_recipe_and_spec(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model_folder.parent)
    backbone = load_backbone("local-dir:tiny.net", img_size=48)
    assert plain_model_name(backbone.name) == "tiny.net"
    assert backbone.recipe.architecture == "test_efficientnet"
    assert backbone.recipe.decode == DECODE
    assert backbone.recipe.transform == {
        "input_size": [3, 48, 48],
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "crop_pct": 0.9,
        "crop_mode": "center",
    }
    monkeypatch.chdir(tmp_path)
    again = load_backbone(**json.loads(json.dumps(backbone.spec)))
    assert again.recipe == backbone.recipe
    assert again.recipe.digest == backbone.recipe.digest
    other = load_backbone(f"local-dir:{model_folder}", img_size=64)
    assert other.recipe.differences(backbone.recipe) == [
        "transform.input_size [3, 64, 64] against [3, 48, 48]"
    ]


def test_random_only_by_name_and_always_the_same(model_folder: Path) -> None:
    first = load_backbone("random:test_vit")
    torch.randn(7)
    assert load_backbone("test_vit", pretrained=False).recipe == first.recipe
    trained = load_backbone(f"local-dir:{model_folder}")
    untrained = load_backbone(f"random:local-dir:{model_folder}")
    assert untrained.recipe.transform == trained.recipe.transform
    assert untrained.recipe.weights != trained.recipe.weights
    assert load_backbone(**untrained.spec).recipe == untrained.recipe


def test_fixed_size_models_take_another_size() -> None:
    backbone = load_backbone("random:vit_tiny_patch16_224", img_size=96, model_kwargs={"depth": 1})
    assert backbone.recipe.model_kwargs == {"depth": 1, "img_size": 96}
    assert backbone.taps[0].shape == (37, 192)
    convolutional = load_backbone("random:test_resnet", img_size=96)
    assert convolutional.recipe.model_kwargs == {}
    assert convolutional.transform.size == (96, 96)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet5o"}, "did you mean 'resnet5"),
        ({"name": "resnet18.nope"}, "hoose one of .*a1_in1k"),
        ({"name": "org/model"}, "org/model does not exist; .*write hf-hub:org/model"),
        ({"name": "local-dir:nowhere"}, "nowhere does not exist; check the path"),
        (
            {"name": "ftp:x"},
            "there may be hf-hub, local-dir, random, .*custom, .*and a name after",
        ),
        ({"name": "random:test_vit", "device": "cuda:99"}, "cuda:99.* is not there"),
        ({"name": "random:test_vit", "device": "tpu"}, "hoose one of auto, cpu, cuda"),
        ({"name": "random:test_vit", "precision": "half"}, "did you mean 'bf16' or 'fp16'"),
        ({"name": "random:test_vit", "interpolation": "wavelet"}, "choose one of bilinear"),
        ({"name": "random:test_vit", "mean": [0.5, 0.5]}, "mean has 2 values"),
        ({"name": "random:test_vit", "std": [0.0]}, "must be positive"),
        ({"name": "random:test_vit", "mean": [0.5, float("nan"), 0.5]}, r"mean is 0\.5, nan, 0\.5; .*finite"),
        ({"name": "random:test_vit", "std": [float("inf")]}, "std is inf; .*finite"),
        ({"name": "random:test_vit", "crop_pct": float("nan")}, "crop_pct is nan"),
        ({"name": "random:test_vit", "crop_pct": 1.5}, r"crop_pct is 1\.5"),
        ({"name": "random:test_vit", "img_size": -1}, "img_size is -1"),
        ({"name": "random:test_vit", "model_kwargs": {"dept": 1}}, "dept"),
        ({"name": "random:test_vit", "model_kwargs": {"num_classes": 3}}, "num_classes"),
        ({"name": "random:test_vit", "model_kwargs": {"x": {1, 2}}}, "JSON"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_backbone(**options)  # type: ignore[arg-type]


def test_too_small_a_image_says_so() -> None:
    backbone = load_backbone("random:test_resnet", img_size=64)
    backbone.resolve("all")
    swin = load_backbone("random:mobilenetv3_small_050", img_size=1)
    assert swin.resolve("last")[0].dim > 0


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1)])
def test_long_thin_images_are_refused(model_folder: Path, size: tuple[int, int]) -> None:
    backbone = load_backbone(f"local-dir:{model_folder}", img_size=224)
    with pytest.raises(UnreadableImageError, match="too long and thin"):
        backbone.transform(Image.new("RGB", size))


@pytest.mark.parametrize(("precision", "near"), [("bf16", 0.99), ("fp16", 0.9999)])
def test_16_bits_are_close_and_another_recipe(model_folder: Path, precision: str, near: float) -> None:
    reference, fast = (load_backbone(f"local-dir:{model_folder}", precision=p) for p in ("fp32", precision))
    batch = torch.stack([reference.transform(draw(i)) for i in range(4)])
    names = [array.name for array in reference.resolve("all")]
    exact, rounded = reference.forward(batch, names), fast.forward(batch, names)
    assert fast.recipe.weights == reference.recipe.weights
    assert fast.recipe.digest != reference.recipe.digest
    for name in names:
        assert rounded[name].dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(exact[name], rounded[name]).min() > near


def test_auto_precision_reads_the_cpu(tmp_path: Path) -> None:
    (tmp_path / "with").write_text("processor : 0\nflags\t: fpu avx512_bf16 sse\n")
    (tmp_path / "without").write_text("processor : 0\nflags\t: fpu sse avx512_bf16_not\n")
    assert has_fast_bf16(tmp_path / "with")
    assert not has_fast_bf16(tmp_path / "without")
    assert not has_fast_bf16(tmp_path / "nothing")
    assert resolve_precision("auto", torch.device("cpu")) == ("bf16" if has_fast_bf16() else "fp32")


def test_listing() -> None:
    taps = list_taps("test_vit", img_size=64)
    assert [tap.name for tap in taps] == [*(f"blocks.{i}" for i in range(6)), "last"]
    assert taps[0].to_dict() == {
        "name": "blocks.0",
        "kind": "tokens",
        "shape": [17, 64],
        "default_pooling": "cls",
        "dim": 64,
        "bytes_per_image": 128,
        "poolings": ["cls", "mean", "max", "target512", "grid2", "grid3", "grid4", "flatten"],
    }
    assert "resnet18.a1_in1k" in list_models("resnet18*")
    assert list_models("no-such-model*") == []
