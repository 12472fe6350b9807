"""Regressors agree with scikit-learn's where both solve the same problem, and keep to the targets' unit."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, make_friedman1
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from toptune.errors import InputError
from toptune.store import ArrayBlocks
from toptune.train import FalkonRegressor, NearestNeighborRegressor, RidgeRegressor
from toptune.train.kernels.kernels import median_distance

X, y = load_diabetes(return_X_y=True)
X, y = X[:200], y[:200]
NUMBERS = np.column_stack([y, y**2])
REGRESSORS = [
    FalkonRegressor(n_centers=50, random_state=0),
    RidgeRegressor(random_state=0),
    NearestNeighborRegressor(random_state=0),
]


def test_ridge_is_scikit_learns_at_the_same_penalty() -> None:
    head = RidgeRegressor(penalty=1e-3, cv=None).fit(X, y)
    # Both minimize the same sum; toptune's penalty is per row, and of targets of variance 1.
    other = Ridge(alpha=1e-3 * len(X)).fit(X, y)
    np.testing.assert_allclose(head.predict(X), other.predict(X), rtol=1e-9)


def test_falkon_with_all_rows_as_centers_is_kernel_ridge_regression() -> None:
    centered = y - y.mean()
    rows = np.vstack([X, -X])
    # Of targets that are odd and rows that are even around 0, the intercept is 0 in either.
    targets = np.concatenate([centered, -centered])
    head = FalkonRegressor(centers=rows, sigma=0.2, penalty=1e-3, cv=None).fit(rows, targets)
    other = KernelRidge(alpha=1e-3 * len(rows), kernel="rbf", gamma=1 / (2 * 0.2**2)).fit(rows, targets)
    np.testing.assert_allclose(head.predict(X), other.predict(X), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("regressor", REGRESSORS)
def test_targets_of_any_unit_weigh_alike(regressor: Any) -> None:
    alone = clone(regressor).fit(X, y).predict(X)
    both = clone(regressor).fit(X, np.column_stack([y, 1e6 * y - 3, np.full(len(y), 7.0)])).predict(X)
    np.testing.assert_allclose(both[:, 1], 1e6 * both[:, 0] - 3, rtol=1e-8)
    np.testing.assert_allclose(both[:, 2], 7.0)
    np.testing.assert_allclose(both[:, 0], alone, rtol=1e-6)


@pytest.mark.parametrize("regressor", REGRESSORS)
def test_left_out_predictions_are_in_the_unit_of_the_targets(regressor: Any) -> None:
    head = clone(regressor).fit(X, y)
    left = head.left_out_scores_
    assert left.scores.shape == (len(X), 1)
    error = np.mean((left.scores[:, 0] - y[left.rows]) ** 2)
    # The report's error is of standardized targets.
    assert error / y.var() == pytest.approx(head.report_.left_out.squared_error, rel=1e-4)
    assert error > np.mean((head.predict(X) - y) ** 2)


def test_width_and_penalty_are_those_of_least_left_out_error() -> None:
    rows, targets = make_friedman1(400, noise=0.1, random_state=0)
    head = FalkonRegressor(n_centers=200, random_state=0).fit(rows[:300], targets[:300])
    chosen = [row for row in head.report_.table if row["is_chosen"]]
    assert [row["squared_error"] for row in chosen] == [
        min(row["squared_error"] for row in head.report_.table)
    ]
    assert head.score(rows[300:], targets[300:]) > 0.85


def test_blocks_give_what_arrays_give() -> None:
    for regressor in REGRESSORS:
        np.testing.assert_array_equal(
            clone(regressor).fit(ArrayBlocks(X), y).predict(ArrayBlocks(X)),
            clone(regressor).fit(X, y).predict(X),
        )


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (np.where(np.arange(len(y)) < 2, np.nan, y), r"targets of 2 rows are NaN or infinity \(rows 0, 1\)"),
        (np.where(np.arange(len(y)) == 3, np.inf, y), r"targets of 1 row are NaN or infinity \(rows 3\)"),
        (np.array(["a"] * len(y)), "the targets are no numbers"),
        (y[:-1], "199 targets for 200 rows"),
    ],
)
def test_targets_that_are_no_numbers_are_refused(targets: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        RidgeRegressor().fit(X, targets)


def test_neighbors_are_scikit_learns() -> None:
    head = NearestNeighborRegressor(n_neighbors=7, metric="euclidean", random_state=0).fit(X, NUMBERS)
    other = KNeighborsRegressor(n_neighbors=7).fit(X, NUMBERS)
    np.testing.assert_allclose(head.predict(X), other.predict(X))


def test_a_hundred_targets_count_in_the_projected_memory() -> None:
    rng = np.random.default_rng(0)
    rows, targets = rng.normal(size=(2000, 20)), rng.normal(size=(2000, 100))
    with pytest.raises(InputError, match="a matrix of 2000 rows and 100 labels or targets needs"):
        RidgeRegressor(memory_limit_bytes=3_000_000).fit(rows, targets)
    limit = 60_000_000
    head = RidgeRegressor(memory_limit_bytes=limit, random_state=0)
    tracemalloc.start()
    head.fit(rows, targets)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert head.coef_.shape == (100, 20)
    # NumPy's memory; torch's is projected by the same sums as for classes.
    assert 2 * targets.nbytes < peak <= head.report_.peak_bytes <= limit


def test_the_median_distance_is_taken_once_for_all_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def counted(rows: torch.Tensor) -> float:
        taken.append(len(rows))
        return median_distance(rows)

    monkeypatch.setattr("toptune.train.estimators.kernel_ridge.median_distance", counted)
    rows = np.random.default_rng(0).normal(size=(40, 3))
    FalkonRegressor(n_centers=20, cv=2, random_state=0).fit(rows, rows[:, 0])
    assert taken == [20]
