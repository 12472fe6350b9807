"""The tower of images of open_clip gives what the library gives, on its own preprocessing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from toptune.errors import InputError, WeightsError
from toptune.extract import list_taps, load_backbone

library = pytest.importorskip("open_clip", reason="toptune[open-clip] is not installed")
VISION = {"image_size": 48, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 8, "vocab_size": 40, "width": 16, "heads": 2, "layers": 1}


def saved(folder: Path, *, seed: int = 0, vision: Any = VISION, **preprocess: Any) -> Any:
    folder.mkdir(exist_ok=True)
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}
    torch.manual_seed(seed)
    network = library.CLIP(**config).eval()
    written = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(written))
    torch.save(network.state_dict(), folder / "open_clip_pytorch_model.bin")
    return network


@pytest.mark.parametrize("preprocess", [{}, {"resize_mode": "squash", "interpolation": "bilinear"}])
def test_features_equal_the_librarys_own(preprocess: dict[str, Any], tmp_path: Path) -> None:
    network = saved(tmp_path, **preprocess)
    _, its_transform = library.create_model_from_pretrained(f"local-dir:{tmp_path}")
    backbone = load_backbone(f"open_clip:{tmp_path}")
    blocks = [f"transformer.resblocks.{i}" for i in range(3)]
    assert [tap.name for tap in backbone.taps] == [*blocks, "last"]
    assert backbone.taps[0].poolings[:2] == ("cls", "mean")
    rng = np.random.default_rng(0)
    for size in ((90, 61), (47, 121)):
        image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        there = its_transform(image)
        assert torch.allclose(backbone.transform(image), there, atol=1e-6)
        with torch.inference_mode():
            expected = network.encode_image(there[None])
        found = backbone.forward(there[None], ["last.none"])["last.none"]
        assert torch.allclose(found, expected, atol=1e-5)


def test_the_same_weights_in_another_folder_are_the_same(tmp_path: Path) -> None:
    saved(tmp_path / "a")
    saved(tmp_path / "b")
    saved(tmp_path / "c", seed=1)
    first, same, other = (load_backbone(f"open_clip:{tmp_path / name}") for name in "abc")
    assert same.recipe.digest == first.recipe.digest != other.recipe.digest
    assert first.name == "open_clip-a"


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, resize_mode="longest")
    with pytest.raises(InputError, match="by the longest edge and pads"):
        load_backbone(f"open_clip:{tmp_path}")
    (tmp_path / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(WeightsError, match="open_clip cannot load"):
        load_backbone(f"open_clip:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(InputError, match="is not open_clip's configuration"):
        load_backbone(f"open_clip:{tmp_path}")
    with pytest.raises(InputError, match="did you mean 'ViT-B-32"):
        load_backbone("open_clip:ViT-B-33/openai")
    with pytest.raises(InputError, match="needs weights behind a slash"):
        list_taps("open_clip:ViT-B-32/of-nobody")
    with pytest.raises(InputError, match="needs weights behind a slash"):
        load_backbone("open_clip:ViT-B-32")
