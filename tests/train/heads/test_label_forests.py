"""Forests of several labels a row: what is unknown, what is left out, and what is saved."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier

from toptune.errors import CorruptError, InputError
from toptune.train import load_head, make_head
from toptune.train.numerics.sigmoids import fit_sigmoids
from toptune.train.tasks.task import TargetMatrix

N, NAMES = 90, ("animal", "blue", "round")
SMALL = {"n_estimators": 8}
Rows = tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Features (n, d) and targets (n, 3), of which some labels are unknown."""
    rng = np.random.default_rng(0)
    marks = (rng.random((N, 3)) < (0.5, 0.3, 0.4)).astype(float)
    X = marks @ rng.normal(size=(3, 12)) * 1.5 + rng.normal(size=(N, 12))
    marks[:20, 1] = np.nan
    return X.astype(np.float32), marks


@pytest.fixture(scope="module")
def fitted(rows: Rows) -> Any:
    return made().fit(rows[0], TargetMatrix(values=rows[1], names=NAMES))


def made(**options: Any) -> Any:
    return make_head("forest", task="multilabel", cv=3, **{"params": SMALL, **options})


def test_an_unknown_label_takes_no_part_in_its_forest(rows: Rows, fitted: Any) -> None:
    X, Y = rows
    ours = fitted.decision_function(X) + 0.5
    whole = RandomForestClassifier(random_state=0, **SMALL).fit(X, Y[:, [0, 2]])
    part = RandomForestClassifier(random_state=0, **SMALL).fit(X[20:], Y[20:, 1])
    for column, shares in zip((0, 2), whole.predict_proba(X), strict=True):
        np.testing.assert_allclose(ours[:, column], shares[:, 1])
    np.testing.assert_allclose(ours[:, 1], part.predict_proba(X)[:, 1])
    assert "2 forests for 3 labels" in fitted.report["solver"]
    assert fitted.report["left_out"]["n_rows"] == N


def test_left_out_votes_calibrate_and_choose(rows: Rows, fitted: Any) -> None:
    left = fitted.left_out_scores
    sigmoids = fit_sigmoids(left.scores, rows[1][left.rows], np.ones(len(left.rows)))
    np.testing.assert_allclose(fitted.probabilities_of(left.scores), sigmoids.probabilities(left.scores))
    assert fitted.left_out.log_loss == pytest.approx(sigmoids.log_loss)
    # They are left out: trees that were grown on a row are surer of the row.
    known = np.isfinite(rows[1])
    wrong = np.abs(left.scores + 0.5 - rows[1])[known].mean()
    assert wrong > 1.5 * np.abs(fitted.decision_function(rows[0]) + 0.5 - rows[1])[known].mean()
    assert made(threshold=0.4).rule.value == 0.4
    assert ((fitted.thresholds > 0) & (fitted.thresholds < 1)).all()


def test_rows_of_a_group_are_left_out_together() -> None:
    rng = np.random.default_rng(1)
    # The labels of a group say nothing of another group, but each row has a twin in its own.
    X = np.repeat(rng.normal(size=(40, 6)), 2, axis=0).astype(np.float32)
    Y = np.repeat((rng.random((40, 2)) < 0.5).astype(float), 2, axis=0)
    targets = TargetMatrix(values=Y, names=("a", "b"))
    twins = [f"thing {row // 2}" for row in range(80)]
    apart, together = (
        made(params={"n_estimators": 30}).fit(X, targets, groups=groups)
        for groups in ([str(row) for row in range(80)], twins)
    )
    assert together.left_out.accuracy < 0.65 < 0.75 < apart.left_out.accuracy


def test_a_label_that_a_fold_does_not_know(rows: Rows) -> None:
    X, Y = rows
    rare = np.full(N, np.nan)
    rare[5], rare[6:9] = 1, 0
    values = np.column_stack([Y, rare])
    head = made().fit(X, TargetMatrix(values=values, names=(*NAMES, "rare")))
    found = head.predict_proba(X)
    assert np.isfinite(found).all()
    assert found[5, 3] > found[6, 3]


def test_a_saved_head_answers_alike(rows: Rows, fitted: Any, tmp_path: Path) -> None:
    X, _ = rows
    fitted.save(tmp_path)
    loaded = load_head(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    assert loaded.predict(X).tolist() == fitted.predict(X).tolist()
    assert loaded.classes == list(NAMES)
    assert loaded.task == "multilabel"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": [0.5]}, "1 thresholds and 3 labels"),
        ({"slopes": [1.0, None, 1.0]}, "is damaged"),
        ({"forests": [0, 0, 0]}, "has 2 labels in place of 3"),
        ({"forests": [0, 1, 2]}, "labels in place of"),
        ({"forests": [0, 1, "x"]}, "is damaged"),
    ],
)
def test_damaged_descriptions(fitted: Any, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    fitted.save(tmp_path)
    path = tmp_path / "head.json"
    description = json.loads(path.read_text())
    description["fitted"] |= change
    path.write_text(json.dumps(description))
    with pytest.raises(CorruptError, match=message):
        load_head(tmp_path)


def test_files_of_other_things(fitted: Any, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    skops.io.dump(fitted.estimator.forests[0], tmp_path / "head.skops")
    with pytest.raises(CorruptError, match="a RandomForestClassifier where a list should be"):
        load_head(tmp_path)
    skops.io.dump([fitted.estimator.forests[0], 3], tmp_path / "head.skops")
    with pytest.raises(CorruptError, match="a int where a RandomForestClassifier should be"):
        load_head(tmp_path)
    path = tmp_path / "head.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"head": "svm"}))
    with pytest.raises(CorruptError, match="names head 'svm', which knows no several labels"):
        load_head(tmp_path)


def test_bad_input(rows: Rows) -> None:
    X, Y = rows
    targets = TargetMatrix(values=Y, names=NAMES)
    with pytest.raises(InputError, match="head 'forest' on 90 rows of 12 features and 3 labels"):
        made(memory_limit_bytes=10_000).fit(X, targets)
    with pytest.raises(InputError, match=r"n_estimators.*give another value in params"):
        made(params={"n_estimators": 0}).fit(X, targets)
    with pytest.raises(InputError, match="takes a matrix of targets"):
        made().fit(X, ["a"] * N)
    with pytest.raises(InputError, match="threshold is 'best'"):
        made(threshold="best")
    broken = X.copy()
    broken[3, 2] = np.nan
    with pytest.raises(InputError, match="row 3"):
        made().fit(broken, targets)
    with pytest.raises(InputError, match="of 1 label nothing is known in any of the 90 rows: 'blue'"):
        made().fit(X, TargetMatrix(values=np.where([False, True, False], np.nan, Y), names=NAMES))


def test_numbers_of_rows_that_every_tree_has_seen_are_not_left_out(rows: Rows) -> None:
    X, targets = rows[0], TargetMatrix(values=rows[0][:, :2].astype(np.float64), names=("x", "y"))
    head: Any = make_head("forest", task="regression", params={"n_estimators": 2})
    head.fit(X, targets)
    left = head.left_out_scores
    seen = [set(sample.tolist()) for sample in head.estimator.estimators_samples_]
    assert left.rows.tolist() == [row for row in range(N) if row not in seen[0] & seen[1]]
    assert head.report["left_out"]["n_rows"] == len(left.rows) < N
    assert any(f"{len(left.rows)} of 90 training rows" in note for note in head.report["warnings"])
    # Trees have seen other rows of a row's group.
    head.fit(X, targets, groups=[str(row // 2) for row in range(N)])
    assert head.report["left_out"] is None
    assert any("has seen" in note or "have seen" in note for note in head.report["warnings"])
