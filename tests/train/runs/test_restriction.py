"""Runs whose head uses some columns only: they need the arrays of these, and predict the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selecting_ridge import SelectingRidge, heads_that_select

from toptune.store import FeatureCache
from toptune.train import PreprocessedBlocks, Run, evaluate_run, fit_preprocessing, train

Build = Callable[..., FeatureCache]
OPTIONS: dict[str, Any] = {"dataset": "pets", "model": "tiny.demo", "cv": 3, "head": "ridge", "layers": "all"}


@pytest.fixture
def selecting(monkeypatch: pytest.MonkeyPatch) -> list[SelectingRidge]:
    """Heads that `train` makes from now on: on columns of block.cls and last.mean, none of block.mean."""
    return heads_that_select(monkeypatch, [1, 4, 12, 14, 18])


@pytest.mark.parametrize(
    ("spec", "n_arrays"),
    [("standardise", 2), ("l2,power,standardise", 2), ("ternary", 2), ("standardise,pca", 3)],
)
def test_a_run_needs_only_what_its_head_uses(
    spec: str, n_arrays: int, build: Build, tmp_path: Path, selecting: list[SelectingRidge]
) -> None:
    cache = build()
    run = train(tmp_path / "store", out=tmp_path / "run", preprocess=spec, **OPTIONS)
    dims = {array.name: array.dim for array in cache.arrays()}
    assert list(dims.values()) == [5, 6, 8]
    loaded = Run.load(run.folder)
    names = [array.name for array in loaded.arrays]
    assert names == (list(dims) if n_arrays == 3 else ["block.cls", "last.mean"])
    assert loaded.config["saves"] == {
        "n_arrays": n_arrays, "n_arrays_trained_on": 3, "n_columns": 5, "n_columns_trained_on": 19,
        "bytes_per_picture": 2 * sum(dims[name] for name in names), "bytes_per_picture_trained_on": 38,
    }  # fmt: skip
    assert loaded.head.columns is None
    assert f"uses 5 of the features, of {n_arrays} of 3 arrays" in str(run)
    train_blocks = cache.blocks(list(dims), run.train_rows)
    whole, _ = fit_preprocessing(spec, train_blocks, tuple(dims.values()))
    expected = selecting[0].predict_proba(PreprocessedBlocks(cache.blocks(list(dims), run.test_rows), whole))
    for each in (run, loaded):
        _, probabilities = each.predict_blocks(cache.blocks(names, run.test_rows))
        np.testing.assert_allclose(probabilities, expected, rtol=1e-6, atol=1e-9)
    assert evaluate_run(loaded)["log_loss"] == pytest.approx(run.metrics["log_loss"], rel=1e-9)
    assert run.metrics["accuracy"] > 0.6


def test_a_head_that_uses_all_keeps_all(build: Build, tmp_path: Path) -> None:
    build()
    run = train(tmp_path / "store", out=tmp_path / "run", preprocess="l2,pca:4", **OPTIONS)
    assert run.config["saves"] == {
        "n_arrays": 3, "n_arrays_trained_on": 3, "n_columns": 4, "n_columns_trained_on": 4,
        "bytes_per_picture": 38, "bytes_per_picture_trained_on": 38,
    }  # fmt: skip
    assert "of the features" not in str(run)


@pytest.mark.parametrize(
    "spec", ["none", "standardise", "l2", "power", "pca:0.9", "whiten:5", "ternary", "l2,standardise"]
)
def test_a_run_is_recorded_scored_and_loaded(spec: str, build: Build, tmp_path: Path) -> None:
    cache = build()
    run = train(tmp_path / "store", out=tmp_path / "run", preprocess=spec, **OPTIONS)
    loaded = Run.load(run.folder)
    assert loaded.config["options"]["preprocess"] == spec
    assert loaded.config["preprocessing"] == loaded.preprocessing.to_dict()
    assert loaded.config["preprocessing"]["spec"] == spec
    assert run.metrics["accuracy"] > 0.7
    again = evaluate_run(run.folder)
    assert again["confusion_matrix"] == run.metrics["confusion_matrix"]
    assert again["log_loss"] == pytest.approx(run.metrics["log_loss"], rel=1e-9)
    assert loaded.predict_blocks(cache.blocks([array.name for array in loaded.arrays]))[1].shape == (90, 3)


def test_more_components_than_there_are_is_a_warning(build: Build, tmp_path: Path) -> None:
    build()
    run = train(tmp_path / "store", out=tmp_path / "run", preprocess="pca:50", **OPTIONS)
    assert any("50 principal components" in warning for warning in run.config["warnings"])
