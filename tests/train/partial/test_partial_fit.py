"""Blocks of rows that come one after the other give the fit of all rows at once."""

import pickle
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris, make_multilabel_classification

from toptune.errors import InputError
from toptune.store import ArrayBlocks
from toptune.train import FalkonClassifier, FalkonRegressor, RidgeRegressor, StreamingRidgeClassifier
from toptune.train.partial.partial_fit import PartialFitBeginsWarning

X, y = load_iris(return_X_y=True)
ORDER = np.random.default_rng(0).permutation(len(X))
X, y = X[ORDER], y[ORDER]
NUMBERS = np.column_stack([load_diabetes(return_X_y=True)[1][:150], 1e5 + np.arange(150.0) ** 2])
LABELED, LABELS = make_multilabel_classification(n_samples=150, n_classes=3, random_state=0)
STEP = 40
WEIGHTS = {0: 1.0, 1: 3.0, 2: 0.5}


def in_blocks(estimator: Any, rows: Any, targets: Any, **first: Any) -> Any:
    for start in range(0, len(rows), STEP):
        some = slice(start, start + STEP)
        estimator.partial_fit(rows[some], targets[some], **(first if start == 0 else {}))
    return estimator


@pytest.mark.parametrize("cv", [5, None])
@pytest.mark.parametrize(
    ("estimator", "rows", "targets", "first"),
    [
        (FalkonClassifier(centers=X[::3], sigma=1.0), X, y, {"classes": [0, 1, 2]}),
        (FalkonClassifier(centers=X[::3], sigma=1.0, class_weight=WEIGHTS), X, y, {"classes": [0, 1, 2]}),
        (FalkonClassifier(centers=LABELED[:40], sigma=20.0), LABELED, LABELS, {}),
        (StreamingRidgeClassifier(), X, y, {"classes": [0, 1, 2]}),
        (StreamingRidgeClassifier(), LABELED, LABELS, {}),
        (FalkonRegressor(centers=X[::3], sigma=1.0), X, NUMBERS, {}),
        (RidgeRegressor(), X, NUMBERS, {}),
    ],
)
def test_blocks_give_what_all_rows_give(
    estimator: Any, rows: Any, targets: Any, first: Any, cv: int | None
) -> None:
    penalty = None if cv else 1e-3
    found = in_blocks(clone(estimator).set_params(cv=cv, penalty=penalty), rows, targets, **first)
    # Folds by row number: groups that are named so.
    by_number = [str(row % 5) for row in range(len(rows))]
    whole = clone(estimator).set_params(cv=cv and "leave-one-group-out", penalty=penalty)
    whole.fit(rows, targets, groups=by_number)
    assert found.penalty_ == pytest.approx(whole.penalty_, rel=1e-12)
    scale = np.abs(whole.scores(rows)).max()
    np.testing.assert_allclose(found.scores(rows), whole.scores(rows), rtol=0, atol=1e-10 * scale)
    np.testing.assert_array_equal(found.predict(rows) > 0, whole.predict(rows) > 0)
    if hasattr(whole, "predict_proba"):
        np.testing.assert_allclose(found.predict_proba(rows), whole.predict_proba(rows), atol=1e-8)
    if cv:
        np.testing.assert_array_equal(found.left_out_scores_.rows, whole.left_out_scores_.rows)
        np.testing.assert_allclose(
            found.left_out_scores_.scores, whole.left_out_scores_.scores, atol=1e-6 * scale
        )
    assert found.report_.n_rows == len(rows)


def test_centers_and_widths_are_of_the_first_block() -> None:
    head = in_blocks(FalkonClassifier(n_centers=30, random_state=0), X, y, classes=[0, 1, 2])
    assert head.score(X, y) > 0.9
    assert head.center_indices_.max() < STEP
    np.testing.assert_array_equal(head.centers_, X[head.center_indices_])


def test_a_fit_may_wait_for_the_last_block() -> None:
    often = in_blocks(StreamingRidgeClassifier(), X, y, classes=[0, 1, 2])
    once = StreamingRidgeClassifier()
    once.partial_fit(X[:100], y[:100], classes=[0, 1, 2], solve=False)
    assert not hasattr(once, "coef_")
    once.partial_fit(ArrayBlocks(X[100:]), y[100:])
    np.testing.assert_allclose(once.coef_, often.coef_, atol=1e-10)


def test_a_pickle_goes_on_where_it_stopped() -> None:
    head = RidgeRegressor().partial_fit(X[:100], NUMBERS[:100])
    again = pickle.loads(pickle.dumps(head)).partial_fit(X[100:], NUMBERS[100:])
    head.partial_fit(X[100:], NUMBERS[100:])
    np.testing.assert_array_equal(again.coef_, head.coef_)


def test_many_rows_are_sampled_for_calibration_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toptune.train.partial.running_sums.CALIBRATION_ROWS", 20)
    head = in_blocks(StreamingRidgeClassifier(), X, y, classes=[0, 1, 2])
    whole = in_blocks(StreamingRidgeClassifier(), X, y, classes=[0, 1, 2])
    assert len(head.left_out_scores_.rows) <= 40
    monkeypatch.undo()
    np.testing.assert_array_equal(head.sums_.sums.gram, whole.sums_.sums.gram)


def test_rows_that_are_refused_leave_the_sums_as_they_were() -> None:
    head = StreamingRidgeClassifier().partial_fit(X[:100], y[:100], classes=[0, 1, 2])
    spoiled = X[100:].copy()
    spoiled[3, 1] = np.nan
    with pytest.raises(InputError, match="row 3"):
        head.partial_fit(spoiled, y[100:])
    with pytest.raises(InputError, match="classes of which partial_fit was not told at its first call: 7"):
        head.partial_fit(X[100:], np.where(np.arange(50) == 2, 7, y[100:]))
    head.partial_fit(X[100:], y[100:])
    whole = in_blocks(StreamingRidgeClassifier(), X, y, classes=[0, 1, 2])
    np.testing.assert_allclose(head.coef_, whole.coef_, atol=1e-10)


def test_what_no_block_can_change_is_refused() -> None:
    begun = FalkonClassifier(n_centers=10, random_state=0).partial_fit(X[:50], y[:50], classes=[0, 1, 2])
    with pytest.raises(ValueError, match="X has 3 features"):
        begun.partial_fit(X[:, :3], y)
    with pytest.raises(InputError, match=r"classes are \[0, 1\], and were \[0, 1, 2\]"):
        begun.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(InputError, match="changed since the first block: kernel"):
        begun.set_params(kernel="laplacian").partial_fit(X, y)
    numbers = RidgeRegressor().partial_fit(X, NUMBERS)
    with pytest.raises(InputError, match="y has 1 columns, and the first block had 2"):
        numbers.partial_fit(X, NUMBERS[:, 0])


@pytest.mark.parametrize(
    ("estimator", "targets", "classes", "told"),
    [
        (StreamingRidgeClassifier(), y, None, "classes must be passed on the first call"),
        (StreamingRidgeClassifier(), y, [1], r"classes are \[1\]; a classifier needs at least 2"),
        (StreamingRidgeClassifier(), LABELS, ["a", "b", "c"], "known by their columns"),
        (StreamingRidgeClassifier(class_weight="balanced"), y, [0, 1, 2], "class_weight is 'balanced'"),
        (StreamingRidgeClassifier(cv="leave-one-group-out"), y, [0, 1, 2], "give a number of folds"),
        (StreamingRidgeClassifier(dask="local:2"), y, [0, 1, 2], "dask is 'local:2'"),
        (FalkonClassifier(solver="falkon"), y, [0, 1, 2], "solver is 'falkon'"),
        (StreamingRidgeClassifier(), np.where(LABELS, np.nan, LABELS), None, "some labels are unknown"),
    ],
)
def test_a_first_block_that_cannot_begin_is_refused(
    estimator: Any, targets: Any, classes: Any, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        estimator.partial_fit(X, targets, classes)


def test_blocks_after_a_fit_begin_anew_and_say_so() -> None:
    head = StreamingRidgeClassifier(random_state=0).fit(X, y)
    with pytest.warns(PartialFitBeginsWarning, match="partial_fit begins anew"):
        head.partial_fit(X[:60], y[:60])
    assert head.report_.n_rows == 60


def test_another_fit_forgets_the_blocks() -> None:
    head = StreamingRidgeClassifier(random_state=0).partial_fit(X[:60], y[:60], classes=[0, 1, 2]).fit(X, y)
    np.testing.assert_array_equal(head.coef_, StreamingRidgeClassifier(random_state=0).fit(X, y).coef_)
