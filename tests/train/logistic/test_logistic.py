"""Logistic heads against independent optimizers, and the promises of selection, report and memory."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from toptune.store import ArrayBlocks, InputError, NumericalError
from toptune.train import FalkonClassifier, FalkonLogisticClassifier, FoldsReducedWarning
from toptune.train.kernels.kernels import kernel_of
from toptune.train.kernels.maps import NystromMaps
from toptune.train.logistic.fit import Problem
from toptune.train.logistic.log_loss import NO_FOLD
from toptune.train.logistic.path import Stop, follow
from toptune.train.numerics.quasi_newton import Descent
from toptune.train.passes.training_rows import TrainingRows

Matrix = npt.NDArray[np.float64]
N, CLASSES = 300, 4


def blobs() -> tuple[Matrix, npt.NDArray[np.int64]]:
    X, y = make_classification(
        N, 6, n_informative=5, n_redundant=0, n_classes=CLASSES, class_sep=0.7, random_state=0
    )
    return X, y.astype(np.int64)


def make_rows(weights: Matrix | None = None, n_folds: int = 3) -> TrainingRows:
    X, y = blobs()
    return TrainingRows(
        blocks=ArrayBlocks(X),
        codes=y,
        weights=np.ones(N) if weights is None else weights / weights.mean(),
        folds=np.arange(N) % n_folds,
        n_classes=CLASSES,
        n_folds=n_folds,
    )


def problem_of(
    rows: TrainingRows,
    *,
    n_fits: int = 3,
    is_cached: bool = True,
    step: int = 5,
    block_rows: int | None = None,
) -> Problem:
    X, _ = blobs()
    maps = NystromMaps.on([kernel_of("gaussian", 2.0)], torch.from_numpy(X[::step].copy()))
    problem = Problem.of(rows, maps, n_fits=n_fits, is_cached=is_cached, seed=0)
    if block_rows:
        problem.rows.kernel_rows.block_rows = block_rows
    return problem


def solve_all(problem: Problem, penalties: list[float], folds: list[int], **options: Any) -> list[Stop]:
    settings: dict[str, Any] = {"tolerance": 1e-13, "max_iterations": 300, **options}
    sample = problem.sample
    return list(follow(problem.rows, penalties, folds=folds, sample=sample, **settings))


def features(problem: Problem) -> Matrix:
    """Return centered whitened features of all rows, with a column of ones."""
    X, _ = blobs()
    (phi,) = problem.maps.features(torch.from_numpy(X), [0])
    return np.column_stack([(phi - problem.rows.feature_mean).numpy(), np.ones(N)])


def by_scipy(Z: Matrix, y: npt.NDArray[np.int64], w: Matrix, penalty: float) -> tuple[Matrix, float]:
    """Return scores and loss of scipy's L-BFGS on explicit features; the intercept is not penalized."""

    def loss(v: Matrix) -> tuple[float, Matrix]:
        B = v.reshape(-1, CLASSES)
        scores = Z @ B
        losses = logsumexp(scores, axis=1) - scores[np.arange(len(y)), y]
        residual = softmax(scores, axis=1)
        residual[np.arange(len(y)), y] -= 1
        gradient = Z.T @ (residual * w[:, None]) / w.sum()
        gradient[:-1] += 2 * penalty * B[:-1]
        return float(w @ losses / w.sum() + penalty * (B[:-1] ** 2).sum()), gradient.ravel()

    options = {"maxiter": 50_000, "maxfun": 100_000, "ftol": 1e-16, "gtol": 1e-10, "maxcor": 30}
    found = minimize(loss, np.zeros(Z.shape[1] * CLASSES), jac=True, method="L-BFGS-B", options=options)
    scores = Z @ found.x.reshape(-1, CLASSES)
    return scores - scores.mean(axis=1, keepdims=True), float(found.fun)


def scores_of(Z: Matrix, point: Tensor) -> Matrix:
    scores: Matrix = Z @ point.numpy()
    scores -= scores.mean(axis=1, keepdims=True)
    return scores


@pytest.mark.parametrize("penalty", [1e-1, 1e-3, 1e-5])
def test_equals_an_independent_optimizer_with_and_without_folds(penalty: float) -> None:
    weights = np.random.default_rng(0).uniform(0.5, 2.0, N)
    rows = make_rows(weights)
    problem = problem_of(rows, n_fits=4)
    (stop,) = solve_all(problem, [penalty], [0, 1, 2, NO_FOLD])
    assert stop.reason in ("converged", "stagnated")
    assert stop.gradient_norm < 1e-4
    Z, (_, y) = features(problem), blobs()
    for fold, point, evaluation in zip([0, 1, 2, NO_FOLD], stop.points, stop.evaluations, strict=True):
        mine = rows.folds != fold
        expected, loss = by_scipy(Z[mine], y[mine], rows.weights[mine], penalty)
        ours = scores_of(Z, point)
        assert np.abs(ours[mine] - expected).max() < 5e-4  # of scores up to 20
        assert evaluation.loss + penalty * float(point[:-1].square().sum()) == pytest.approx(loss, abs=1e-10)
        out = ~mine
        losses = logsumexp(ours[out], axis=1) - ours[out, y[out]]
        assert evaluation.left_out_loss == pytest.approx(
            float(rows.weights[out] @ losses), rel=1e-8, abs=1e-12
        )
        squares = ((softmax(ours[out], axis=1) - np.eye(CLASSES)[y[out]]) ** 2).sum(axis=1)
        assert evaluation.left_out_squares == pytest.approx(float(rows.weights[out] @ squares), rel=1e-8)
        right = ours[out].argmax(axis=1) == y[out]
        assert evaluation.left_out_correct == pytest.approx(float(rows.weights[out] @ right))


def test_the_classifier_equals_scikit_learns_logistic_regression_on_its_features() -> None:
    X, y = blobs()
    penalty = 1e-3
    ours = FalkonLogisticClassifier(sigma=2.0, penalty=penalty, n_centers=60, random_state=0).fit(X, y)
    maps = NystromMaps.on([kernel_of("gaussian", 2.0)], torch.from_numpy(ours.centers_))
    (phi,) = maps.features(torch.from_numpy(X), [0])
    peer = LogisticRegression(C=1 / (2 * N * penalty), tol=1e-10, max_iter=20_000).fit(phi.numpy(), y)
    expected = peer.predict_proba(phi.numpy())
    np.testing.assert_allclose(softmax(ours.scores(X), axis=1), expected, atol=2e-4)
    np.testing.assert_allclose(
        ours.predict_proba(X), softmax(ours.scores(X) / ours.temperature_, axis=1), atol=1e-12
    )
    assert ours.report_.iteration is not None
    assert ours.report_.iteration["reason"] == "converged"


def test_block_size_and_cache_change_nothing() -> None:
    plain = solve_all(problem_of(make_rows()), [1e-3, 1e-4], [0, 1, 2])
    problem = problem_of(make_rows(), is_cached=False, block_rows=17)
    other = solve_all(problem, [1e-4, 1e-3], [0, 1, 2])
    for left, right in zip(plain, other, strict=True):
        torch.testing.assert_close(torch.stack(left.points), torch.stack(right.points), atol=1e-5, rtol=1e-5)
    assert problem.rows.kernel_rows.n_passes == problem.rows.n_evaluations + 1


def test_the_path_saves_passes() -> None:
    penalties = [10.0**-exponent for exponent in range(1, 7)]
    together = problem_of(make_rows())
    stops = solve_all(together, penalties, [0, 1, 2], tolerance=1e-7)
    assert [stop.penalty for stop in stops] == penalties
    assert {stop.reason for stop in stops} == {"converged"}
    alone = 0
    for stop in stops:
        problem = problem_of(make_rows())
        starts = [problem.rows.constant(fold) for fold in (0, 1, 2)]
        (cold,) = solve_all(problem, [stop.penalty], [0, 1, 2], tolerance=1e-7, starts=starts)
        alone += problem.rows.n_evaluations
        for at in range(3):
            warm_loss, cold_loss = (
                each.evaluations[at].loss + stop.penalty * float(each.points[at][:-1].square().sum())
                for each in (stop, cold)
            )
            assert warm_loss == pytest.approx(cold_loss, abs=1e-5)
    assert together.rows.n_evaluations < 0.85 * alone


def test_what_stops_short_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    (stop,) = solve_all(problem_of(make_rows()), [1e-7], [NO_FOLD], max_iterations=2)
    assert stop.reason == "iteration-limit"
    assert stop.decrease > 1e-13
    # A decrease of 1e-30 is far below the rounding of a float64 loss of about 1.
    (stop,) = solve_all(problem_of(make_rows()), [1e-4], [NO_FOLD], tolerance=1e-30)
    assert stop.reason == "stagnated"
    assert len(stop.history) < 300
    monkeypatch.setattr("toptune.train.logistic.fit.MAX_ITERATIONS", 2)
    monkeypatch.setattr("toptune.train.logistic.selection.MAX_ITERATIONS", 2)
    fitted = FalkonLogisticClassifier(sigma=2.0, penalty=[1e-8, 1e-7], random_state=0).fit(*blobs())
    assert any(
        "has not converged: iteration-limit after 2 passes" in note for note in fitted.report_.warnings
    )
    assert any("had not converged within 2 passes" in note for note in fitted.report_.warnings)


def test_descent_steps_back_and_refuses_infinity() -> None:
    def steep(
        v: Tensor,
    ) -> tuple[float, Tensor]:  # whole steps of an identity preconditioner are far too long
        return float(50 * v.square().sum()), 100 * v

    descent = Descent(torch.ones(3, 2, dtype=torch.float64), penalty=0.1)
    rejected = 0
    for _ in range(100):
        taken = descent.tell(*steep(descent.trial))
        rejected += not taken
        if not descent.is_aimed and descent.reason is None:
            descent.aim(lambda v: v, tolerance=1e-14)
        if descent.reason:
            break
    assert descent.reason == "converged"
    assert rejected >= 1
    assert float(descent.value.norm()) < 1e-6
    descent.relax(10.0, torch.full((3, 2), 1e3, dtype=torch.float64))  # a guess that leads nowhere
    if descent.is_aimed:
        assert not descent.tell(*steep(descent.trial))
    assert not descent.is_aimed
    with pytest.raises(NumericalError, match="not finite"):
        Descent(torch.ones(3, 2, dtype=torch.float64), penalty=0.1).tell(float("nan"), torch.zeros(3, 2))


def test_probabilities_are_those_that_labels_were_drawn_with() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 3))
    truth = softmax(X @ np.array([[1.5, -1.0, 0.0], [0.0, 1.0, -1.0], [0.5, 0.0, -0.5]]), axis=1)
    y = (rng.random((4000, 1)) > truth.cumsum(axis=1)).sum(axis=1)
    fitted = FalkonLogisticClassifier(n_centers=100, random_state=0).fit(X[:2000], y[:2000])
    assert np.abs(fitted.predict_proba(X[2000:]) - truth[2000:]).mean() < 0.03
    assert fitted.temperature_ == pytest.approx(1, abs=0.15)
    report = fitted.report_
    losses = -np.log(fitted.predict_proba(X[2000:])[np.arange(2000), y[2000:]])
    assert report.log_loss == pytest.approx(losses.mean(), abs=0.05)


def test_the_table_names_every_penalty_and_those_not_fitted() -> None:
    X, y = blobs()
    grid = [10.0**-exponent for exponent in range(10)]
    fitted = FalkonLogisticClassifier(sigma=[1.0, 2.0], penalty=grid, n_centers=100, random_state=0).fit(X, y)
    logistic = [row for row in fitted.report_.table if row["loss"] == "logistic"]
    assert [row["penalty"] for row in logistic] == grid
    done = [row for row in logistic if row["log_loss"] is not None]
    (chosen,) = (row for row in fitted.report_.table if row["is_chosen"])
    assert chosen["penalty"] == fitted.penalty_
    assert chosen["log_loss"] == min(row["log_loss"] for row in done)
    assert len(done) < len(grid)  # it rose twice and the rest was left out
    assert {row["sigma"] for row in fitted.report_.table if row["loss"] == "squared"} == {1.0, 2.0}
    assert len({tuple(row) for row in fitted.report_.table}) == 1


def test_fixed_options_still_have_left_out_figures() -> None:
    X, y = blobs()
    fitted = FalkonLogisticClassifier(sigma=2.0, penalty=1e-3, random_state=0).fit(X, y)
    report = fitted.report_
    assert (fitted.sigma_, fitted.penalty_) == (2.0, 1e-3)
    assert report.log_loss is not None
    assert report.accuracy is not None
    assert 0.3 < report.log_loss < np.log(CLASSES)
    assert 0.5 < report.accuracy < 0.95
    edge = FalkonLogisticClassifier(sigma=2.0, penalty=[1.0, 10.0], random_state=0).fit(X, y)
    assert any("at the lower edge of its grid" in note for note in edge.report_.warnings)


def test_selection_on_few_centers_and_fit_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = load_digits(return_X_y=True)
    whole = FalkonLogisticClassifier(n_centers=300, sigma=30.0, penalty=1e-6, random_state=0).fit(X, y)
    monkeypatch.setattr("toptune.train.logistic.plan.SELECTION_CENTERS", 100)
    fitted = FalkonLogisticClassifier(n_centers=300, sigma=30.0, penalty=1e-6, random_state=0).fit(X, y)
    assert fitted.report_.plan["selection_centers"] == 100
    assert fitted.report_.rank == len(fitted.centers_) == 300
    np.testing.assert_allclose(softmax(fitted.scores(X), axis=1), softmax(whole.scores(X), axis=1), atol=5e-3)


def test_rows_of_classes_that_only_their_fold_has() -> None:
    X, y = blobs()
    y[:2] = CLASSES  # both in one group: no fit without it knows the class
    groups = ["together", "together", *(f"row {i}" for i in range(2, N))]
    fitted = FalkonLogisticClassifier(sigma=2.0, penalty=[1e-4, 1e-3], cv=2, random_state=0)
    with pytest.warns(FoldsReducedWarning, match="2 training rows of 1 of 5 classes"):
        fitted.fit(X, y, groups=groups)
    assert any("2 training rows of 1 of 5 classes ('4')" in note for note in fitted.report_.warnings)
    assert fitted.report_.log_loss is not None
    assert fitted.report_.left_out is not None
    assert fitted.report_.left_out.n_rows == N - 2
    assert 0 < fitted.report_.log_loss < np.log(CLASSES)
    assert fitted.predict_proba(X).shape == (N, CLASSES + 1)


def test_weights_of_classes() -> None:
    X, y = blobs()
    keep = (y < 2) & ((y == 0) | (np.arange(N) % 8 == 0))
    X, y = X[keep], y[keep]
    options: dict[str, Any] = {"sigma": 2.0, "penalty": 1e-2, "random_state": 0}
    plain = FalkonLogisticClassifier(**options).fit(X, y)
    balanced = FalkonLogisticClassifier(class_weight="balanced", **options).fit(X, y)
    assert balanced.predict_proba(X)[:, 1].mean() > plain.predict_proba(X)[:, 1].mean() + 0.1


def test_memory_is_refused_above_the_limit() -> None:
    X, y = blobs()
    with pytest.raises(
        InputError, match=r"falkon-logistic with 300 centers and 5 folds of 4 classes needs about"
    ):
        FalkonLogisticClassifier(memory_limit_bytes=100_000).fit(X, y)
    fitted = FalkonLogisticClassifier(memory_limit_bytes=2**30, penalty=1e-3, sigma=2.0).fit(X, y)
    assert 0 < fitted.report_.peak_bytes <= fitted.report_.plan["limit_bytes"] == 2**30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "cubic"}, "cubic"),
        ({"n_centers": 0}, "n_centers"),
        ({"kernel": "linear", "sigma": 1.0}, "no width"),
        ({"penalty": -1.0}, "penalty"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FalkonLogisticClassifier(**options).fit(*blobs())


def test_linear_kernel_is_linear_softmax_regression() -> None:
    X, y = blobs()
    ours = FalkonLogisticClassifier(kernel="linear", penalty=1e-3, random_state=0).fit(X, y)
    peer = LogisticRegression(C=1 / (2 * N * 1e-3), tol=1e-10, max_iter=20_000).fit(X, y)
    np.testing.assert_allclose(softmax(ours.scores(X), axis=1), peer.predict_proba(X), atol=2e-4)
    assert ours.report_.rank == 6


def test_as_right_as_the_squared_loss_on_digits() -> None:
    X, y = load_digits(return_X_y=True)
    logistic = FalkonLogisticClassifier(n_centers=300, sigma=25.0, random_state=0).fit(X[::2], y[::2])
    squared = FalkonClassifier(n_centers=300, sigma=25.0, random_state=0).fit(X[::2], y[::2])
    assert logistic.score(X[1::2], y[1::2]) > squared.score(X[1::2], y[1::2]) - 0.01
    assert logistic.report_.iteration is not None
    assert logistic.report_.iteration["reason"] == "converged"


def test_centers_may_be_given_to_the_logistic_classifier() -> None:
    X, y = blobs()
    options: dict[str, Any] = {"sigma": 2.0, "penalty": 1e-3, "random_state": 0}
    drawn = FalkonLogisticClassifier(n_centers=20, **options).fit(X, y)
    given = FalkonLogisticClassifier(centers=X[drawn.center_indices_], **options).fit(X, y)
    assert given.center_indices_ is None
    assert given.report_.n_centers == 20
    np.testing.assert_allclose(given.predict_proba(X), drawn.predict_proba(X), atol=1e-6)
    with pytest.raises(InputError, match=r"centers have shape \(4, 2\); give \(M, 6\) values"):
        FalkonLogisticClassifier(centers=np.ones((4, 2)), **options).fit(X, y)
