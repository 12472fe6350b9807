"""What must hold on a GPU; where a machine has none, the pretended one shows that these tests run."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tiny import feature_bytes

from toptune.costs.meter import CostMeter
from toptune.errors import InputError
from toptune.extract import extract, load_backbone
from toptune.extract.pipeline.forwarding import forward_pixels
from toptune.machine.doctor import examine_machine
from toptune.store import FeatureStore
from toptune.train import FalkonClassifier, Run, train
from toptune.workflows import Classifier, finetune

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device on this machine")
ARCHITECTURES = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet")


def pixels_for(size: tuple[int, int], n: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, *size, 3), dtype=np.uint8)


def features_of(name: str, device: str, n: int = 6, **options: Any) -> dict[str, npt.NDArray[np.float32]]:
    backbone = load_backbone(f"random:{name}", device=device, **options)
    found = forward_pixels(backbone, pixels_for(backbone.transform.size, n), backbone.resolve("all"))
    return found.result()


def stored(store: Path) -> dict[str, bytes]:
    (cache,) = FeatureStore.open(store).caches()
    return feature_bytes(cache)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_in_float32_are_those_of_the_cpu(gpu: str, name: str) -> None:
    expected = features_of(name, "cpu", precision="fp32")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")  # which notebooks often do: TF32 has 10 bits
    try:
        found = features_of(name, gpu, precision="fp32")
    finally:
        torch.set_float32_matmul_precision(before)
    for array, values in expected.items():
        np.testing.assert_allclose(found[array], values, atol=1e-4 * np.abs(values).max(), err_msg=array)


@pytest.mark.parametrize(("precision", "near"), [("bf16", 0.1), ("fp16", 0.0125)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_in_16_bits_are_near_those_in_float32(
    gpu: str, name: str, precision: str, near: float
) -> None:
    expected, found = features_of(name, gpu, precision="fp32"), features_of(name, gpu, precision=precision)
    for array, values in expected.items():
        assert np.abs(found[array] - values).max() < near * np.abs(values).max(), array


def test_an_extraction_repeats_to_the_bit_whole_or_in_shards(gpu: str, photos: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": "random:test_vit", "device": gpu, "batch_size": 4, "layers": "last"}
    for name in ("once", "again"):
        extract(photos, store=tmp_path / name, **options)
    for share in range(2):
        extract(photos, store=tmp_path / "shards", shard=(share, 2), **options)
    assert stored(tmp_path / "once") == stored(tmp_path / "again") == stored(tmp_path / "shards")


def test_every_row_under_load_is_of_its_own_image(gpu: str) -> None:
    """A buffer that is handed out before its copy is done would show as another batch's numbers."""
    backbone = load_backbone("random:test_resnet", device=gpu, precision="fp32")
    arrays, size = backbone.resolve("last"), backbone.transform.size
    levels = np.arange(0, 240, 5, dtype=np.uint8)
    batches = [np.full((4, *size, 3), level, np.uint8) for level in levels]
    under_way = [forward_pixels(backbone, batch, arrays) for batch in batches]
    together = [transfer.result() for transfer in under_way]
    for batch, found in zip(batches, together, strict=True):
        alone = forward_pixels(backbone, batch, arrays).result()
        for name, values in found.items():
            np.testing.assert_array_equal(values, alone[name])
    assert len({found[name][0].tobytes() for found in together for name in found}) == len(levels)


@needs_gpu
def test_a_batch_that_is_too_large_gives_the_same_features(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"model": "random:resnet50", "device": "cuda", "precision": "fp32"}
    extract(photos, store=tmp_path / "small", batch_size=4, **options)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    # Enough for the network and a few images of 224 x 224 pixels, and not for all of them at once.
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 700 * 2**20) / total)
    try:
        extract(photos, store=tmp_path / "large", batch_size=36, **options)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    small, large = (
        next(iter(FeatureStore.open(tmp_path / name).caches())).blocks(["last.mean"]).take(np.arange(36))
        for name in ("small", "large")
    )
    np.testing.assert_allclose(large, small, atol=2e-3 * np.abs(small).max())


@needs_two
def test_the_named_device_computes_and_no_other(photos: Path, tmp_path: Path) -> None:
    code = (
        "import sys, torch; from toptune.extract import extract; "
        "extract(sys.argv[1], model='random:test_vit', store=sys.argv[2], device='cuda:1'); "
        "assert torch.cuda.max_memory_allocated(0) == 0 < torch.cuda.max_memory_allocated(1)"
    )
    subprocess.run([sys.executable, "-c", code, photos, tmp_path / "store"], check=True)


def test_a_limit_below_the_projection_is_refused_before_the_work(gpu: str) -> None:
    X = np.random.default_rng(0).normal(size=(240, 8))
    with pytest.raises(InputError, match=r"of memory, and .* may be taken"):
        FalkonClassifier(n_centers=200, device=gpu, memory_limit_bytes=2**16).fit(X, np.arange(240) % 3)


@needs_gpu
def test_a_fit_takes_what_was_projected() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20_000, 512)).astype(np.float32), rng.integers(0, 50, 20_000)
    head = FalkonClassifier(n_centers=2000, random_state=0, device="cuda", solver="direct")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    head.fit(X, y)
    assert torch.cuda.max_memory_allocated() - before < 1.2 * head.report_.peak_bytes


def test_a_run_that_was_trained_there_predicts_on_the_cpu(gpu: str, photos: Path, tmp_path: Path) -> None:
    store, model = tmp_path / "store", "random:test_vit"
    extract(photos, model=model, store=store, dataset="shapes", device=gpu)
    runs = {
        device: train(
            store, dataset="shapes", model=model, head="ridge", out=tmp_path / device, device=device
        )
        for device in ("cpu", gpu)
    }
    (cache,) = FeatureStore.open(store).caches()
    blocks = cache.blocks([array.name for array in runs["cpu"].arrays])
    there, here = Run.load(tmp_path / gpu), Run.load(tmp_path / "cpu")
    np.testing.assert_allclose(there.predict_blocks(blocks)[1], here.predict_blocks(blocks)[1], atol=1e-6)


def test_a_network_that_was_fine_tuned_there_classifies_on_the_cpu(
    gpu: str, photos: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"learning_rates": [1e-3], "epochs": 1, "batch_size": 8, "precision": "fp32"}
    finetune(photos, model="random:test_resnet", out=tmp_path / "run", device=gpu, **options)
    images = [path.read_bytes() for path in sorted(photos.rglob("*.png"))[:6]]
    here, there = (
        Classifier.load(tmp_path / "run", device=device).predict(images) for device in ("cpu", gpu)
    )
    for one, other in zip(here, there, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)


@needs_gpu
def test_nothing_waits_between_the_launches_of_a_pass() -> None:
    backbone = load_backbone("random:test_vit", device="cuda", precision="bf16")
    arrays = backbone.resolve("last")
    pixels = torch.from_numpy(pixels_for(backbone.transform.size, 4)).cuda()
    with torch.inference_mode():
        backbone.forward(backbone.transform.normalize(pixels), arrays)  # libraries are loaded here
        torch.cuda.set_sync_debug_mode("error")
        try:
            backbone.forward(backbone.transform.normalize(pixels), arrays)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_costs_and_doctor_know_the_gpu() -> None:
    pytest.importorskip("pynvml", reason="the extra gpu is not installed")
    meter = CostMeter()
    meter.begin("work")
    torch.ones(64, device="cuda").sum().item()
    meter.end()
    used = meter.to_dict()["gpu"]
    assert used is not None
    assert used["devices"]
    assert torch.cuda.get_device_name(0) in examine_machine()["cuda"]
