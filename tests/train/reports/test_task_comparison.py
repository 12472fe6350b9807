"""Repeated runs over several labels and over numbers: the figures of the task, its tests, what is refused."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from toptune.store import FeatureCache, InputError
from toptune.train import compare_heads

Build = Callable[..., FeatureCache]
Run = Callable[..., tuple[int, str, str]]
N = 90
LABELS = ("blue", "car", "round")
FIGURES = {
    "multilabel": [
        "mean_average_precision", "mean_average_precision_micro", "f1_micro", "f1_macro", "subset_accuracy",
        "left_out_log_loss",
    ],
    "regression": ["r2", "mae", "rmse", "spearman", "left_out_squared_error"],
}  # fmt: skip


@pytest.fixture
def store(build: Build) -> Path:
    """Features that tell several labels, and a number."""
    rng = np.random.default_rng(0)
    marks = rng.random((N, len(LABELS))) < 0.4
    hidden = marks @ rng.normal(size=(len(LABELS), 19)) + rng.normal(size=(N, 19))
    parts: list[npt.NDArray[np.float32]] = np.split(hidden.astype(np.float32), [6, 11], axis=1)
    age = hidden @ rng.normal(size=19) + rng.normal(size=N)
    return build(
        labels=["one"] * N,
        features=dict(zip(("block.mean", "block.cls", "last.mean"), parts, strict=True)),
        extra={
            "labels": ["|".join(np.array(LABELS)[row]) for row in marks],
            "age": age.tolist(),
            "grade": [float(round(value / 2)) for value in age],
            "gaps": [None, *age[1:].tolist()],
        },
    ).root


def compare(store: Path, out: Path, **options: Any) -> Any:
    usual: dict[str, Any] = {"heads": ["ridge", "knn"], "seeds": 3, "cv": 3}
    return compare_heads(store, dataset="pets", model="tiny.demo", out=out, **(usual | options))


@pytest.mark.parametrize(("task", "options"), [("multilabel", {}), ("regression", {"target": "age"})])
def test_the_figures_are_those_of_the_task(
    store: Path, tmp_path: Path, task: str, options: dict[str, Any]
) -> None:
    found = compare(store, tmp_path / "out", **options)
    leading = FIGURES[task][0]
    with (tmp_path / "out" / "compare.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0])[4 : 4 + len(FIGURES[task])] == FIGURES[task]
    for row in table:
        run = tmp_path / "out" / row["folder"]
        metrics = json.loads((run / "metrics.json").read_text())
        for name in FIGURES[task][:-1]:
            assert float(row[name]) == metrics[name]
        left_out = json.loads((run / "run.json").read_text())["report"]["left_out"]
        assert float(row[FIGURES[task][-1]]) == left_out[FIGURES[task][-1].removeprefix("left_out_")]
    written = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert written["config"]["options"]["task"] == task
    assert list(written["heads"]["ridge"]) == [*FIGURES[task], "seconds", "fit_seconds"]
    of_ridge = [float(row[leading]) for row in table if row["head"] == "ridge"]
    assert written["heads"]["ridge"][leading]["mean"] == pytest.approx(np.mean(of_ridge))
    (pair,) = [each for each in written["pairs"] if each["metric"] == leading]
    differences = np.subtract(of_ridge, [float(row[leading]) for row in table if row["head"] == "knn"])
    assert pair["difference"] == pytest.approx(differences.mean())
    assert 0 < pair["p"] <= pair["p_holm"] <= 1
    text = str(found)
    assert f"{leading.replace('_', ' ')}, corrected resampled t-test" in text
    assert f"pets, tiny.demo, {task}" in text
    assert "accuracy " not in text.replace("subset accuracy", "")
    assert compare(store, tmp_path / "out", task=task, **options).rows == found.rows


def test_steps_of_a_scale_have_their_kappa(store: Path, tmp_path: Path) -> None:
    found = compare(store, tmp_path / "out", target="grade", ordinal=True, seeds=1)
    assert 0.3 < found.heads["ridge"]["quadratic_kappa"].mean < 1
    with pytest.raises(InputError, match="is a run with ordinal True, and False is asked for"):
        compare(store, tmp_path / "out", target="grade", seeds=1)


def test_missing_numbers_are_refused_or_left_out(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="target 'gaps' is missing in 1 row"):
        compare(store, tmp_path / "out", target="gaps", seeds=1)
    found = compare(store, tmp_path / "out", target="gaps", drop_missing=True, seeds=1)
    assert found.rows[0].n_train + found.rows[0].n_test == N - 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": ["ridge", "ncm"]}, "head 'ncm' does not know --task multilabel; the heads that do are"),
        ({"heads": ["ridge", "logistic"], "target": "age"}, "'logistic' does not know --task regression"),
        ({"task": "regression"}, "needs --target COLUMN"),
        ({"task": "multilabel", "target": "age"}, "numbers are the targets of --task regression"),
        ({"ordinal": True}, "ordinal has a meaning for --task regression only"),
        ({"threshold": "0.5", "target": "age"}, "only --task multilabel has thresholds"),
        ({"class_weight": "balanced", "heads": ["ridge"]}, "--task multilabel does not know"),
        ({"task": "classification"}, "images of the data set have several labels"),
        ({"target": "price"}, "no column 'price'"),
    ],
)
def test_what_does_not_fit_the_task_is_refused_before_the_first_run(
    store: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        compare(store, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_command_takes_the_task(run_cli: Run, store: Path, tmp_path: Path) -> None:
    arguments = ("compare", "--store", store, "--heads", "ridge", "--seeds", "1", "--layers", "last")
    code, out, err = run_cli(
        *arguments, "--target", "gaps", "--drop-missing", "--out", tmp_path / "gaps", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["config"]["options"]["drop_missing"] is True
    code, out, err = run_cli(*arguments, "--threshold", "precision:0.7", "--out", tmp_path / "labels")
    assert code == 0, err
    assert "mean average precision" in out
