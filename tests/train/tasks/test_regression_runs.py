"""Numbers as targets: from columns of the manifest to the figures of a run."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, r2_score, root_mean_squared_error

from toptune.errors import InputError
from toptune.store import FeatureCache, FeatureStore, Manifest, grow
from toptune.train import (
    FalkonRegressor,
    PreprocessedBlocks,
    RidgeRegressor,
    Run,
    evaluate_run,
    train,
    update_run,
)

Build = Callable[..., FeatureCache]
N = 120
HEADS = ["falkon", "ridge", "knn", "forest"]


def told() -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.float64]]:
    """Features of rows, and numbers that they tell."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(N, 19))
    numbers = hidden @ rng.normal(size=(19, 2)) + rng.normal(size=(N, 2))
    parts = np.split(hidden.astype(np.float32), [6, 11], axis=1)
    return dict(zip(("block.mean", "block.cls", "last.mean"), parts, strict=True)), numbers * [1, 500]


def made(build: Build, **columns: list[Any]) -> npt.NDArray[np.float64]:
    features, numbers = told()
    age, price = (numbers[:, at].tolist() for at in range(2))
    build(labels=["one"] * N, features=features, extra={"age": age, "price": price, **columns})
    return numbers


@pytest.mark.parametrize("head", HEADS)
def test_a_column_of_numbers_is_learned(build: Build, tmp_path: Path, head: str) -> None:
    numbers = made(build)
    run = train(tmp_path / "store", dataset="pets", out=tmp_path / "run", head=head, target="age")
    assert run.record.task == "regression"
    assert run.classes == ["age"]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    scores = pq.read_table(tmp_path / "run" / "target_scores.parquet")
    truth, found = scores["y0"].to_numpy(), scores["p0"].to_numpy()
    np.testing.assert_array_equal(truth, numbers[run.test_rows, 0])
    assert metrics["r2"] == pytest.approx(r2_score(truth, found), rel=1e-9)
    assert metrics["mae"] == pytest.approx(mean_absolute_error(truth, found), rel=1e-9)
    assert metrics["rmse"] == pytest.approx(root_mean_squared_error(truth, found), rel=1e-9)
    assert metrics["spearman"] == pytest.approx(spearmanr(truth, found).statistic, rel=1e-9)
    for name in ("r2", "mae", "rmse", "spearman"):
        low, high = metrics["intervals"][name]
        assert low < metrics[name] < high
    assert metrics["r2"] > (0.1 if head in ("knn", "forest") else 0.8)
    for image in ("predicted_against_true.png", "residuals.png"):
        assert (tmp_path / "run" / image).stat().st_size > 1000
    assert evaluate_run(tmp_path / "run")["r2"] == pytest.approx(metrics["r2"])
    loaded = Run.load(tmp_path / "run")
    assert f"r2 {metrics['r2']:.4f}" in str(loaded)
    predicted = pq.read_table(tmp_path / "run" / "predictions.parquet")["predicted"].to_pylist()
    assert predicted == [f"age={value!r}" for value in found.tolist()]
    assert run.head.left_out_scores is not None
    left = run.head.left_out_scores
    assert left.scores.shape == (len(run.train_rows), 1)
    assert r2_score(numbers[run.train_rows[left.rows], 0], left.scores[:, 0]) > 0.05


@pytest.mark.parametrize("head", HEADS)
def test_several_targets_have_their_own_figures(build: Build, tmp_path: Path, head: str) -> None:
    made(build)
    run = train(tmp_path / "store", dataset="pets", out=tmp_path / "run", head=head, target="age, price")
    assert run.classes == ["age", "price"]
    targets = run.metrics["targets"]
    assert run.metrics["mae"] == pytest.approx(np.mean([targets[name]["mae"] for name in run.classes]))
    assert targets["price"]["mae"] > 50 * targets["age"]["mae"]
    assert set(targets["age"]["intervals"]) == {"mae", "rmse", "r2", "spearman"}
    np.testing.assert_allclose(
        Run.load(tmp_path / "run").head.predict_proba(np.zeros((1, 19))),
        run.head.predict_proba(np.zeros((1, 19))),
    )


@pytest.mark.parametrize("head", ["ridge", "forest"])
def test_steps_of_a_scale_are_rounded(build: Build, tmp_path: Path, head: str) -> None:
    _, numbers = told()
    grades = np.clip(np.rint(numbers[:, 0] / 2), -2, 2).astype(int)
    made(build, grade=grades.tolist())
    run = train(
        tmp_path / "store", dataset="pets", out=tmp_path / "run", head=head, target="grade", ordinal=True
    )
    scores = pq.read_table(tmp_path / "run" / "target_scores.parquet")
    truth, found = scores["y0"].to_numpy(), scores["p0"].to_numpy()
    assert set(found.tolist()) <= {-2.0, -1.0, 0.0, 1.0, 2.0}
    expected = cohen_kappa_score(truth.astype(int), found.astype(int), weights="quadratic")
    assert run.metrics["quadratic_kappa"] == pytest.approx(expected)
    again = Run.load(tmp_path / "run")
    assert again.form.is_ordinal
    far = again.head.predict_proba(np.full((1, 19), 50.0))
    assert abs(float(far[0, 0])) <= 2


def test_folds_and_splits_keep_the_range_of_the_targets(build: Build, tmp_path: Path) -> None:
    numbers = made(build)
    run = train(tmp_path / "store", dataset="pets", out=tmp_path / "run", head="ridge", target="age")
    low = numbers[:, 0] < np.quantile(numbers[:, 0], 0.2)
    assert 3 <= low[run.test_rows].sum() <= 6
    rows = pq.read_table(tmp_path / "run" / "rows.parquet").to_pydict()
    folds = np.array([fold for fold in rows["fold"] if fold is not None])
    assert np.bincount(folds[low[run.train_rows]], minlength=5).min() >= 2


def test_missing_numbers_are_left_out_when_asked(build: Build, tmp_path: Path) -> None:
    _, numbers = told()
    gaps: list[Any] = numbers[:, 0].tolist()
    gaps[3], gaps[7], gaps[9] = None, "inf", "nan"
    made(build, gaps=gaps)
    run = train(
        tmp_path / "store",
        dataset="pets",
        out=tmp_path / "run",
        head="ridge",
        target="gaps",
        drop_missing=True,
    )
    used = set(np.concatenate([run.train_rows, run.test_rows]).tolist())
    assert used == set(range(N)) - {3, 7, 9}
    assert any("not used: 3 images without a number in gaps" in warning for warning in run.record.warnings)


def test_a_data_set_with_a_split_and_several_labels_may_lack_numbers(build: Build, tmp_path: Path) -> None:
    _, numbers = told()
    gaps: list[Any] = numbers[:, 0].tolist()
    gaps[1], gaps[4] = None, "inf"
    splits = ["test" if row % 4 == 0 else "train" for row in range(N)]
    build(labels=[None] * N, extra={"gaps": gaps, "labels": ["a|b"] * N}, splits=splits)
    run = train(
        tmp_path / "store", dataset="pets", out=tmp_path / "run", head="ridge", target="gaps",
        drop_missing=True,
    )  # fmt: skip
    used = [*run.train_rows.tolist(), *run.test_rows.tolist()]
    assert sorted(used) == [row for row in range(N) if row not in (1, 4)]
    assert not any("--task multilabel" in warning for warning in run.record.warnings)


def test_steps_a_little_below_zero_are_zero(build: Build, tmp_path: Path) -> None:
    made(build, step=[row % 3 - 1 for row in range(N)])
    run = train(
        tmp_path / "store", dataset="pets", out=tmp_path / "run", head="ridge", target="step", ordinal=True
    )
    head: Any = run.head
    assert head.answer_form.texts(head.rounded(np.array([[-0.2]]))) == ["step=0.0"]
    assert f"quadratic kappa {run.metrics['quadratic_kappa']:.4f}" in str(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target": "slide"},
            "column 'slide' holds text, not numbers, in 120 rows of 120: 'slide 0' in row 0",
        ),
        (
            {"target": "gaps"},
            "target 'gaps' is missing in 2 rows (rows 3, 5; the first is 'g1/picture 3.png')",
        ),
        ({"target": "gaps"}, "and infinite in 1 row (rows 7; the first is"),
        ({"target": "gaps"}, "leave these images out with --drop-missing"),
        ({"target": "void"}, "is missing in 120 rows"),
        ({"target": "void", "drop_missing": True}, "no image has numbers in 'void'"),
        ({"target": "flat"}, "target 'flat' is 7 in all"),
        ({"target": "agee"}, "no column 'agee'"),
        ({"target": "huge"}, "target 'huge' reaches 1e+200 in a training row, and squares of numbers above"),
        ({"target": "age,age"}, "given twice"),
        (
            {"target": "age", "head": "logistic"},
            "head 'logistic' does not know --task regression; the heads that do",
        ),
        (
            {"target": "age", "head": "falkon", "best": True},
            "Train the best head of one model with --head auto",
        ),
        ({"target": "age", "task": "classification"}, "numbers are the targets of --task regression"),
        ({"target": "age", "label_column": "slide"}, "leave one of them out"),
        ({"target": "age", "class_weight": "balanced"}, "a row has no one class"),
        ({"target": "age", "threshold": 0.3}, "only --task multilabel has thresholds"),
        ({"target": "age", "ordinal": True}, "are no whole numbers"),
        ({"task": "regression"}, "needs --target COLUMN"),
        ({"ordinal": True}, "ordinal has a meaning for --task regression only"),
        ({"drop_missing": True}, "drop_missing has a meaning for --task regression only"),
        (
            {"target": "age", "answer_by": "slide", "answer_from": "maximum"},
            "answer_from is 'maximum' with --task regression: numbers have no probabilities",
        ),
        (
            {"target": "age", "answer_by": "slide"},
            "40 things of 40 by 'slide' with images of different targets, for instance 'slide 0' with",
        ),
        ({"target": "age", "shots": 3}, "a row has no one class; give --train-size"),
    ],
)
def test_bad_input(build: Build, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    _, numbers = told()
    gaps: list[Any] = numbers[:, 0].tolist()
    gaps[3], gaps[5], gaps[7] = None, "nan", "inf"
    made(build, gaps=gaps, void=[None] * N, flat=[7] * N, huge=[f"{row}e198" for row in range(-100, 20)])
    with pytest.raises(InputError, match=re.escape(message)):
        train(tmp_path / "store", dataset="pets", out=tmp_path / "run", **{"head": "ridge", **options})


@pytest.mark.parametrize("head", ["falkon", "ridge"])
def test_an_update_equals_a_fit_to_the_same_rows(build: Build, tmp_path: Path, head: str) -> None:
    numbers = made(build)
    store = FeatureStore.open(tmp_path / "store")
    options: dict[str, Any] = {"n_centers": 25, "solver": "direct"} if head == "falkon" else {}
    run = train(
        store,
        dataset="pets",
        out=tmp_path / "run",
        head=head,
        target="price,age",
        cv=3,
        layers="last",
        **options,
    )
    old = store.features("tiny.demo", "pets").manifest
    rows = run.train_rows[-3:]
    age = numbers[:, 0].tolist()
    age[rows[0]], age[rows[1]] = 77.0, -3.5
    changed = Manifest.from_columns(
        ids=old.ids, labels=old.labels, sizes=old.sizes.tolist(),
        extra={"slide": old.column("slide"), "age": age, "price": old.column("price")},
    )  # fmt: skip
    grow(store, "pets", changed)
    newer = update_run(run.folder, out=tmp_path / "newer", forget=[old.ids[rows[2]]])
    assert newer.classes == ["price", "age"]
    assert rows[2] not in newer.train_rows
    after = store.features("tiny.demo", "pets")
    names = [array.name for array in run.arrays]
    X = np.asarray(PreprocessedBlocks(after.blocks(names, newer.train_rows), run.preprocessing))
    Y = np.column_stack([numbers[:, 1], age])[newer.train_rows]
    estimator: Any = newer.head.estimator
    same: dict[str, Any] = {"penalty": estimator.penalty_, "cv": None}
    fresh: Any = RidgeRegressor(**same)
    if head == "falkon":
        fresh = FalkonRegressor(centers=estimator.centers_, sigma=estimator.sigma_, solver="direct", **same)
    np.testing.assert_allclose(newer.head.predict_proba(X), fresh.fit(X, Y).predict(X), rtol=1e-6)
    assert evaluate_run(newer.folder)["r2"] == pytest.approx(newer.metrics["r2"])
