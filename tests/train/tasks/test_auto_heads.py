"""Head `auto` compares the heads that know the task, by the left-out loss of the task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toptune.store import FeatureCache, InputError
from toptune.train import evaluate_run, train

Build = Callable[..., FeatureCache]
N = 72


@pytest.fixture
def store(build: Build) -> Path:
    """Features that tell two labels, and a number."""
    rng = np.random.default_rng(0)
    marks = rng.random((N, 2)) < 0.5
    hidden = marks @ rng.normal(size=(2, 19)) + rng.normal(size=(N, 19))
    parts = np.split(hidden.astype(np.float32), [6, 11], axis=1)
    return build(
        labels=["one"] * N,
        features=dict(zip(("block.mean", "block.cls", "last.mean"), parts, strict=True)),
        extra={
            "labels": ["|".join(np.array(["blue", "car"])[row]) for row in marks],
            "age": (hidden @ rng.normal(size=19)).tolist(),
        },
    ).root


@pytest.mark.parametrize("options", [{}, {"target": "age"}], ids=["multilabel", "regression"])
def test_the_least_left_out_loss_is_kept(store: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    run = train(store, dataset="pets", out=tmp_path / "run", head="auto", budget=20.0, cv=2, **options)
    table = run.trials
    heads = [row["head"] for row in table]
    assert heads == (
        ["ridge", "knn", "falkon", "forest"]
        if options
        else ["ridge", "knn", "logistic", "falkon", "forest", "falkon-logistic"]
    )
    (chosen,) = [row for row in table if row["is_chosen"]]
    assert chosen["head"] == run.head.name
    fitted = [row for row in table if row["skipped"] is None]
    assert len(fitted) >= 2
    if options:
        assert chosen["squared_error"] == min(row["squared_error"] for row in fitted)
        assert f"{chosen['head']:<15} left-out squared error" in str(run)
    else:
        assert chosen["accuracy"] > max(row["accuracy"] for row in fitted) - 0.05
        assert run.form.thresholds is not None
    name = "r2" if options else "mean_average_precision"
    assert evaluate_run(tmp_path / "run")[name] == pytest.approx(run.metrics[name])


def test_weights_of_classes_are_refused_at_once(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which --task regression does not know: a row has no one class"):
        train(store, dataset="pets", out=tmp_path / "run", head="auto", target="age", class_weight="balanced")
