"""Several labels an image: from the column `labels` to the figures of a run."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, coverage_error, f1_score

from toptune.store import FeatureCache, FeatureStore, InputError, Manifest, grow
from toptune.train import (
    FalkonClassifier,
    PreprocessedBlocks,
    StreamingLogisticClassifier,
    evaluate_run,
    load_run,
    make_head,
    train,
    update_run,
)
from toptune.train.tasks.multilabel import Multilabel
from toptune.train.tasks.task import TargetMatrix, Wanted
from toptune.workflows import write_report
from toptune.workflows.deploy.head_modules import check_exportable

Build = Callable[..., FeatureCache]
NAMES = ("animal", "blue", "car", "round")
N = 120


def several() -> tuple[list[str], dict[str, npt.NDArray[np.float32]], npt.NDArray[np.bool_]]:
    """Labels of rows, and features that tell them."""
    rng = np.random.default_rng(0)
    marks = rng.random((N, len(NAMES))) < (0.5, 0.3, 0.4, 0.2)
    hidden = marks @ rng.normal(size=(len(NAMES), 19)) * 0.9 + rng.normal(size=(N, 19))
    parts = np.split(hidden.astype(np.float32), [6, 11], axis=1)
    features = dict(zip(("block.mean", "block.cls", "last.mean"), parts, strict=True))
    texts = ["|".join(name for name, mark in zip(NAMES, row, strict=True) if mark) for row in marks]
    return texts, features, marks


def made(build: Build, texts: list[Any] | None = None, **options: Any) -> None:
    found, features, _ = several()
    texts = found if texts is None else texts
    labels = [text if text and "|" not in text else None for text in found]
    build(labels=labels, features=features, extra={"labels": texts}, **options)


@pytest.mark.parametrize(
    "head", ["ridge", "falkon", "falkon-logistic", "logistic", "knn", "forest", "head2toe"]
)
def test_the_task_is_taken_by_itself(build: Build, tmp_path: Path, head: str) -> None:
    made(build)
    run = train(tmp_path / "store", dataset="pets", out=tmp_path / "run", head=head)
    assert run.record.task == "multilabel"
    assert run.record.options["task"] == "multilabel"
    assert run.classes == list(NAMES)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for name in ("mean_average_precision", "mean_average_precision_micro", "f1_micro", "f1_macro"):
        assert 0.5 < metrics[name] <= 1, name
    assert 0.2 < metrics["subset_accuracy"] <= 1
    assert set(metrics["per_label"]) == set(NAMES)
    again = evaluate_run(tmp_path / "run")
    assert again["mean_average_precision"] == pytest.approx(metrics["mean_average_precision"])
    loaded = load_run(tmp_path / "run")
    assert "mean average precision" in str(loaded)
    assert loaded.form.thresholds is not None


def test_figures_are_those_of_scikit_learn(build: Build, tmp_path: Path) -> None:
    made(build)
    run = train(tmp_path / "store", dataset="pets", out=tmp_path / "run", head="ridge")
    scores = pq.read_table(tmp_path / "run" / "label_scores.parquet")
    truth, p = (
        np.stack([scores[f"{what}{at}"].to_numpy() for at in range(len(NAMES))], axis=1) for what in "yp"
    )
    guesses = p >= run.head.thresholds
    metrics = run.metrics
    assert metrics["mean_average_precision"] == pytest.approx(
        average_precision_score(truth, p, average="macro"), abs=1e-6
    )
    assert metrics["mean_average_precision_micro"] == pytest.approx(
        average_precision_score(truth, p, average="micro"), abs=1e-6
    )
    for average in ("micro", "macro", "samples"):
        expected = f1_score(truth, guesses, average=average, zero_division=0)
        assert metrics[f"f1_{average}"] == pytest.approx(expected, abs=1e-6)
    assert metrics["coverage_error"] == pytest.approx(coverage_error(truth, p), abs=1e-6)


def test_an_update_equals_a_fit_to_the_same_rows(build: Build, tmp_path: Path) -> None:
    made(build)
    store = FeatureStore.open(tmp_path / "store")
    run = train(
        store, dataset="pets", out=tmp_path / "run", head="falkon", n_centers=25, solver="direct", cv=3
    )
    texts, _, _ = several()
    old = store.features("tiny.demo", "pets").manifest
    rows = run.train_rows[-3:]
    texts[rows[0]], texts[rows[1]] = "animal|new", "blue|new"
    changed = Manifest.from_columns(
        ids=old.ids, sizes=old.sizes.tolist(), extra={"labels": texts, "slide": old.column("slide")}
    )
    grow(store, "pets", changed)
    forgotten = old.ids[rows[2]]
    newer: Any = update_run(run.folder, out=tmp_path / "newer", forget=[forgotten])
    assert newer.classes == sorted([*NAMES, "new"])
    assert any("not calibrated: 1 label" in warning for warning in newer.record.warnings)
    assert rows[2] not in newer.train_rows
    names = [array.name for array in run.arrays]
    after = store.features("tiny.demo", "pets")
    X = np.asarray(PreprocessedBlocks(after.blocks(names, newer.train_rows), run.preprocessing))
    Y = [[name in texts[row].split("|") for name in newer.classes] for row in newer.train_rows]
    estimator: Any = newer.head.estimator
    fresh = FalkonClassifier(
        centers=estimator.centers_, sigma=estimator.sigma_, penalty=estimator.penalty_, cv=None,
        solver="direct",
    )  # fmt: skip
    fresh.fit(X, np.array(Y, dtype=float))
    np.testing.assert_allclose(newer.head.decision_function(X), fresh.scores(X), atol=1e-8)
    # Folds are kept, and the labels that the rows were trained with are read again.
    assert load_run(newer.folder).classes == newer.classes
    assert evaluate_run(newer.folder)["n_test"] == newer.metrics["n_test"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "classification"}, "images of the data set have several labels"),
        ({"head": "lda"}, "head 'lda' does not know --task multilabel; the heads that do are falkon"),
        ({"head": "svm", "task": "multilabel"}, "does not know --task multilabel"),
        ({"class_weight": "balanced"}, "a row has no one class"),
        ({"threshold": "best"}, "threshold is 'best'; give f1"),
        ({"threshold": 1.5}, "a number between 0 and 1"),
        ({"label_column": "slide", "task": "multilabel"}, "no cell of column 'slide' has several labels"),
        ({"label_column": "slide,tail"}, "no column 'tail'"),
        ({"label_column": "slide,labels"}, "column 'slide' has 'slide 0' in row 0"),
        ({"task": "regression"}, "needs --target COLUMN"),
        ({"shots": 3}, "a row has no one class; give --train-size"),
    ],
)
def test_bad_input(build: Build, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    made(build)
    with pytest.raises(InputError, match=re.escape(message)):
        train(tmp_path / "store", dataset="pets", out=tmp_path / "run", **{"head": "ridge", **options})


def test_single_labels_are_no_several(build: Build, tmp_path: Path) -> None:
    build()
    with pytest.raises(InputError, match="the data set keeps one label an image"):
        train(tmp_path / "store", dataset="pets", out=tmp_path / "run", task="multilabel")


def test_columns_of_0_and_1(build: Build, tmp_path: Path) -> None:
    _, features, marks = several()
    columns: dict[str, list[Any]] = {
        name: [int(mark) for mark in marks[:, at]] for at, name in enumerate(NAMES)
    }
    columns["blue"][:10] = ["?"] * 10
    build(labels=[None] * N, features=features, extra=columns)
    run = train(
        tmp_path / "store", dataset="pets", out=tmp_path / "run", head="ridge", label_column=",".join(NAMES)
    )
    assert run.record.task == "multilabel"
    assert run.classes == list(NAMES)
    assert any("unknown:" in warning and "'blue' (" in warning for warning in run.record.warnings)
    assert any("no label applies to" in warning for warning in run.record.warnings)
    assert run.metrics["mean_average_precision"] > 0.5


def test_thresholds_follow_their_rule(build: Build, tmp_path: Path) -> None:
    made(build)
    fixed = train(tmp_path / "store", dataset="pets", out=tmp_path / "a", head="ridge", threshold=0.3)
    assert fixed.head.thresholds is not None
    np.testing.assert_array_equal(fixed.head.thresholds, 0.3)
    # A precision of nearly 1 asks for higher thresholds than F1 does.
    precise, f1 = (
        train(tmp_path / "store", dataset="pets", out=tmp_path / rule[:2], head="ridge", threshold=rule)
        for rule in ("precision:0.99", "f1")
    )
    high, low = (np.asarray(run.head.thresholds) for run in (precise, f1))
    assert (high >= low - 1e-9).all()
    assert (high > low).any()


@pytest.mark.parametrize(
    "head", ["ridge", "falkon", "falkon-logistic", "logistic", "knn", "forest", "head2toe"]
)
def test_unknown_labels_are_no_absent_labels(head: str) -> None:
    """Half of the rows with a label do not say so: what is known of them still counts."""
    rng = np.random.default_rng(1)
    truth = rng.random((300, 3)) < 0.4
    X = truth @ rng.normal(size=(3, 8)) * 1.5 + rng.normal(size=(300, 8))
    Y = truth.astype(float)
    hidden = truth[:, 1] & (rng.random(300) < 0.7)
    unknown, absent = Y.copy(), Y.copy()
    unknown[hidden, 1], absent[hidden, 1] = np.nan, 0.0
    names = ("a", "b", "c")
    means = []
    params = {"n_estimators": 20} if head == "forest" else None
    for values in (unknown, absent):
        fitted = make_head(head, task="multilabel", params=params).fit(
            X[:200], TargetMatrix(values=values[:200], names=names)
        )
        means.append(fitted.predict_proba(X[200:])[truth[200:, 1], 1].mean())
    assert means[0] > means[1] + 0.1
    assert means[0] > 0.5


def test_a_logistic_head_is_one_regression_a_label() -> None:
    rng = np.random.default_rng(2)
    Y = rng.random((150, 2)) < 0.4
    X = Y @ rng.normal(size=(2, 5)) + rng.normal(size=(150, 5))
    head = StreamingLogisticClassifier(penalty=0.01).fit(X, Y.astype(float))
    for at in range(2):
        alone = LogisticRegression(C=1 / (2 * 150 * 0.01), tol=1e-8).fit(X, Y[:, at])
        np.testing.assert_allclose(head.coef_[at], alone.coef_[0], atol=2e-3)
        np.testing.assert_allclose(head.intercept_[at], alone.intercept_[0], atol=2e-3)


def test_late_fusion_weighs_heads_of_several_labels(
    two_models: Callable[..., FeatureStore], tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    marks = rng.random((N, 3)) < 0.4
    names = ("a", "b", "c")
    texts = ["|".join(name for name, mark in zip(names, row, strict=True) if mark) for row in marks]
    features = {
        model: (marks @ rng.normal(size=(3, 6)) + noise * rng.normal(size=(N, 6))).astype(np.float32)
        for model, noise in (("small", 1.0), ("large", 1.5))
    }
    store = two_models(features)
    old = store.features("small", "pets").manifest
    grow(store, "pets", Manifest.from_columns(ids=old.ids, sizes=old.sizes.tolist(), extra={"labels": texts}))
    run: Any = train(store, dataset="pets", models=["small", "large"], out=tmp_path / "run", head="ridge")
    assert run.record.task == "multilabel"
    assert run.record.version == 4
    assert set(run.fusion.thresholds) == set(names)
    first, second, *_ = str(run).splitlines()
    assert f"mean average precision {run.metrics['mean_average_precision']:.4f}" in first
    assert f"{len(names)} labels in" in second
    loaded = load_run(tmp_path / "run")
    again = evaluate_run(loaded)
    assert again["mean_average_precision"] == pytest.approx(run.metrics["mean_average_precision"])
    assert again["f1_micro"] == pytest.approx(run.metrics["f1_micro"])
    alone = max(member.metrics["mean_average_precision"] for member in run.members)
    assert run.metrics["mean_average_precision"] > alone - 0.1


def test_the_best_of_all_is_refused_with_what_can_be_done(build: Build, tmp_path: Path) -> None:
    made(build)
    with pytest.raises(InputError, match=r"best does not know --task multilabel.*--head auto"):
        train(tmp_path / "store", dataset="pets", out=tmp_path / "run", best=True)


def test_one_label_an_image_is_taken_by_its_column(build: Build, tmp_path: Path) -> None:
    texts, features, marks = several()
    build(
        labels=["animal" if mark else "thing" for mark in marks[:, 0]],
        features=features,
        extra={"labels": texts},
    )
    said = re.escape("--task classification --label-column label")
    with pytest.raises(InputError, match=said):
        train(tmp_path / "store", dataset="pets", out=tmp_path / "run", task="classification")
    run = train(
        tmp_path / "store", dataset="pets", out=tmp_path / "run", task="classification",
        label_column="label", head="ncm",
    )  # fmt: skip
    assert run.classes == ["animal", "thing"]


def test_the_column_of_labels_may_be_named(build: Build, tmp_path: Path) -> None:
    made(build)
    run = train(tmp_path / "store", dataset="pets", out=tmp_path / "run", head="ridge", label_column="labels")
    assert run.record.task == "multilabel"
    assert run.classes == list(NAMES)


def test_images_of_which_nothing_is_known_are_in_no_split(build: Build, tmp_path: Path) -> None:
    texts: list[Any] = several()[0]
    texts[1], texts[4] = None, "?"
    made(build, texts, splits=["test" if row % 4 == 0 else "train" for row in range(N)])
    run = train(tmp_path / "store", dataset="pets", out=tmp_path / "run", head="ridge")
    assert not {1, 4} & {*run.train_rows.tolist(), *run.test_rows.tolist()}
    assert any("not used: 2 images without known labels" in warning for warning in run.record.warnings)


def test_names_of_classes_that_look_like_several_labels_are_told(build: Build, tmp_path: Path) -> None:
    build(labels=["a|b" if "|" in text else "a" for text in several()[0]])
    run = train(tmp_path / "store", dataset="pets", out=tmp_path / "run", head="ridge")
    told = [warning for warning in run.record.warnings if "[TT318]" in warning]
    assert len(told) == 1
    assert "1 class of 2 with '|' in the name ('a|b')" in told[0]
    assert "--task multilabel --label-column label" in told[0]


@pytest.mark.parametrize("head", ["ridge", "knn"])
def test_a_label_of_a_single_image_is_not_given_to_others(build: Build, tmp_path: Path, head: str) -> None:
    texts: list[Any] = several()[0]
    texts[1] = "|".join(sorted(["solo", *filter(None, texts[1].split("|"))]))
    made(build, texts, splits=["test" if row % 4 == 0 else "train" for row in range(N)])
    run = train(tmp_path / "store", dataset="pets", out=tmp_path / "run", head=head)
    head_of_run: Any = run.head
    assert head_of_run.thresholds[run.classes.index("solo")] == 0.5
    answers = pq.read_table(tmp_path / "run" / "predictions.parquet")["predicted"].to_pylist()
    assert not any("solo" in answer for answer in answers)
    assert any("fewer than 5 training images of 1 label" in note for note in run.record.warnings)


def test_a_forest_of_labels_names_what_can_be_updated_and_exported(build: Build, tmp_path: Path) -> None:
    made(build)
    params = {"n_estimators": 5}
    run = train(tmp_path / "store", dataset="pets", out=tmp_path / "run", head="forest", params=params, cv=2)
    with pytest.raises(InputError, match=r"sums are kept by head falkon .* and by ridge .*; train again"):
        update_run(run.folder, out=tmp_path / "newer")
    with pytest.raises(InputError, match="falkon, falkon-logistic, ridge, logistic, knn, head2toe on the"):
        check_exportable("forest", "multilabel")


def test_a_report_shows_the_curves(build: Build, tmp_path: Path) -> None:
    made(build)
    train(tmp_path / "store", dataset="pets", out=tmp_path / "run", head="ridge")
    summary = write_report([tmp_path / "run"], out=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert summary.runs == 1
    assert "1 of multilabel" in page
    assert "data:image/png;base64," in page
    for name in NAMES:
        assert f"<td>{name}</td>" in page


def test_an_empty_cell_of_a_column_of_marks_is_a_no(tmp_path: Path) -> None:
    manifest = Manifest.from_columns(
        ids=["a", "b", "c", "d"], sizes=[1] * 4,
        extra={"fur": ["1", "", "?", None], "legs": ["0", "1", "1", "1"], "note": ["x", "", None, "y"]},
    )  # fmt: skip
    labeled = Multilabel().labeled(manifest, Wanted(label_column="fur,legs"))
    assert labeled.labels == ["fur", "legs", "?fur|legs", "?fur|legs"]
    assert manifest.column("fur") == ["1", None, "?", None]
    assert manifest.column("note") == ["x", None, None, "y"]
    again = Manifest.from_parquet(manifest.to_parquet())
    assert Multilabel().labeled(again, Wanted(label_column="fur,legs")).labels == labeled.labels
