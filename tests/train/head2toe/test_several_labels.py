"""`Head2ToeClassifier` on several labels a row, some of which are unknown."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score

from toptune.store import ArrayBlocks
from toptune.train import Head2ToeClassifier
from toptune.train.head2toe.cross_entropy import LabelLoss
from toptune.train.head2toe.fold_moments import Finalist, SummedFolds
from toptune.train.head2toe.held_folds import HeldFolds
from toptune.train.passes.targets import Targets
from toptune.train.passes.training_rows import TrainingRows

Matrix = npt.NDArray[np.float64]
INFORMATIVE = np.array([2, 5, 17])


def planted(n: int = 150) -> tuple[Matrix, Matrix]:
    """Draw 24 columns in two layers, of which three carry a label each, one of them rare."""
    rng = np.random.default_rng(0)
    Y = (rng.random((n, 3)) < (0.5, 0.3, 0.12)).astype(float)
    X = rng.normal(size=(n, 24)) + 0.5
    X[:, INFORMATIVE] += 2.5 * Y
    return X, Y


X, Y = planted()
UNKNOWN = np.random.default_rng(1).random(Y.shape) < (0.3, 0.0, 0.1)
PARTLY = np.where(UNKNOWN, np.nan, Y)


@pytest.mark.parametrize("solver", ["gram", "softmax"])
@pytest.mark.parametrize("n", [20, 150], ids=["rows", "sums"])
@pytest.mark.parametrize("labels", [Y, PARTLY], ids=["known", "partly"])
def test_planted_columns_are_found(solver: str, n: int, labels: Matrix) -> None:
    head = Head2ToeClassifier(solver=solver, layer_dims=(12, 12), fraction=1 / 8, group_penalty=0.3, cv=3)
    head.fit(X[:n], labels[:n], groups=[f"id {row}" for row in range(n)])
    assert head.report_.plan.form == ("rows" if n < 24 else "sums")
    if n > 24:
        assert head.columns_.tolist() == INFORMATIVE.tolist()
        assert average_precision_score(Y, head.predict_proba(X)) > 0.9
    assert head.predict(X).shape == Y.shape
    assert head.temperature_ == 1.0


@pytest.mark.parametrize("final", ["logistic", "falkon"])
def test_finals_on_rows_are_fitted_to_labels(final: str) -> None:
    # Of one column that is kept of a layer the length would leave the sign alone.
    options: Any = {"unit_norm": False, "fraction": 1 / 8, "group_penalty": 0.3, "cv": 3}
    head = Head2ToeClassifier(final=final, layer_dims=(12, 12), **options)
    p = head.fit(X, PARTLY).predict_proba(X)
    assert average_precision_score(Y, p) > 0.9
    assert head.left_out_scores_ is not None
    assert head.left_out_scores_.scores.shape == (len(X), 3)
    # Probabilities are calibrated on the known labels.
    np.testing.assert_allclose(p.mean(axis=0), np.nanmean(PARTLY, axis=0), atol=0.08)


def test_an_unknown_label_has_no_part_in_its_loss() -> None:
    options: Any = {"fraction": 1.0, "penalty": 0.01, "cv": 3, "random_state": 0}
    found = Head2ToeClassifier(**options).fit(X, PARTLY).scores(X)
    for label in range(3):
        known = ~UNKNOWN[:, label]
        alone = Ridge(alpha=0.01 * known.sum()).fit(X[known], Y[known, label])
        np.testing.assert_allclose(found[:, label], alone.predict(X), atol=1e-6)


def rows_of(values: Matrix) -> TrainingRows:
    n = len(values)
    return TrainingRows(
        blocks=ArrayBlocks(X[:n]), codes=np.zeros(n, np.int64), weights=np.ones(n),
        folds=np.arange(n) % 3, n_classes=3, n_folds=3, targets=Targets(values=values, are_labels=True),
    )  # fmt: skip


def test_both_forms_of_the_rows_score_labels_alike() -> None:
    rows, columns = rows_of(PARTLY), [np.arange(24)] * 3
    found = []
    for form in (SummedFolds, HeldFolds):
        moments = form.over(rows, block_rows=40, device=torch.device("cpu"))
        fits = moments.ridge(columns, is_relative=False)
        trials = {fold: fits(fold, [0.1]) for fold in range(3)}
        (result,), _ = moments.left_out([Finalist(columns, {fold: trials[fold].fits[0] for fold in trials})])
        found.append((result, sum(float(each.errors[0]) for each in trials.values())))
    (summed, error), (held, other) = found
    assert held.correct == pytest.approx(summed.correct)
    assert held.squared_error == pytest.approx(summed.squared_error)
    assert other == pytest.approx(error)
    np.testing.assert_allclose(held.scores, summed.scores, atol=1e-6)


def test_the_loss_of_labels_has_its_gradient() -> None:
    rows, values = rows_of(PARTLY), torch.from_numpy(X)
    loss = LabelLoss(rows)
    at = torch.randn((2, 24, 3), generator=torch.Generator().manual_seed(0)).double() * 0.1
    read = [(slice(0, 70), values[:70]), (slice(70, 150), values[70:])]
    base, gradients = loss.evaluate(read, [0, 3], at)
    step = 1e-6 * torch.randn(at.shape, generator=torch.Generator().manual_seed(1)).double()
    after, _ = loss.evaluate(read, [0, 3], at + step)
    np.testing.assert_allclose(after - base, (gradients * step).sum(dim=(1, 2)), rtol=1e-3)
    # With no weight every label is as likely as it is frequent, and a constant column says nothing.
    _, of_zero = loss.evaluate([(slice(0, 150), torch.ones((150, 1), dtype=torch.float64))], [3], None)
    np.testing.assert_allclose(of_zero, 0, atol=1e-12)
