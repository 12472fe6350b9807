"""Fine-tuning on a CUDA device, here a pretended one: the same losses; either device goes on."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import Counts, fake_cuda
from shapes import MODEL, save_shapes
from torch.nn import functional

from toptune.extract import load_backbone, open_source
from toptune.store import DeviceMemoryError, InterruptedRunError
from toptune.workflows import FineTuneOptions, finetune
from toptune.workflows.finetuning.images import ImageLoader
from toptune.workflows.finetuning.learner import Learner
from toptune.workflows.finetuning.trained_network import make_network

Cli = Callable[..., tuple[int, str, str]]
OPTIONS: dict[str, Any] = {
    "model": MODEL, "epochs": 2, "warmup_epochs": 0, "learning_rates": [1e-3], "batch_size": 8,
    "depth": "last:1", "crop_scale": 0.5, "precision": "fp32", "workers": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a run on them that the CPU made."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tuning")
    save_shapes(folder / "photos", per_class=6)
    finetune(folder / "photos", out=folder / "run", **OPTIONS)
    return folder


def losses(run: Path) -> bytes:
    return (run / "selection.csv").read_bytes()


def on(device: str) -> AbstractContextManager[object]:
    return fake_cuda() if device == "cuda" else nullcontext()


@pytest.mark.parametrize(("first", "then"), [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")])
def test_either_device_goes_on_where_the_other_stopped(
    folder: Path, tmp_path: Path, first: str, then: str
) -> None:
    def stop() -> float | None:
        return 0.0 if (tmp_path / "run.unfinished" / "state.json").exists() else None

    with on(first), pytest.raises(InterruptedRunError, match="with 1 epoch done"):
        finetune(folder / "photos", out=tmp_path / "run", device=first, stop=stop, **OPTIONS)
    with on(then):
        run = finetune(folder / "photos", out=tmp_path / "run", device=then, **OPTIONS)
    assert losses(tmp_path / "run") == losses(folder / "run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (
        folder / "run" / "model.safetensors"
    ).read_bytes()
    assert run.record.device == ("cuda" if then == "cuda" else "cpu")


@pytest.fixture
def learner(folder: Path, cuda: Counts) -> Iterator[Learner]:
    backbone = load_backbone(MODEL, device="cuda")
    source = open_source(folder / "photos")
    with ImageLoader(source, backbone, None, seed=0, workers=1, cache_bytes=0) as loader:
        yield Learner(
            network=make_network(backbone, n_classes=3, depth="full", seed=0),
            backbone=backbone,
            loader=loader,
            targets=np.repeat(np.arange(3), 6),
            options=FineTuneOptions(epochs=1, batch_size=4),
            precision="bf16",
        )


def test_a_step_does_not_wait_for_the_device(learner: Learner, cuda: Counts) -> None:
    learner.begin(1e-3, n_steps_per_epoch=3)
    pixels, rows = torch.zeros((4, 48, 48, 3), dtype=torch.uint8), np.arange(4)
    learner.step(pixels, rows, 0)
    cuda.clear()
    learner.step(pixels, rows, 1)
    assert cuda.operations["conv2d"] > 1
    assert not cuda.waits


def test_cudnn_takes_fixed_algorithms_in_training(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[bool, bool]] = []
    inner: Callable[..., torch.Tensor] = functional.cross_entropy

    def note(*given: Any, **options: Any) -> torch.Tensor:
        found.append((torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark))
        return inner(*given, **options)

    monkeypatch.setattr(functional, "cross_entropy", note)
    learner.begin(1e-3, n_steps_per_epoch=1)
    learner.step(torch.zeros((2, 48, 48, 3), dtype=torch.uint8), np.arange(2), 0)
    assert set(found) == {(True, False)}
    assert not torch.backends.cudnn.deterministic


def test_a_batch_that_does_not_fit_names_the_options_and_keeps_the_epochs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Cli
) -> None:
    plain = Learner.train_epoch

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def fails_later(self: Learner, rows: Any, epoch: int, **options: Any) -> float:
        if epoch:
            monkeypatch.setattr(functional, "cross_entropy", full)
        return plain(self, rows, epoch, **options)

    monkeypatch.setattr(Learner, "train_epoch", fails_later)
    with fake_cuda(), pytest.raises(DeviceMemoryError) as raised:
        finetune(folder / "photos", out=tmp_path / "run", device="cuda", **OPTIONS)
    for words in ("in batches of 8: the memory of cuda is full", "a --batch-size below 8", "--device cpu"):
        assert words in str(raised.value)
    assert raised.value.exit_code == 1
    assert len(json.loads((tmp_path / "run.unfinished" / "state.json").read_text())["epochs"]) == 1
    assert not (tmp_path / "run").exists()
