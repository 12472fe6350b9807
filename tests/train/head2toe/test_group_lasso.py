"""The group lasso's objectives, gradients, steps and solutions, against finite differences and torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.optimize import check_grad, minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression, MultiTaskLasso
from torch import Tensor

from toptune.store import ArrayBlocks
from toptune.train.head2toe.cross_entropy import ClassLoss
from toptune.train.head2toe.gram_path import largest_penalty, squared_path
from toptune.train.head2toe.moments import GramMoments, RowMoments
from toptune.train.head2toe.softmax_path import softmax_path
from toptune.train.numerics.group_lasso import PathPoint, ProximalDescent, group_norms, shrink, stationarity
from toptune.train.passes.training_rows import TrainingRows, batches

Matrix = npt.NDArray[np.float64]
N, D, K = 90, 12, 3


def problem(seed: int = 0, n: int = N, d: int = D) -> tuple[Matrix, npt.NDArray[np.int64], Matrix]:
    """Draw correlated columns whose means are not 0, classes that follow some of them, and weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + 1.0
    codes = (X[:, :K] + 0.5 * rng.normal(size=(n, K))).argmax(axis=1)
    weights = rng.uniform(0.5, 1.5, size=n)
    return X, codes, weights / weights.mean()


def row_moments(X: Matrix, codes: npt.NDArray[np.int64], weights: Matrix) -> RowMoments:
    return RowMoments.of(torch.tensor(X), torch.eye(K).double()[codes], torch.tensor(weights))


def gram_moments(X: Matrix, codes: npt.NDArray[np.int64], weights: Matrix) -> GramMoments:
    Z = torch.tensor(np.column_stack([X, np.ones(len(X))]))
    scaled = Z * torch.tensor(weights)[:, None]
    return GramMoments.of(scaled.T @ Z, scaled.T @ torch.eye(K).double()[codes])


def proximal_gradient(
    loss: Callable[[Tensor], Tensor], shape: tuple[int, int], c: float, lipschitz: float
) -> Tensor:
    """Minimize by many accelerated proximal gradient steps with torch's derivatives and no code of ours."""
    W = before = torch.zeros(shape, dtype=torch.float64)
    for step in range(1_250):
        at = (W + (step % 250) / (step % 250 + 3) * (W - before)).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(at), at)
        V = at.detach() - gradient / lipschitz
        lengths = torch.linalg.vector_norm(V, dim=1, keepdim=True)
        before, W = W, torch.where(lengths > c / lipschitz, V - c / lipschitz * V / lengths, 0.0)
    return W


def test_the_proximal_step_minimizes_its_objective() -> None:
    rng = np.random.default_rng(0)
    V = rng.normal(size=(6, K))
    V[3] *= 0.05

    def objective(flat: Matrix) -> float:
        W = flat.reshape(V.shape)
        return float(0.5 * ((W - V) ** 2).sum() + 0.7 * np.linalg.norm(W, axis=1).sum())

    found = shrink(torch.tensor(V), 0.7).numpy()
    assert (found[3] == 0).all()
    best = minimize(objective, V.ravel() * 0.5, method="Powell", options={"xtol": 1e-9, "ftol": 1e-14})
    assert objective(found.ravel()) <= best.fun + 1e-12
    for size in (1e-1, 1e-3, 1e-5):
        for _ in range(50):
            assert objective(found.ravel() + size * rng.normal(size=V.size)) > objective(found.ravel())


@pytest.mark.parametrize("d", [D, 150])
def test_moments_are_those_of_centered_rows(d: int) -> None:
    X, codes, weights = problem(d=d)
    mean, targets = np.average(X, axis=0, weights=weights), np.eye(K)[codes]
    centered = X - mean
    share = weights[:, None] / weights.sum()
    some = torch.tensor([1, 4, 5, *range(6, d, 2)])
    W = torch.tensor(np.random.default_rng(1).normal(size=(len(some), K)))
    for moments in (row_moments(X, codes, weights), gram_moments(X, codes, weights)):
        np.testing.assert_allclose(
            moments.cross, (centered * share).T @ (targets - share.T @ targets), atol=1e-12
        )
        np.testing.assert_allclose(moments.variances, (centered**2 * share).sum(axis=0), atol=1e-12)
        gram = (centered * share).T @ centered
        np.testing.assert_allclose(moments.gram(some), gram[some][:, some], atol=1e-12)
        np.testing.assert_allclose(moments.product(some, W), gram[:, some] @ W.numpy(), atol=1e-11)
        for penalty, found in zip((1e-3, 0.1), moments.ridge(some, [1e-3, 0.1]), strict=True):
            system = gram[some][:, some] + penalty * np.eye(len(some))
            np.testing.assert_allclose(found, np.linalg.solve(system, moments.cross[some]), atol=1e-8)


@pytest.mark.parametrize("make", [row_moments, gram_moments])
@pytest.mark.parametrize("d", [D, 150])
def test_the_squared_path_is_scikit_learns_multi_task_lasso(make: Callable[..., Any], d: int) -> None:
    X, codes, _ = problem(d=d)
    moments = make(X, codes, np.ones(N))
    penalties = [share * largest_penalty(moments) for share in (0.5, 0.1, 0.02)]
    for point in squared_path(moments, penalties, tolerance=1e-7, max_steps=20_000):
        lasso = MultiTaskLasso(alpha=point.group_penalty, tol=1e-12, max_iter=200_000).fit(
            X, np.eye(K)[codes]
        )
        np.testing.assert_allclose(point.weights, lasso.coef_.T, atol=2e-5)
        assert point.residual <= 1e-7
        assert 0 < (point.norms > 0).sum() < d


def test_the_squared_path_with_weights_is_the_long_run_of_proximal_gradient() -> None:
    X, codes, weights = problem()
    share = torch.tensor(weights / weights.sum())
    Y = torch.eye(K).double()[codes]
    Xc, Yc = torch.tensor(X) - share @ torch.tensor(X), Y - share @ Y
    c = 0.1 * largest_penalty(gram_moments(X, codes, weights))
    lipschitz = float(torch.linalg.matrix_norm(Xc.T @ (Xc * share[:, None]), 2))
    expected = proximal_gradient(
        lambda W: 0.5 * (share[:, None] * (Yc - Xc @ W) ** 2).sum(), (D, K), c, lipschitz
    )
    (point,) = squared_path(gram_moments(X, codes, weights), [c], tolerance=1e-8)
    torch.testing.assert_close(point.weights, expected, atol=1e-6, rtol=0)


def test_a_start_changes_nothing_but_the_steps() -> None:
    X, codes, weights = problem(d=40)
    moments = row_moments(X, codes, weights)
    penalties = [share * largest_penalty(moments) for share in (0.3, 0.05)]
    cold = squared_path(moments, penalties, tolerance=1e-8)
    other = squared_path(row_moments(X[10:], codes[10:], weights[10:]), penalties)
    warm = squared_path(moments, penalties, starts=[point.weights for point in other], tolerance=1e-8)
    for one, two in zip(cold, warm, strict=True):
        torch.testing.assert_close(one.weights, two.weights, atol=1e-6, rtol=0)


def test_no_column_at_the_largest_penalty_and_one_just_below() -> None:
    X, codes, weights = problem()
    moments = gram_moments(X, codes, weights)
    most = largest_penalty(moments)
    at, below = squared_path(moments, [most, 0.99 * most])
    assert (at.norms > 0).sum() == 0
    assert (below.norms > 0).sum() == 1
    assert int(below.norms.argmax()) == int(group_norms(moments.cross).argmax())


def training_rows(X: Matrix, codes: npt.NDArray[np.int64], weights: Matrix) -> TrainingRows:
    folds = np.arange(len(X)) % 2
    return TrainingRows(
        blocks=ArrayBlocks(X), codes=codes, weights=weights, folds=folds, n_classes=K, n_folds=2
    )


def test_the_softmax_gradient_is_that_of_the_loss() -> None:
    X, codes, weights = problem()
    rows = training_rows(X, codes, weights)
    read = list(batches(rows, block_rows=40, dtype=torch.float64, device=torch.device("cpu")))
    of_classes = ClassLoss(rows)
    for at, left_out in enumerate((0, 1, None)):
        kept = np.ones(N, dtype=bool) if left_out is None else rows.folds != left_out

        def loss(flat: Matrix, kept: npt.NDArray[np.bool_] = kept) -> float:
            logs = log_softmax(X[kept] @ flat.reshape(D, K), axis=1)[np.arange(kept.sum()), codes[kept]]
            return float(-np.average(logs, weights=weights[kept]))

        def ours(flat: Matrix, at: int = at) -> tuple[float, Matrix]:
            W = torch.tensor(flat.reshape(1, D, K))
            losses, gradients = of_classes.evaluate(read, [at], W)
            return float(losses[0]), gradients[0].numpy().ravel()

        for scale in (0.0, 0.3):
            flat = scale * np.random.default_rng(at).normal(size=D * K)
            assert ours(flat)[0] == pytest.approx(loss(flat), rel=1e-12)
            assert check_grad(loss, lambda v: ours(v)[1], flat, epsilon=1e-6) < 1e-5


@pytest.mark.parametrize("block_rows", [7, 1000])
def test_the_softmax_path_is_the_long_run_of_proximal_gradient(block_rows: int) -> None:
    X, codes, weights = problem()
    rows = training_rows(X, codes, weights)
    read = list(batches(rows, block_rows=block_rows, dtype=torch.float64, device=torch.device("cpu")))
    paths = softmax_path(rows, read, [0.3, 0.1], tolerance=1e-6, max_passes=5_000)
    assert [len(path) for path in paths] == [2, 2, 2]
    for path, left_out in zip(paths, (0, 1, None), strict=True):
        kept = np.ones(N, dtype=bool) if left_out is None else rows.folds != left_out
        x, y = torch.tensor(X[kept]), torch.tensor(codes[kept])
        share = torch.tensor(weights[kept] / weights[kept].sum())
        point = path[1]
        expected = proximal_gradient(
            lambda W, x=x, y=y, share=share: (  # type: ignore[misc]
                share * torch.nn.functional.cross_entropy(x @ W, y, reduction="none")
            ).sum(),
            (D, K), point.group_penalty, 0.5 * float(torch.linalg.matrix_norm(x.T @ (x * share[:, None]), 2)),
        )  # fmt: skip
        assert point.residual <= 1e-6
        torch.testing.assert_close(point.weights, expected, atol=2e-4, rtol=0)
        assert ((point.norms > 0) == (group_norms(expected) > 1e-6)).all()


def test_two_opposite_classes_are_l1_logistic_regression() -> None:
    """With two classes, W_j = (-v_j, v_j) / 2 at the optimum, so that the group norm is |v_j| / sqrt 2."""
    X, codes, _ = problem()
    codes = (codes > 0).astype(np.int64)
    rows = TrainingRows(
        blocks=ArrayBlocks(X), codes=codes, weights=np.ones(N), folds=np.arange(N) % 2, n_classes=2, n_folds=2
    )
    read = list(batches(rows, block_rows=N, dtype=torch.float64, device=torch.device("cpu")))
    point = softmax_path(rows, read, [0.1], tolerance=1e-6, max_passes=5_000)[-1][0]
    v = (point.weights[:, 1] - point.weights[:, 0]).numpy()
    C = np.sqrt(2) / (N * point.group_penalty)
    reference = LogisticRegression(
        C=C, l1_ratio=1.0, solver="saga", fit_intercept=False, tol=1e-10, max_iter=100_000
    ).fit(X, codes)
    np.testing.assert_allclose(v, reference.coef_[0], atol=1e-4)


def test_stationarity_is_zero_at_the_optimum_only() -> None:
    W, c = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64), 0.5
    gradient = torch.tensor([[-0.3, -0.4], [0.3, 0.39]], dtype=torch.float64)
    assert stationarity(W, gradient, c) == pytest.approx(0, abs=1e-15)
    gradient[1] *= 2
    assert stationarity(W, gradient, c) == pytest.approx((2 * np.hypot(0.3, 0.39) - c) / c)
    gradient[0, 0] += 1.0
    assert stationarity(W, gradient, c) == pytest.approx(1.0 / c)


def test_columns_without_weight_are_ranked_by_when_they_would_join() -> None:
    point = PathPoint.of(
        torch.tensor([[0.1, 0.0], [0.0, 0.0], [0.0, 0.0], [2.0, 0.0]]),
        torch.tensor([[0.5, 0.0], [0.1, 0.0], [0.0, 0.4], [0.5, 0.0]]),
        group_penalty=0.5,
        n_steps=1,
    )
    assert point.scores.argsort(descending=True).tolist() == [3, 0, 2, 1]
    assert (point.scores[[1, 2]] <= 0).all()


def test_a_step_too_long_is_taken_back() -> None:
    """The minimum is found although the first curvature is a thousand times too small."""
    descent = ProximalDescent(torch.zeros(2, 1).double(), group_penalty=0.1, tolerance=1e-9, curvature=1e-3)
    scale, goal = torch.tensor([[1.0], [10.0]]).double(), torch.tensor([[1.0], [-1.0]]).double()
    for _ in range(500):
        if descent.is_done:
            break
        error = descent.trial - goal
        descent.tell(float(0.5 * (scale * error**2).sum()), scale * error)
    torch.testing.assert_close(
        descent.value, torch.tensor([[0.9], [-0.99]], dtype=torch.float64), atol=1e-8, rtol=0
    )
