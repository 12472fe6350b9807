"""Tiny images and a tiny model for the tests of `toptune.extract`."""

import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from toptune.store import FeatureCache


def draw(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """Draw a smooth colored image, another one for every seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    """Give the bytes of an image's file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@cache
def drawn_file(seed: int) -> bytes:
    """Return the PNG of `draw`: many tests begin with the same images."""
    return encode(draw(seed))


def save_model(folder: Path, *, seed: int) -> Path:
    """Write config.json and model.safetensors as timm does."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    model = timm.create_model("test_efficientnet", num_classes=5)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()},
              folder / "model.safetensors")  # fmt: skip
    config = {
        "architecture": "test_efficientnet",
        "num_classes": 5,
        "model_args": {},
        "pretrained_cfg": {
            "tag": "tiny",
            "input_size": [3, 32, 32],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 0.9,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "num_classes": 5,
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def feature_bytes(cache: FeatureCache) -> dict[str, bytes]:
    """Every shard and every array's metadata: what two equal runs must share to the byte.

    What a killed writer leaves behind under a temporary name is not part of the cache.
    """
    return {
        str(path.relative_to(cache.path)): path.read_bytes()
        for path in sorted(cache.path.rglob("*"))
        if path.is_file()
        and not path.name.startswith(".tmp-")
        and path.relative_to(cache.path).parts[0] not in ("ledger", "requests", "cache.json")
    }
