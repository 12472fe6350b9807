"""Fits without folds: the same solution, and leave-one-out figures that equal refitting."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification

from toptune.store import InputError
from toptune.train import FalkonClassifier, StreamingRidgeClassifier, make_head
from toptune.train.passes.sums import FoldSums
from toptune.train.solvers.ridge import CenteredSystem
from toptune.train.solvers.single_fit import _factor_in_place

FIXED: dict[str, Any] = {"sigma": 3.0, "penalty": 1e-3, "random_state": 0}


def data(n: int = 150) -> tuple[np.ndarray, np.ndarray]:
    X, y = make_classification(n, 8, n_informative=6, n_classes=3, random_state=2)
    return X, y


@pytest.mark.parametrize("solver", ["direct", "falkon"])
def test_equals_the_fit_with_folds(solver: str) -> None:
    X, y = data()
    folded = FalkonClassifier(**FIXED, n_centers=60).fit(X, y)
    single = FalkonClassifier(**FIXED, n_centers=60, cv=None, solver=solver).fit(X, y)
    np.testing.assert_allclose(single.scores(X), folded.scores(X), atol=1e-9 if solver == "direct" else 1e-4)
    assert single.report_.n_passes == 1
    assert single.report_.accuracy == pytest.approx(folded.report_.accuracy, abs=0.06)
    assert single.temperature_ == pytest.approx(folded.temperature_, rel=0.3)
    assert "leave-one-out scores of 150 training rows" in single.report_.calibration


@pytest.mark.parametrize("estimator", ["kernel", "linear", "dual"])
def test_left_out_figures_equal_refitting_without_each_row(estimator: str) -> None:
    X, y = data(60)
    if estimator == "dual":
        X = np.random.default_rng(0).normal(size=(60, 90)) + 0.3 * y[:, None]
    model: Any = (
        # Every row a center: leaving a row out of the loss leaves its center in the span.
        FalkonClassifier(**FIXED, n_centers=60, cv=None)
        if estimator == "kernel"
        else StreamingRidgeClassifier(penalty=0.1, cv=None)
    ).fit(X, y)
    targets, error, right = np.eye(3)[y], 0.0, 0
    for row in range(60):
        keep = np.arange(60) != row
        # The penalty is of the mean loss: 59 rows of it weigh what 60 did.
        penalty = model.penalty_ * 60 / 59
        one: Any = (
            FalkonClassifier(**(FIXED | {"penalty": penalty}), n_centers=60, cv=None)
            if estimator == "kernel"
            else StreamingRidgeClassifier(penalty=penalty, cv=None)
        )
        scores = one.fit(X[keep], y[keep]).scores(X[[row]])[0]
        error += float(((targets[row] - scores) ** 2).sum())
        right += int(scores.argmax() == y[row])
    tolerance = 0.05 if estimator == "kernel" else 1e-6
    assert model.report_.squared_error == pytest.approx(error / 60, rel=tolerance)
    assert model.report_.accuracy == pytest.approx(right / 60, abs=0.02)


def test_rows_that_decide_their_own_scores_are_said() -> None:
    X, y = data(40)
    fitted = FalkonClassifier(sigma=0.01, penalty=1e-12, cv=None, random_state=0).fit(X, y)
    assert any("decide their own scores" in note for note in fitted.report_.warnings)
    assert np.isfinite(fitted.predict_proba(X)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": None, "sigma": 1.0}, "penalty is None, but cv is None"),
        ({"penalty": 1.0, "sigma": [1.0, 2.0]}, "sigma is .* but cv is None"),
    ],
)
def test_needs_one_width_and_one_penalty(options: dict[str, Any], message: str) -> None:
    X, y = data()
    with pytest.raises(InputError, match=message):
        FalkonClassifier(cv=None, **options).fit(X, y)
    with pytest.raises(InputError, match="penalty is None, but cv is None"):
        StreamingRidgeClassifier(cv=None).fit(X, y)
    with pytest.raises(InputError, match="'svm' does not know"):
        make_head("svm", cv=None)


def test_a_system_in_the_place_of_the_metric_is_made_again_where_it_needs_jitter() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 8, dtype=torch.float64, generator=generator)
    kernel = torch.randn(8, 20, dtype=torch.float64, generator=generator)
    kernel = kernel @ kernel.T
    z = torch.cat([rows, torch.ones(4, 1, dtype=torch.float64)], dim=1)
    sums = FoldSums(
        gram=(z.T @ z)[None],
        cross=z.T[None],
        square=torch.ones(1, dtype=torch.float64),
        factor=torch.linalg.cholesky(kernel),
    )
    before = sums.gram.clone()
    system = CenteredSystem.of(sums.gram[0], sums.cross[0])
    # Of rank 3, and a penalty that makes it slightly indefinite.
    penalty = -1e-14
    expected = system.gram - 4 * torch.outer(system.feature_mean, system.feature_mean)
    for product in (kernel.clone(), None):
        factor, jitter = _factor_in_place(replace(sums, product=product), system, penalty)
        assert 0 < jitter < 1e-10
        torch.testing.assert_close(factor @ factor.T, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sums.gram, before, rtol=0, atol=0)
