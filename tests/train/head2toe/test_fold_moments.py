"""Ridge regression without each fold, by every route, against scikit-learn on the rows themselves."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import Ridge

from toptune.store import ArrayBlocks
from toptune.train.head2toe import held_folds
from toptune.train.head2toe.fold_moments import Finalist, FoldMoments, SummedFolds
from toptune.train.head2toe.held_folds import HeldFolds, SelectedKernel
from toptune.train.head2toe.moments import RowMoments
from toptune.train.passes.training_rows import TrainingRows

Matrix = npt.NDArray[np.float64]
N, D, K, FOLDS = 45, 70, 3, 4
CPU = torch.device("cpu")


def problem(*, has_aside: bool = False) -> TrainingRows:
    """Draw weighted rows in scattered folds, one of which has no rows; the columns' means are far from 0.

    With `has_aside` some rows have no fold, which the number behind the last one says.
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, D)) * rng.uniform(0.1, 2, size=D) + 20
    weights = rng.uniform(0.2, 1.8, size=N)
    return TrainingRows(
        blocks=ArrayBlocks(X),
        codes=(X[:, :K] / X[:, :K].std(axis=0)).argmax(axis=1).astype(np.int64),
        weights=weights / weights.mean(),
        folds=rng.permutation(np.arange(N) % (FOLDS - 1 + has_aside)) + 1,
        n_classes=K,
        n_folds=FOLDS,
        has_aside=has_aside,
    )


def values_of(rows: TrainingRows) -> Matrix:
    return rows.blocks.take(np.arange(N)).astype(np.float64)


def selections(k: int, seed: int = 0) -> list[npt.NDArray[np.int64]]:
    """Choose k columns for each fold, one of which differs from fold to fold."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(D)
    return [
        np.sort(np.concatenate([order[: k - 1], order[k + fold : k + fold + 1]])) for fold in range(FOLDS)
    ]


def without(rows: TrainingRows, columns: npt.NDArray[np.int64], fold: int, penalty: float) -> Matrix:
    """Score the rows of a fold by scikit-learn's ridge regression on the other rows."""
    X, Y, rest = values_of(rows)[:, columns], np.eye(K)[rows.codes], outside(rows, fold)
    weights = rows.weights[rest]
    model = Ridge(alpha=penalty * weights.sum()).fit(X[rest], Y[rest], sample_weight=weights)
    scores: Matrix = model.predict(X[rows.folds == fold])
    return scores


def outside(rows: TrainingRows, fold: int | None) -> npt.NDArray[np.bool_]:
    """Tell which rows a fit without a fold sees; that of all rows sees those without a fold as well."""
    return np.ones(N, dtype=bool) if fold is None else (rows.folds != fold) & (rows.folds < FOLDS)


@pytest.mark.parametrize("route", ["sums", "shared sums", "gram", "kernel"])
@pytest.mark.parametrize(("is_relative", "has_aside"), [(False, False), (True, False), (True, True)])
def test_left_out_fits_are_scikit_learns(
    route: str, is_relative: bool, has_aside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = problem(has_aside=has_aside)
    has_fold = rows.folds < FOLDS
    assert has_fold.all() != has_aside
    if route == "gram":
        monkeypatch.setattr(held_folds, "SHARED_SUMS", 0)
    form = SummedFolds if route == "sums" else HeldFolds
    moments: FoldMoments = form.over(rows, block_rows=13, device=CPU)
    X, Y, penalties = values_of(rows), np.eye(K)[rows.codes], [1e-3, 0.1]
    for columns in (selections(60), selections(64, seed=1)) if route == "kernel" else (selections(9),):
        fit = moments.ridge(columns, is_relative=is_relative)
        trials = {fold: fit(fold, penalties) for fold in range(1, FOLDS)}
        for at, penalty in enumerate(penalties):
            expected = np.zeros((N, K))
            for fold in range(1, FOLDS):
                mine, rest = rows.folds == fold, outside(rows, fold)
                its = X[rest][:, columns[fold]]
                centered = its - np.average(its, axis=0, weights=rows.weights[rest])
                unit = np.average((centered**2).sum(axis=1), weights=rows.weights[rest]) if is_relative else 1
                expected[mine] = without(rows, columns[fold], fold, unit * penalty)
                errors = rows.weights[mine] @ ((Y - expected)[mine] ** 2).sum(axis=1)
                assert float(trials[fold].errors[at]) == pytest.approx(errors, rel=1e-6)
            fits = {fold: trials[fold].fits[at] for fold in trials}
            (result,), known = moments.left_out([Finalist(columns, fits)])
            np.testing.assert_array_equal(known, np.flatnonzero(has_fold))
            np.testing.assert_allclose(result.scores, expected[has_fold], atol=1e-5)
            weights = rows.weights * has_fold
            assert result.correct == pytest.approx(weights @ (expected.argmax(axis=1) == rows.codes))
            assert result.squared_error == pytest.approx(
                weights @ ((Y - expected) ** 2).sum(axis=1), rel=1e-6
            )


@pytest.mark.parametrize("has_aside", [False, True])
def test_held_rows_give_the_moments_of_those_outside_a_fold(has_aside: bool) -> None:
    rows = problem(has_aside=has_aside)
    held = HeldFolds.over(rows, block_rows=10, device=CPU)
    columns, W = torch.tensor([0, 3, 41, 69]), torch.ones(4, K).double()
    for fold in (1, 3, None):
        rest = outside(rows, fold)
        expected = RowMoments.of(
            torch.tensor(values_of(rows)[rest]),
            torch.eye(K).double()[rows.codes[rest]],
            torch.tensor(rows.weights[rest]),
        )
        found = held.without(fold)
        for name in ("cross", "variances", "means", "target_means"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-11, rtol=0)
        torch.testing.assert_close(found.gram(columns), expected.gram(columns), atol=1e-11, rtol=0)
        torch.testing.assert_close(
            found.product(columns, W), expected.product(columns, W), atol=1e-11, rtol=0
        )
        every = torch.arange(D)
        torch.testing.assert_close(found.ridge(every, [0.1]), expected.ridge(every, [0.1]), atol=1e-9, rtol=0)


def test_a_kernel_that_columns_joined_and_left_is_that_of_the_columns() -> None:
    X = torch.tensor(np.random.default_rng(0).normal(size=(D, 20)))
    kernel = SelectedKernel(X)
    rng = np.random.default_rng(1)
    near = np.sort(rng.permutation(D)[:50])
    for columns in (near, near[2:], near[:-3], np.arange(D), np.array([4, 7]), near):
        torch.testing.assert_close(kernel.of(columns), X[columns].T @ X[columns], atol=1e-12, rtol=0)
