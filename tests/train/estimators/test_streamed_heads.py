"""The heads that are toptune's own beside the kernel ones, against scikit-learn and brute force."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import normalize

from toptune.store import ArrayBlocks, InputError
from toptune.train import (
    NearestMeanClassifier,
    NearestNeighborClassifier,
    ShrinkageDiscriminantClassifier,
    StreamingLogisticClassifier,
)
from toptune.train.estimators.logistic import DENSE_FEATURES
from toptune.train.rows.folds import draw_folds

Data = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]
SHAPES = [(200, 12), (60, 150)]


def make(shape: tuple[int, int], *, n_classes: int = 4, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(shape[0]) % n_classes)
    means = rng.normal(size=(n_classes, shape[1]))
    return rng.normal(size=shape) + means[y] * (4 / np.sqrt(shape[1])) + 0.5, y


def left_out_by(fit: Any, X: npt.NDArray[Any], y: npt.NDArray[Any], groups: list[str]) -> float:
    """Accuracy over the same folds, by brute force."""
    folds = draw_folds(y, np.unique(y), cv=5, groups=groups).numbers
    correct = 0
    for fold in range(5):
        inside = folds != fold
        correct += (fit().fit(X[inside], y[inside]).predict(X[~inside]) == y[~inside]).sum()
    return float(correct / len(y))


def ids(n: int) -> list[str]:
    return [f"image {row}" for row in range(n)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shrinkage", [0.02, 0.5, 1.0])
def test_lda_is_scikit_learns(shape: tuple[int, int], shrinkage: float) -> None:
    X, y = make(shape)
    ours = ShrinkageDiscriminantClassifier(shrinkage=shrinkage).fit(X, y, groups=ids(len(y)))
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X, y)
    np.testing.assert_allclose(ours.scores(X), theirs.decision_function(X), rtol=1e-6, atol=1e-8)
    assert ours.report_.left_out is not None
    expected = left_out_by(
        lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage), X, y, ids(len(y))
    )
    assert ours.report_.left_out.accuracy == pytest.approx(expected)


def test_lda_chooses_its_shrinkage_and_reports_jitter() -> None:
    X, y = make((40, 150))
    fitted = ShrinkageDiscriminantClassifier().fit(X, y)
    assert fitted.shrinkage_ in [row["shrinkage"] for row in fitted.report_.table]
    bare = ShrinkageDiscriminantClassifier(shrinkage=0).fit(X, y)
    assert any("jitter" in note for note in bare.report_.warnings)
    wrongs: list[Any] = [1.5, -0.1, "auto", True]
    for wrong in wrongs:
        with pytest.raises(InputError, match="from 0 to 1"):
            ShrinkageDiscriminantClassifier(shrinkage=wrong).fit(X, y)


def test_lda_weighs_classes_as_repeated_rows_would() -> None:
    X, y = make((90, 6), n_classes=2)
    y = np.where(np.arange(90) < 30, 0, 1)
    fitted = ShrinkageDiscriminantClassifier(shrinkage=0.1, class_weight={0: 2.0, 1: 1.0}).fit(X, y)
    twice = np.concatenate([np.arange(90), np.arange(30)])
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(X[twice], y[twice])
    np.testing.assert_allclose(np.diff(fitted.scores(X))[:, 0], theirs.decision_function(X), rtol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_logistic_is_scikit_learns(shape: tuple[int, int], class_weight: Any) -> None:
    X, y = make(shape)
    y[y == 3] = np.where(np.arange((y == 3).sum()) % 3 == 0, 3, 2)
    n, penalty = len(y), 0.02
    ours = StreamingLogisticClassifier(penalty=penalty, class_weight=class_weight).fit(X, y, groups=ids(n))

    def theirs() -> LogisticRegression:
        return LogisticRegression(
            C=1 / (2 * n * penalty), class_weight=class_weight, tol=1e-10, max_iter=10_000
        )

    np.testing.assert_allclose(ours.coef_, theirs().fit(X, y).coef_, atol=2e-3 * abs(ours.coef_).max())
    np.testing.assert_allclose(ours.scores(X).argmax(axis=1), theirs().fit(X, y).predict(X))
    assert ours.report_.chosen == pytest.approx({"penalty": penalty, "C": 1 / (2 * n * penalty)})
    assert ours.report_.iteration is not None
    assert ours.report_.iteration["reason"] == "converged"


def test_logistic_left_out_figures_are_those_of_fits_without_the_fold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The descents of the selection stop up to 1e-5 nats above their minimum, which moves left-out figures by
    # a few 1e-4 nats, more than the margin of this comparison.
    monkeypatch.setattr("toptune.train.logistic.selection.TOLERANCE", 1e-12)
    X, y = make((200, 12))
    n, penalty = len(y), 0.05
    ours = StreamingLogisticClassifier(penalty=penalty).fit(X, y, groups=ids(n))
    folds = draw_folds(y, np.unique(y), cv=5, groups=ids(n)).numbers
    losses = []
    for fold in range(5):
        inside = folds != fold
        one = LogisticRegression(C=1 / (2 * inside.sum() * penalty), tol=1e-10, max_iter=10_000)
        one.fit(X[inside], y[inside])
        losses.append(-one.predict_log_proba(X[~inside])[np.arange((~inside).sum()), y[~inside]])
    (row,) = ours.report_.table
    assert row["log_loss"] == pytest.approx(np.concatenate(losses).mean(), abs=1e-4)


def test_logistic_reads_again_what_may_not_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = make((300, 20))
    X = X.astype(np.float32)
    kept = StreamingLogisticClassifier(penalty=[0.01, 0.1]).fit(ArrayBlocks(X), y, groups=ids(300))
    limit = kept.report_.peak_bytes - 1
    streamed = StreamingLogisticClassifier(penalty=[0.01, 0.1], memory_limit_bytes=limit).fit(
        ArrayBlocks(X), y, groups=ids(300)
    )
    assert kept.report_.iteration is not None
    assert streamed.report_.iteration is not None
    assert kept.report_.iteration["n_passes"] == 1
    assert streamed.report_.iteration["n_passes"] > 5
    np.testing.assert_allclose(streamed.coef_, kept.coef_, atol=1e-9)
    with pytest.raises(InputError, match="may be taken"):
        StreamingLogisticClassifier(memory_limit_bytes=10_000).fit(X, y)
    # Where features are many the preconditioner is diagonal, to the same solution.
    assert DENSE_FEATURES > 20
    monkeypatch.setattr("toptune.train.estimators.logistic.DENSE_FEATURES", 10)
    monkeypatch.setattr("toptune.train.estimators.logistic.DIAGONAL_ROWS", 15)
    diagonal = StreamingLogisticClassifier(penalty=[0.01, 0.1]).fit(ArrayBlocks(X), y, groups=ids(300))
    assert diagonal.penalty_ == kept.penalty_
    np.testing.assert_allclose(diagonal.coef_, kept.coef_, atol=2e-3 * abs(kept.coef_).max())


def test_logistic_says_when_it_has_not_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toptune.train.estimators.logistic.MAX_ITERATIONS", 1)
    X, y = make((200, 12))
    fitted = StreamingLogisticClassifier(penalty=1e-5).fit(X, y)
    assert any("not converged: iteration-limit" in note for note in fitted.report_.warnings)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_nearest_mean_is_that_of_scikit_learn(metric: str) -> None:
    X, y = make((120, 9))
    rows = X if metric == "euclidean" else normalize(X)

    def fit() -> Any:
        return NearestCentroid()

    ours = NearestMeanClassifier(metric=metric).fit(X, y, groups=ids(120))
    theirs = fit().fit(rows, y)
    if metric == "cosine":
        cosines = rows @ normalize(theirs.centroids_).T
        np.testing.assert_allclose(ours.scores(X), cosines, atol=1e-12)
        return
    squared = np.square(X[:, None] - theirs.centroids_).sum(axis=2)
    np.testing.assert_allclose(
        ours.scores(X) - np.square(X).sum(axis=1)[:, None] / 2, -squared / 2, atol=1e-9
    )
    assert ours.report_.left_out is not None
    assert ours.report_.left_out.accuracy == pytest.approx(left_out_by(fit, X, y, ids(120)))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 5])
def test_uniform_votes_are_scikit_learns(metric: str, k: int) -> None:
    X, y = make((120, 9))

    def theirs() -> Any:
        return KNeighborsClassifier(k, metric=metric, algorithm="brute")

    ours = NearestNeighborClassifier(n_neighbors=k, metric=metric, weights="uniform")
    ours.fit(X, y, groups=ids(120))
    fresh, _ = make((50, 9), seed=1)
    smoothed = (theirs().fit(X, y).predict_proba(fresh) * k + 1 / 4) / (k + 1)
    np.testing.assert_allclose(np.exp(ours.scores(fresh)), smoothed, atol=1e-12)
    assert ours.report_.left_out is not None
    assert ours.report_.left_out.accuracy == pytest.approx(left_out_by(theirs, X, y, ids(120)))


def test_weighted_votes_are_dinos() -> None:
    X, y = make((100, 9))
    fresh, _ = make((30, 9), seed=1)
    k = 10
    ours = NearestNeighborClassifier(n_neighbors=k, weights="similarity").fit(X, y)
    cosines = normalize(fresh) @ normalize(X).T
    votes = np.zeros((30, 4))
    for row in range(30):
        nearest = np.argsort(-cosines[row])[:k]
        weights = np.exp(cosines[row, nearest] / 0.07)
        np.add.at(votes[row], y[nearest], weights / weights.sum())
    np.testing.assert_allclose(np.exp(ours.scores(fresh)), (votes * k + 1 / 4) / (k + 1), atol=1e-12)


def test_every_k_comes_of_one_search() -> None:
    X, y = make((120, 9))
    ours = NearestNeighborClassifier().fit(X, y, groups=ids(120))
    assert {row["n_neighbors"] for row in ours.report_.table} == {1, 3, 5, 10, 20, 50}
    for row in ours.report_.table[::3]:
        alone = NearestNeighborClassifier(n_neighbors=row["n_neighbors"], weights=row["weights"])
        (only,) = alone.fit(X, y, groups=ids(120)).report_.table
        assert only["accuracy"] == row["accuracy"]
        assert only["log_loss"] == pytest.approx(row["log_loss"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors is 0"),
        ({"n_neighbors": [3, 500]}, "n_neighbors is 500.*120 rows"),
        ({"n_neighbors": []}, "n_neighbors is an empty list"),
        ({"metric": "manhattan"}, "metric 'manhattan' is unknown"),
        ({"metric": "euclidean", "weights": "similarity"}, "weights is 'similarity' with metric 'euclidean'"),
        ({"cv": None}, "cv is None"),
    ],
)
def test_neighbors_refuse_what_they_cannot_do(params: dict[str, Any], message: str) -> None:
    X, y = make((120, 9))
    with pytest.raises(InputError, match=message):
        NearestNeighborClassifier(**params).fit(X, y)


def test_groups_are_left_out_together() -> None:
    """Twins of other classes would mislead a neighbor that sees them."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(60, 5)), 2, axis=0)
    y = np.tile([0, 1], 60)
    apart = NearestNeighborClassifier(n_neighbors=1).fit(X, y, groups=ids(120))
    together = NearestNeighborClassifier(n_neighbors=1).fit(
        X, y, groups=[f"{row // 2}" for row in range(120)]
    )
    assert apart.report_.left_out is not None
    assert together.report_.left_out is not None
    assert (apart.report_.left_out.accuracy or 1) < 0.3 < (together.report_.left_out.accuracy or 0)
