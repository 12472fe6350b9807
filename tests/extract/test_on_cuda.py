"""Extraction on a CUDA device, here a pretended one: the same features, and no wait where none is needed."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from fake_cuda import Counts, fake_cuda

from toptune.extract import extract, load_backbone
from toptune.extract.backbone.forward import ForwardPass
from toptune.extract.pipeline.forwarding import forward_pixels
from toptune.store import FeatureStore

DTYPES = {"last.none": "float16"}


def noise(n: int, size: int = 64) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
def test_features_are_those_of_the_cpu(name: str, precision: str) -> None:
    options: dict[str, Any] = {"img_size": 64, "precision": precision}

    def features(device: str) -> dict[str, npt.NDArray[np.float32]]:
        backbone = load_backbone(f"random:{name}", device=device, **options)
        size = backbone.transform.size[0]
        return forward_pixels(backbone, noise(3, size), backbone.resolve("all")).result()

    expected = features("cpu")
    with fake_cuda():
        found = features("cuda")
    assert found.keys() == expected.keys()
    for array, values in expected.items():
        np.testing.assert_array_equal(found[array], values)


def test_a_pass_is_launched_without_a_wait_and_its_values_arrive_when_asked_for(cuda: Counts) -> None:
    backbone = load_backbone("random:test_vit", img_size=64, device="cuda")
    arrays = backbone.resolve([-1, "last"])
    expected = forward_pixels(backbone, noise(3), arrays, dtypes=DTYPES).result()
    cuda.clear()
    transfer = forward_pixels(backbone, noise(3), arrays, dtypes=DTYPES)
    assert cuda.operations["conv2d"] == 1
    assert not cuda.waits
    (part,) = transfer.parts
    wide = next(name for name in expected if name not in DTYPES)
    assert part.outputs[wide].isnan().all()
    assert part.narrow["last.none"].isnan().all()
    found = transfer.result()
    assert dict(cuda.waits) == {"event": 1}
    assert found["last.none"].dtype == np.float16
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_an_extraction_that_measures_and_cuts_its_batches_is_the_same_there(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def features(device: str, **more: Any) -> npt.NDArray[Any]:
        options: dict[str, Any] = {
            "img_size": 32,
            "layers": "last",
            "precision": "bf16",
            "fold": False,
            **more,
        }
        summary = extract(photos, model="random:test_vit", store=tmp_path / device, device=device, **options)
        (cache,) = FeatureStore.open(tmp_path / device).caches()
        assert cache.batch_size == 4
        return cache.blocks(["last.none"]).take(np.arange(summary.rows))

    expected = features("cpu", batch_size=4)
    plain = ForwardPass.run

    def small(self: ForwardPass, batch: torch.Tensor, *rest: Any) -> None:
        if len(batch) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        plain(self, batch, *rest)

    monkeypatch.setattr(ForwardPass, "run", small)
    with fake_cuda() as counts:
        found = features("cuda", batch_size="auto")
    assert counts.waits["event"] > 0
    np.testing.assert_array_equal(found, expected)
