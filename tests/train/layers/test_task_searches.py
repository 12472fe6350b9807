"""Layers are searched for several labels and for numbers, by `layers-report` and by `--layers auto`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import Ridge

from toptune.store import ArrayBlocks, FeatureCache, InputError
from toptune.train import report_layers, train
from toptune.train.layers.grams import DualGrams, LayerGrams, PrimalGrams
from toptune.train.passes.targets import Targets
from toptune.train.passes.training_rows import TrainingRows

Build = Callable[..., FeatureCache]
Run = Callable[..., tuple[int, str, str]]
N = 90
LABELS = ("blue", "car", "round")


@pytest.fixture
def store(build: Build) -> Path:
    """Features of which the array `block.cls` alone tells several labels, and a number."""
    rng = np.random.default_rng(0)
    marks = rng.random((N, len(LABELS))) < 0.4
    features = {
        name: rng.normal(size=(N, dim))
        for name, dim in (("block.mean", 6), ("block.cls", 5), ("last.mean", 8))
    }
    features["block.cls"][:, :3] += 3 * marks
    age = features["block.cls"] @ [1.0, 2.0, 0.0, -1.0, 0.5] + 0.3 * rng.normal(size=N)
    return build(
        labels=["one"] * N,
        features={name: each.astype(np.float32) for name, each in features.items()},
        extra={
            "labels": ["|".join(np.array(LABELS)[row]) for row in marks],
            "age": age.tolist(),
            "height": (-50 * age + rng.normal(size=N)).tolist(),
        },
    ).root


@pytest.mark.parametrize(
    ("words", "figure"),
    [((), "accuracy of labels"), (("--target", "age,height"), "R2")],
    ids=["multilabel", "regression"],
)
def test_a_report_has_the_figures_of_the_task(
    store: Path, tmp_path: Path, run_cli: Run, words: tuple[str, ...], figure: str
) -> None:
    out = tmp_path / "layers"
    options = ("--store", store, "--dataset", "pets", "--short-list", "1", "--cv", "3")
    code, told, err = run_cli("layers-report", *options, *words, "--out", out)
    assert code == 0, err
    assert figure in told
    found = json.loads((out / "layers.json").read_text())
    assert found["task"] == ("regression" if words else "multilabel")
    assert "block.cls" in found["chosen"]["arrays"]
    leading = "r2" if words else "accuracy"
    alone = {each["arrays"][0]: each[leading] for each in found["choices"] if each["path"] == "alone"}
    assert alone["block.cls"] > 0.8 > alone["last.mean"]
    assert found["chosen"][f"head_{leading}"] > 0.8
    assert (found["chosen"]["accuracy"] is None) == bool(words)
    assert (out / "layers.png").stat().st_size > 0


@pytest.mark.parametrize("options", [{}, {"target": "age"}], ids=["multilabel", "regression"])
def test_training_takes_the_layers_of_the_search(
    store: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    run = train(store, dataset="pets", out=tmp_path / "run", layers="auto", head="ridge", cv=3, **options)
    assert "block.cls" in [array.name for array in run.arrays]
    assert (tmp_path / "run" / "layer_search.csv").is_file()


def test_a_head_that_does_not_know_the_task_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="head 'falkon-logistic' does not know --task regression"):
        report_layers(
            store,
            dataset="pets",
            model="tiny.demo",
            out=tmp_path / "out",
            head="falkon-logistic",
            target="age",
        )


def grams(form: str, targets: Targets) -> tuple[LayerGrams, npt.NDArray[np.float64], TrainingRows]:
    X = np.random.default_rng(1).normal(size=(60, 7))
    X[:, :2] += np.nan_to_num(targets.values[:, :2])
    rows = TrainingRows(
        blocks=ArrayBlocks(X), codes=np.zeros(60, np.int64), weights=np.ones(60), folds=np.arange(60) % 3,
        n_classes=targets.values.shape[1], n_folds=3, targets=targets,
    )  # fmt: skip
    device = torch.device("cpu")
    if form == "primal":
        return PrimalGrams(rows, (3, 4), block_rows=25, device=device), X, rows
    return DualGrams(rows, [ArrayBlocks(X[:, :3]), ArrayBlocks(X[:, 3:])], device=device), X, rows


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("are_labels", [True, False])
def test_both_forms_equal_ridge_on_the_columns(form: str, are_labels: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 3))
    if are_labels:
        values = (values > 0.3).astype(float)
        values[rng.random((60, 3)) < 0.2] = np.nan
    targets = Targets(values=values, are_labels=are_labels)
    found, X, rows = grams(form, targets)
    scores = np.zeros((60, 3))
    for fold in range(3):
        held = rows.folds == fold
        model = Ridge(alpha=0.1 * (~held).sum()).fit(X[~held, :3], targets.filled(~held))
        scores[held] = model.predict(X[held, :3])
    (result,) = found.left_out([((0,), 0.1)])
    np.testing.assert_allclose(result.scores, scores, atol=1e-5)
    # What is unknown is no error of the answer, and neither right nor wrong.
    assert result.squared_error == pytest.approx(np.nansum((values - scores) ** 2))
    known = np.isfinite(values)
    right = ((scores > 0.5) == (values > 0.5)) & known
    expected = (right.sum(axis=1) / known.sum(axis=1).clip(1)).sum() if are_labels else 0.0
    assert result.correct == pytest.approx(expected)
