"""Extraction on a CUDA device, here a pretended one: the same features, and no wait where none is needed."""

import re
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest
import torch
from fake_cuda import Counts, fake_cuda
from PIL import Image
from tiny import encode

from toptune.extract import extract, load_backbone, preparing
from toptune.extract.backbone import backbone as backbone_module
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.backbone.build import build_model
from toptune.extract.backbone.copies import CopyStreams, StagingRing
from toptune.extract.backbone.forward import ForwardPass
from toptune.extract.backbone.transform import EvalTransform
from toptune.extract.batch_size import SHARE, default_batch_size
from toptune.extract.drafting import load_for
from toptune.extract.pipeline import dask_units, dask_worker
from toptune.extract.pipeline.features_of import features_of
from toptune.extract.pipeline.forwarding import forward_pixels
from toptune.extract.pipeline.reader import BatchReader
from toptune.extract.pipeline.transfers import BatchTransfer
from toptune.extract.request.request import ExtractRequest
from toptune.machine.dask_cluster import ThisWorker
from toptune.store import DeviceMemoryError, FeatureStore, InputError, InterruptedRunError, NumericalError

Cli = Callable[..., tuple[int, str, str]]

DTYPES = {"last.none": "float16"}
CONFIG: dict[str, Any] = {
    "input_size": (3, 8, 8), "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center",
    "mean": (0.5,) * 3, "std": (0.5,) * 3,
}  # fmt: skip


def noise(n: int, size: int = 64) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("test_vit", "bf16"),
        ("test_resnet", "bf16"),
        ("test_convnext", "bf16"),
        ("test_efficientnet", "bf16"),
        ("test_vit", "fp16"),
        ("test_resnet", "fp16"),
    ],
)
def test_features_in_16_bits_are_those_of_the_cpu(name: str, precision: str) -> None:
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


@pytest.mark.parametrize("batch_size", [4, 2])
def test_batches_are_copied_ahead_of_the_results_that_are_waited_for_through_the_same_memory(
    batch_size: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_batches = 36 // batch_size
    options: dict[str, Any] = {
        "model": "random:test_resnet", "img_size": 32, "precision": "fp32", "decode": "exact",
        "dtype": "float32", "batch_size": batch_size, "layers": "last",
    }  # fmt: skip
    extract(photos, store=tmp_path / "cpu", **options)
    log: list[str] = []
    plain_copy, plain_result = CopyStreams.to_device, BatchTransfer.result

    def copying(self: CopyStreams, values: torch.Tensor) -> torch.Tensor:
        log.append("copy")
        return plain_copy(self, values)

    def fetching(self: BatchTransfer) -> dict[str, npt.NDArray[np.float32]]:
        log.append("result")
        return plain_result(self)

    monkeypatch.setattr(CopyStreams, "to_device", copying)
    monkeypatch.setattr(BatchTransfer, "result", fetching)
    with fake_cuda() as counts:
        extract(photos, store=tmp_path / "cuda", device="cuda", **options)
    # Two batches are on the device while the results of the one before them are fetched.
    assert log == ["copy"] * 2 + ["copy", "result"] * (n_batches - 2) + ["result"] * 2
    waits = {place: n for place, n in counts.places.items() if ".pipeline." in place}
    assert [(place.rpartition(" ")[2], n) for place, n in waits.items()] == [("event", n_batches)]
    # Three batches of pixels and three of features, however many batches there are.
    assert counts.pinned == 6
    here, there = (
        next(iter(FeatureStore.open(tmp_path / name).caches())).blocks(["last.none"]).take(np.arange(36))
        for name in ("cpu", "cuda")
    )
    np.testing.assert_array_equal(there, here)


def test_the_batch_size_follows_from_the_memory_of_the_device_and_stays(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"model": "random:test_resnet", "img_size": 32, "precision": "fp32"}
    with fake_cuda() as counts:
        backbone = load_backbone("random:test_resnet", img_size=32, device="cuda")
        arrays = backbone.resolve("last")
        assert default_batch_size(backbone, arrays) == 128
        torch.cuda.reset_peak_memory_stats()
        before = counts.live_bytes
        forward_pixels(backbone, noise(24, 32), arrays).result()
        weights = sum(each.nbytes for each in backbone.model.parameters())
        # A pass of 16 images fits into the share, and one of 32 would not.
        total = int((weights + counts.peak_bytes - before) / SHARE)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (total // 9, total))
        assert default_batch_size(backbone, arrays) == 16
        extract(photos, store=tmp_path / "cuda", device="cuda", decode="exact", **options)
        # More memory changes nothing of what was begun.
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (0, 4 * total))
        more = extract(photos, store=tmp_path / "cuda", device="cuda", layers="all", **options)
    # The extraction folds batch norms, so that an image may take less there.
    sizes = [int(size) for size in re.findall(r"batches of (\d+), because an image takes", caplog.text)]
    assert sizes[0] == 16
    assert more.plan is not None
    assert more.plan.batch_size == sizes[1] < 128
    extract(photos, store=tmp_path / "cpu", decode="exact", batch_size=sizes[1], **options)
    here, there = (
        next(iter(FeatureStore.open(tmp_path / name).caches())).blocks(["last.none"]).take(np.arange(36))
        for name in ("cpu", "cuda")
    )
    np.testing.assert_array_equal(there, here)


@pytest.mark.usefixtures("cuda")
def test_memory_is_lent_again_only_when_nobody_has_a_part_of_it() -> None:
    ring = StagingRing()
    first = ring.take((2, 5), np.uint8)
    first[:] = 7
    part = torch.from_numpy(first)[1:].numpy()
    del first
    assert ring.take((2, 5), np.uint8) is not None
    other = ring.take((4, 4), np.uint8)  # 16 bytes are locked for each
    other[:] = 0
    assert (part == 7).all()
    assert ring.n_pieces == 2
    del part
    assert (ring.take((3, 3), np.uint8) == 7).all()
    assert ring.n_pieces == 2


@pytest.mark.usefixtures("cuda")
def test_an_image_that_failed_is_zeros_where_an_earlier_batch_had_an_image() -> None:
    white = encode(Image.new("RGB", (8, 8), (255,) * 3))
    images = [white] * 4 + [white, b"no image"] * 2
    source: Any = SimpleNamespace(read=images.__getitem__)
    transform = EvalTransform(CONFIG)
    with BatchReader(source, [transform], workers=1, max_pixels=100, device=torch.device("cuda")) as reader:
        batches = reader.batches([slice(0, 4), slice(4, 8)])
        first = next(batches)
        address = first[0].pixels.ctypes.data  # type: ignore[union-attr]
        del first
        (batch,) = next(batches)
        assert batch.pixels.ctypes.data == address  # type: ignore[union-attr]
        assert [int(pixels.max()) for pixels in batch.pixels] == [255, 0, 255, 0]
        assert list(batch.failed) == [5, 7]


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


# Pixels at this scale are up to 5e5 in fp32, where fp16 ends at 65504; black images stay 0.
BEYOND: dict[str, Any] = {"mean": [0.0], "std": [2e-6]}


@pytest.mark.parametrize(("scale", "precision"), [({}, "fp16"), (BEYOND, "fp32")], ids=str)
def test_auto_is_fp16_on_a_device_without_bf16_unless_drawn_images_overflow(
    scale: dict[str, Any], precision: str, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        fake_cuda(),
        patch.multiple(
            torch.cuda, get_device_capability=lambda *_: (7, 5), is_bf16_supported=lambda **_: False
        ),
    ):
        options: dict[str, Any] = {"device": "cuda", "img_size": 32, "dtype": "float32", **scale}
        extract(photos, model="random:test_resnet", store=tmp_path / "store", **options)
    (cache,) = FeatureStore.open(tmp_path / "store").caches()
    assert cache.recipe.precision == precision
    assert np.isfinite(cache.blocks(["last.none"]).take(np.arange(36))).all()
    assert cache.measured("last.none")["relative_error"] < 0.005
    told = "precision auto takes fp32: precision fp16.* because fp16 ends at 65504; --precision fp16 takes"
    assert bool(re.search(told, caplog.text)) == (precision == "fp32")


def blank_folder(folder: Path, white: int) -> Path:
    (folder / "one").mkdir(parents=True)
    for i in range(40):
        image = Image.new("RGB", (32, 32), (255 if i == white else 0,) * 3)
        image.save(folder / "one" / f"{i:02}.png")
    return folder


def test_an_image_beyond_the_range_of_fp16_is_named_and_nothing_of_its_unit_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"model": "random:test_resnet", "img_size": 32, "precision": "fp16", **BEYOND}
    store, images = tmp_path / "store", blank_folder(tmp_path / "images", white=39)
    monkeypatch.setattr("toptune.extract.planning.choose_unit_rows", lambda *_: 16)
    monkeypatch.setattr("toptune.extract.request.request.even_sample", lambda *_: np.arange(16))
    told = r"image 'one/39.png' \(row 39\) left the range of fp16, .* use --precision fp32, or bf16"
    with pytest.raises(NumericalError, match=told):
        extract(images, store=store, **options)
    assert "fp16 takes several times as long as fp32 on a CPU" in caplog.text
    (cache,) = FeatureStore.open(store).caches()
    assert [unit for unit in range(3) if cache.entry("last.none", unit) is not None] in ([0], [0, 1])
    # In the sample, the same image tells before anything is stored.
    other = blank_folder(tmp_path / "others", white=0)
    with pytest.raises(
        NumericalError, match=r"precision fp16.* moves .* by (nan|inf) .*fp16 ends at 65504; use"
    ):
        extract(other, store=tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()
    # Where images are predicted, the image fails and the others do not.
    backbone = load_backbone(options.pop("model"), **options)
    data = [file.read_bytes() for file in sorted(images.rglob("*.png"))]
    source: Any = SimpleNamespace(read=data.__getitem__)
    found = list(features_of(source, 40, [(backbone, backbone.resolve("last"))], batch_size=16))
    assert [len(batch.rows) for batch in found] == [16, 16, 7]
    assert [list(batch.failed) for batch in found] == [[], [], [39]]
    assert "left the range of fp16" in found[2].failed[39]
    assert all(np.isfinite(values).all() for batch in found for values in batch.values[0].values())


def without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)


def with_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_units, "has_distributed", lambda: True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"device": "cpu,cpu"},
            r"is 2 devices, and dask.distributed.* is not installed; .* or name one device",
        ),
        ({"dask": "local:2"}, r"dask.distributed is not installed; pip install 'toptune\[dask\]'"),
        ({"dask": "slurm"}, r"dask.distributed is not installed; pip install 'toptune\[dask\]'"),
    ],
    ids=str,
)
def test_a_missing_dask_is_told_before_a_model_is_loaded(
    options: dict[str, Any], said: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_dask(monkeypatch)
    monkeypatch.setattr(preparing, "load_for", pytest.fail)
    with pytest.raises(InputError, match=said):
        extract(photos, model="random:test_vit", store=tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("device", ["cuda", "auto"])
@pytest.mark.usefixtures("cuda")
def test_without_dask_the_first_of_several_devices_computes_and_is_named_first(
    device: str, photos: Path, tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_dask(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    loaded: list[tuple[str, int]] = []
    told: list[str] = []
    load = load_for

    def loading(request: ExtractRequest) -> Backbone:
        loaded.append((request.options.device, len(told)))
        return load(request)

    monkeypatch.setattr(dask_units.logger, "warning", lambda text, *values: told.append(text % values))
    monkeypatch.setattr(preparing, "load_for", loading)
    given = ["--model", "random:test_vit", "--img-size", 32, "--device", device]
    code, _, err = run_cli("extract", photos, "--store", tmp_path / "store", *given)
    assert (code, err.count("error")) == (0, 0)
    assert loaded == [("cuda:0", 1)]
    (said,) = told
    assert said.startswith("computing on cuda:0 alone of 2 CUDA devices: dask.distributed")
    assert said.endswith("(pip install 'toptune[dask]') [TT106]")


@pytest.mark.usefixtures("cuda")
def test_what_made_the_plan_leaves_the_device_before_workers_come(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_dask(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    networks: list[weakref.ref[Any]] = []
    held: list[list[str]] = []
    freed: list[bool] = []

    def building(*given: Any, **options: Any) -> Any:
        made = build_model(*given, **options)
        networks.append(weakref.ref(made[0]))
        return made

    def open_client(address: str, **_: Any) -> Any:
        assert address == "local:2"
        there = [network() for network in networks]
        held.extend(
            sorted({each.device.type for each in net.parameters()}) for net in there if net is not None
        )
        raise InterruptedRunError("the workers would begin here")

    monkeypatch.setattr(backbone_module, "build_model", building)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(True))
    monkeypatch.setattr(dask_units, "open_client", open_client)
    monkeypatch.setattr("toptune.extract.planning.choose_unit_rows", lambda *_: 4)
    options: dict[str, Any] = {"img_size": 32, "device": "cuda", "precision": "bf16", "batch_size": 4}
    with pytest.raises(InterruptedRunError, match="would begin here"):
        extract(photos, model="random:test_vit", store=tmp_path / "store", **options)
    # The float32 reference is gone, and the network lies in main memory.
    assert len(networks) == 2
    assert held == [["cpu"]]
    assert freed


def test_a_worker_whose_device_is_full_does_not_blame_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_order: Any) -> None:
        raise DeviceMemoryError("loading tiny: the memory of cuda:1 is full")

    worker = ThisWorker("1", "tcp://there:1", torch.get_num_threads())
    monkeypatch.setattr(dask_worker, "this_worker", lambda: worker)
    monkeypatch.setattr(dask_worker, "_request", fail)
    order: Any = SimpleNamespace(threads=None)
    with pytest.raises(DeviceMemoryError, match=r"cuda:1 is full(\n\[TT912\])?$"):
        dask_worker.compute_units(order, [0])
