"""Pooling to a target size, against what the paper says in torch's own words."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shapes import save_shapes
from torch import nn

from toptune.extract import extract
from toptune.extract.backbone.pooling import TapValue, pool
from toptune.extract.backbone.taps import Tap, tap_arrays
from toptune.extract.backbone.target_pooling import target_size
from toptune.store import FeatureStore, InputError


def map_by_the_paper(values: torch.Tensor, target: int) -> torch.Tensor:
    n_channels, width = values.shape[1], values.shape[3]
    if n_channels >= target:
        return values.mean(dim=(2, 3))
    n = math.floor(math.sqrt(target // n_channels))
    p = width // n
    pooled: torch.Tensor = nn.Flatten()(nn.AvgPool2d(p, stride=p, padding=0)(values))
    return pooled


def tokens_by_the_paper(values: torch.Tensor, target: int) -> torch.Tensor:
    n_tokens, n_channels = values.shape[1:]
    if n_channels >= target:
        return values.mean(dim=1)
    p = math.floor(n_tokens / (target / n_channels))
    pooled: torch.Tensor = nn.Flatten()(nn.AvgPool1d(p, stride=p)(values.transpose(1, 2)))
    return pooled


@pytest.mark.parametrize("target", [1, 8, 31, 32, 72, 100, 512])
@pytest.mark.parametrize("width", [6, 7, 12])
def test_maps(width: int, target: int) -> None:
    values = torch.randn(3, 8, width, width, generator=torch.Generator().manual_seed(0))
    tap = Tap("layer1", "map", (8, width, width), "mean", grid=(width, width))
    is_all = target // 8 >= (width + 1) ** 2
    expected = values.flatten(1) if is_all else map_by_the_paper(values, target)
    pooled = pool(TapValue(values), f"target{target}")
    torch.testing.assert_close(pooled, expected)
    assert tap.dim(f"target{target}") == pooled.shape[1]


@pytest.mark.parametrize("target", [1, 8, 31, 32, 72, 100, 152])
@pytest.mark.parametrize("n_prefix", [0, 1, 2])
def test_tokens_are_all_tokens(n_prefix: int, target: int) -> None:
    values = torch.randn(3, n_prefix + 16, 8, generator=torch.Generator().manual_seed(0))
    body = values[:, n_prefix:].transpose(1, 2).reshape(3, 8, 4, 4)
    value = TapValue(body, values[:, :n_prefix] if n_prefix else None, is_tokens=True)
    tap = Tap("blocks.0", "tokens", (n_prefix + 16, 8), "mean", n_prefix=n_prefix, grid=(4, 4))
    pooled = pool(value, f"target{target}")
    expected = (
        tokens_by_the_paper(values, target)
        if target / 8 <= n_prefix + 16
        else values.transpose(1, 2).flatten(1)
    )
    torch.testing.assert_close(pooled, expected)
    assert tap.dim(f"target{target}") == pooled.shape[1]


def test_the_sizes_of_the_paper() -> None:
    resnet = Tap("layer1", "map", (256, 60, 60), "mean", grid=(60, 60))
    assert [resnet.dim(f"target{target}") for target in (256, 512, 8192, 24576)] == [256, 256, 6400, 25600]
    vit = Tap("blocks.0", "tokens", (197, 768), "cls", n_prefix=1, has_class_token=True, grid=(14, 14))
    assert [vit.dim(f"target{target}") for target in (512, 8192, 24576)] == [768, 7680, 24576]


def test_averages_of_half_precision_are_float32() -> None:
    values = torch.full((1, 2, 8, 8), 0.1, dtype=torch.bfloat16)
    assert torch.equal(pool(TapValue(values), "target8"), values.float()[:, :, :2, :2].flatten(1))


@pytest.mark.parametrize("pooling", ["target", "target0", "target-1", "target1.5", "target512x"])
def test_names_that_are_none(pooling: str) -> None:
    assert target_size(pooling) is None
    with pytest.raises(InputError, match=r"unknown pooling .*targetT \(target512\)"):
        tap_arrays([Tap("layer1", "map", (8, 6, 6), "mean", grid=(6, 6))], pooling)


def test_extraction_of_all_layers(tmp_path: Path) -> None:
    save_shapes(tmp_path / "photos")
    options: dict[str, Any] = {"model": "resnet10t.toptune_glyphs", "layers": "all", "pooling": "target512"}
    plan = extract(tmp_path / "photos", store=tmp_path / "store", dry_run=True, **options)
    extract(tmp_path / "photos", store=tmp_path / "store", **options)
    cache = FeatureStore.open(tmp_path / "store").cache("resnet10t.toptune_glyphs", "photos")
    specs = {spec.name: spec for spec in cache.arrays()}
    assert {name.rpartition(".")[2] for name in specs} == {"target512", "none"}
    text = json.dumps(plan.to_dict())
    assert all(f'"dim": {spec.dim}' in text for spec in specs.values())
    names = list(specs)
    values = cache.blocks(names).take(np.arange(cache.n_rows))
    assert values.shape[1] == sum(spec.dim for spec in specs.values())
    assert np.isfinite(values).all()
