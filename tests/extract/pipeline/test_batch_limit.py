"""Batches that do not fit a device's memory: cut, said once, remembered; the features are the same."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toptune.extract import load_backbone
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.backbone.forward import ForwardPass
from toptune.extract.batch_size import measure_batch_size
from toptune.extract.pipeline import forwarding
from toptune.extract.pipeline.transfers import PixelBuffers
from toptune.store import FeatureCache

Make = Callable[..., Path]
Stored = Callable[..., FeatureCache]
Cli = Callable[..., tuple[int, str, str]]
FULL = {
    "allocator": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "pinned": torch.AcceleratorError("CUDA error: out of memory"),
}


def no_room_above(
    most: int, monkeypatch: pytest.MonkeyPatch, *, error: str = "allocator", place: str = "run"
) -> list[int]:
    """Let a step of a forward pass fail for more than `most` images; return the sizes of all attempts."""
    sizes: list[int] = []
    holder, name = {
        "run": (ForwardPass, "run"),
        "there": (forwarding, "to_device"),
        "back": (forwarding, "start_transfer"),
    }[place]
    plain = getattr(holder, name)

    def small(*given: Any) -> Any:
        # A pass, pixels, or outputs by name.
        values = given[1] if place == "run" else given[0]
        size = len(next(iter(values.values())) if isinstance(values, dict) else values)
        sizes.append(size)
        if size > most:
            raise FULL[error]
        return plain(*given)

    monkeypatch.setattr(holder, name, small)
    return sizes


@pytest.mark.parametrize(
    ("place", "error"),
    [("run", "allocator"), ("run", "cuBLAS"), ("run", "cuDNN"), ("there", "pinned"), ("back", "allocator")],
)
def test_a_batch_is_cut_once_and_later_ones_at_once(
    make_folder: Make,
    stored: Stored,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
    error: str,
) -> None:
    options: dict[str, Any] = {
        "layers": [-1, "last"], "precision": "fp32", "batch_size": 8,
        "decode": "exact",  # which needs no sample
    }  # fmt: skip
    whole = stored(make_folder(72), **options)
    assert whole.n_units == 2
    names = [spec.name for spec in whole.arrays()]
    sizes = no_room_above(3, monkeypatch, error=error, place=place)
    with caplog.at_level(logging.INFO):
        cut = stored(make_folder(72), store=tmp_path / "cut", dtype="float16", **options)
    np.testing.assert_allclose(
        cut.blocks(names).take(np.arange(72)), whole.blocks(names).take(np.arange(72)), rtol=2e-3, atol=2e-3
    )
    # The first batch is tried whole and in halves until a part fits. No other batch is tried above that.
    assert [size for size in sizes if size > 2] == [8, 4]
    assert sizes.count(2) >= 36
    (said,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert re.match("8 images at once do not fit: .*; 2 at once do, and are computed", said.getMessage())


@pytest.mark.parametrize("place", ["run", "there"])
def test_an_image_that_does_not_fit_alone_is_a_sentence_and_changes_nothing(
    make_folder: Make,
    stored: Stored,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_cli: Cli,
    place: str,
) -> None:
    data = make_folder(8)
    stored(data, layers="last")
    before = {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()}
    no_room_above(0, monkeypatch, place=place)
    given = ["--model", f"local-dir:{model_folder}", "--store", tmp_path / "store", "--layers", "all"]
    code, _, err = run_cli("extract", data, *given)
    assert code == 1
    assert "A fault in toptune" not in err
    for words in ("does not fit" if place == "there" else "a pass of tiny.net", "--img-size"):
        assert words in err
    assert {path: path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()} == before


def test_other_errors_are_no_reason_to_cut(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone(f"local-dir:{model_folder}")
    arrays = backbone.resolve("last")
    monkeypatch.setitem(FULL, "other", RuntimeError("CUDA error: device-side assert triggered"))
    sizes = no_room_above(2, monkeypatch, error="other")
    with pytest.raises(RuntimeError, match="device-side assert"):
        forwarding.forward_pixels(backbone, np.zeros((4, 32, 32, 3), np.uint8), arrays)
    assert sizes == [4]
    assert backbone.batch_limit.images is None


def test_a_part_that_overflows_makes_the_whole_array_wide(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(f"local-dir:{model_folder}")
    no_room_above(2, monkeypatch, place="there")

    def forward(_self: Backbone, batch: torch.Tensor, *_: Any) -> dict[str, torch.Tensor]:
        return {"last.none": batch[:, :, 0, 0].float() * 1e5}

    monkeypatch.setattr(Backbone, "forward", forward)
    pixels = np.full((4, 32, 32, 3), 127, np.uint8)
    pixels[3] = 255
    transfer = forwarding.forward_pixels(backbone, pixels, [], dtypes={"last.none": "float16"})
    assert [part.result()["last.none"].dtype.name for part in transfer.parts] == ["float16", "float32"]
    found = transfer.result()["last.none"]
    assert (found.dtype.name, found.shape, found[3].tolist()) == ("float32", (4, 3), [2e5] * 3)


@pytest.mark.parametrize(("most", "size"), [(16, 16), (3, 2)])
def test_a_measured_size_is_one_that_fits(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, most: int, size: int
) -> None:
    backbone = load_backbone(f"local-dir:{model_folder}")
    arrays = backbone.resolve("last")
    sizes = no_room_above(most, monkeypatch)
    monkeypatch.setattr("toptune.extract.batch_size.WORTH", 0.0)  # the largest that fits
    assert measure_batch_size(backbone, arrays) == size
    assert max(sizes) == (32 if most == 16 else 8)


def test_pixels_lie_in_other_memory_where_none_can_be_locked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise FULL["pinned"]

    buffers = PixelBuffers(is_pinned=True)
    monkeypatch.setattr(torch, "empty", fail)
    assert [buffers.make((2, 3)).sum() for _ in range(2)] == [0, 0]
    (said,) = caplog.records
    assert "no page-locked memory is left for batches (CUDA error: out of memory)" in said.getMessage()
