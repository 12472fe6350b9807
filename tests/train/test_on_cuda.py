"""Training on a CUDA device, here a pretended one: what is refused, what is told, and the same answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from toptune.store import FeatureCache

Build = Callable[..., FeatureCache]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("solvers.one_pass.accumulate", "fitting FalkonClassifier: the memory of cuda is full"),
        ("runs.training.score", "the memory of the device is full"),
    ],
    ids=["fit", "elsewhere"],
)
@pytest.mark.usefixtures("cuda")
def test_a_training_that_fills_the_device_is_told_so_and_leaves_no_run(
    place: str,
    said: str,
    build: Build,
    tmp_path: Path,
    run_cli: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build()

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(f"toptune.train.{place}", fail)
    given = ["--store", tmp_path / "store", "--dataset", "pets", "--model", "tiny.demo", "--device", "cuda"]
    code, _, err = run_cli("train", *given, "--out", tmp_path / "run")
    assert code == 1
    for words in (said, "60.0 of 80.0 GiB are free", "--device cpu"):
        assert words in err
    assert "A fault in toptune" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]
