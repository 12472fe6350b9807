"""Several labels an image: from the column `labels` to the figures of a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from toptune.store import FeatureCache
from toptune.train import evaluate_run, load_run, train

Build = Callable[..., FeatureCache]
NAMES = ("animal", "blue", "car", "round")
N = 120


def several() -> tuple[list[str], dict[str, npt.NDArray[np.float32]], npt.NDArray[np.bool_]]:
    """Labels of rows, and features that tell them."""
    rng = np.random.default_rng(0)
    marks = rng.random((N, len(NAMES))) < (0.5, 0.3, 0.4, 0.2)
    hidden = marks @ rng.normal(size=(len(NAMES), 19)) * 1.5 + rng.normal(size=(N, 19))
    parts = np.split(hidden.astype(np.float32), [6, 11], axis=1)
    features = dict(zip(("block.mean", "block.cls", "last.mean"), parts, strict=True))
    texts = ["|".join(name for name, mark in zip(NAMES, row, strict=True) if mark) for row in marks]
    return texts, features, marks


def made(build: Build, texts: list[Any] | None = None, **options: Any) -> None:
    found, features, _ = several()
    texts = found if texts is None else texts
    labels = [text if text and "|" not in text else None for text in found]
    build(labels=labels, features=features, extra={"labels": texts}, **options)


@pytest.mark.parametrize("head", ["ridge", "falkon"])
def test_the_task_is_taken_by_itself(build: Build, tmp_path: Path, head: str) -> None:
    made(build)
    run = train(tmp_path / "store", dataset="pets", out=tmp_path / "run", head=head)
    assert run.record.task == "multilabel"
    assert run.record.options["task"] == "multilabel"
    assert run.classes == list(NAMES)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name in ("mean_average_precision", "mean_average_precision_micro", "f1_micro", "f1_macro"):
        assert 0.6 < metrics[name] <= 1, name
    assert 0.2 < metrics["subset_accuracy"] <= 1
    assert set(metrics["per_label"]) == set(NAMES)
    again = evaluate_run(tmp_path / "run")
    assert again["mean_average_precision"] == pytest.approx(metrics["mean_average_precision"])
    loaded = load_run(tmp_path / "run")
    assert "mean average precision" in str(loaded)
    assert loaded.form.thresholds is not None
