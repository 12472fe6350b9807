from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from toptune.store import ArrayBlocks
from toptune.train import (
    FalkonClassifier,
    FalkonLogisticClassifier,
    FalkonRegressor,
    Head2ToeClassifier,
    LayerScaler,
    NearestMeanClassifier,
    NearestNeighborClassifier,
    NearestNeighborRegressor,
    RidgeRegressor,
    ShrinkageDiscriminantClassifier,
    StreamingLogisticClassifier,
    StreamingRidgeClassifier,
)

ESTIMATORS = [
    FalkonClassifier(n_centers=30),
    FalkonClassifier(n_centers=30, sigma=2.0, penalty=[1e-4, 1e-2], cv=3),
    FalkonLogisticClassifier(n_centers=30, penalty=[1e-4, 1e-2]),
    FalkonLogisticClassifier(n_centers=30, sigma=2.0, cv=3),
    StreamingRidgeClassifier(),
    Head2ToeClassifier(fraction=[0.5, 1.0]),
    Head2ToeClassifier(solver="softmax", final="logistic", group_penalty=0.1, unit_norm=False, cv=3),
    StreamingLogisticClassifier(penalty=[1e-3, 1e-1]),
    ShrinkageDiscriminantClassifier(),
    NearestMeanClassifier(),
    NearestNeighborClassifier(n_neighbors=[1, 3]),
    LayerScaler(),
    FalkonRegressor(n_centers=30),
    RidgeRegressor(),
    NearestNeighborRegressor(n_neighbors=[1, 3]),
]


@parametrize_with_checks(ESTIMATORS)  # type: ignore[untyped-decorator]
@pytest.mark.filterwarnings("ignore::toptune.train.rows.folds.FoldsReducedWarning")
@pytest.mark.filterwarnings("ignore::toptune.train.partial.partial_fit.PartialFitBeginsWarning")
def test_keeps_to_scikit_learns_conventions(estimator: Any, check: Any) -> None:
    check(estimator)


def test_works_in_pipelines_searches_and_clones() -> None:
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    pipeline = make_pipeline(StandardScaler(), FalkonClassifier(random_state=0, n_centers=40))
    search = GridSearchCV(pipeline, {"falkonclassifier__kernel": ["gaussian", "linear"]}, cv=3).fit(X, names)
    assert search.best_score_ > 0.93
    assert set(search.predict(X)) == set(names)
    cloned = clone(FalkonClassifier(sigma=[1.0, 2.0], penalty=0.1))
    assert cloned.get_params()["sigma"] == [1.0, 2.0]


def test_blocks_and_arrays_give_the_same() -> None:
    X, y = load_iris(return_X_y=True)
    for estimator in (
        FalkonClassifier(random_state=0, n_centers=40),
        FalkonLogisticClassifier(random_state=0, n_centers=40),
        StreamingRidgeClassifier(random_state=0),
        Head2ToeClassifier(random_state=0),
    ):
        from_array = clone(estimator).fit(X, y).predict_proba(X)
        from_blocks = clone(estimator).fit(ArrayBlocks(X), y).predict_proba(ArrayBlocks(X))
        np.testing.assert_array_equal(from_array, from_blocks)


def test_memory_mapped_rows_are_read_in_place(tmp_path: Any) -> None:
    X, y = load_iris(return_X_y=True)
    np.save(tmp_path / "x.npy", X.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert FalkonClassifier(random_state=0, n_centers=40).fit(mapped, y).score(mapped, y) > 0.93
