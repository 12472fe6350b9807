"""Hard inputs for both solvers and the logistic head: never NaN, and never chance accuracy without a word."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from toptune.store import InputError
from toptune.train import FalkonClassifier, FalkonLogisticClassifier, FoldsReducedWarning

Matrix = npt.NDArray[np.float64]
PENALTIES = [10.0**power for power in range(-12, 4, 3)]
SOLVERS = ["direct", "falkon", "logistic"]
N, D, CLASSES = 160, 12, 4


def problem(n: int = N, n_classes: int = CLASSES) -> tuple[Matrix, npt.NDArray[np.int64]]:
    """Classes that lie well apart."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    X = rng.standard_normal((n, D)) + 4 * rng.standard_normal((n_classes, D))[y]
    return X, y


CASES: dict[str, Callable[[Matrix], Matrix]] = {
    "plain": lambda X: X,
    "duplicated rows": lambda X: np.concatenate([X[: N // 4]] * 4),
    "constant features": lambda X: np.column_stack([X, np.full((len(X), 3), 7.0)]),
    "scaled by 1e-6": lambda X: X * 1e-6,
    "scaled by 1e6": lambda X: X * 1e6,
    "far from the origin": lambda X: X + 1e4,
    "mixed scales": lambda X: X * np.logspace(-6, 6, X.shape[1]),
    "one column": lambda X: X[:, :1],
    "all rows equal": lambda X: np.ones_like(X),
}


def make(solver: str, **options: Any) -> FalkonClassifier | FalkonLogisticClassifier:
    if solver == "logistic":
        return FalkonLogisticClassifier(**options)
    return FalkonClassifier(solver=solver, **options)


def check(fitted: FalkonClassifier | FalkonLogisticClassifier, X: Matrix, y: npt.NDArray[np.int64]) -> float:
    """No NaN anywhere; an accuracy near chance comes with a warning. Return the accuracy."""
    probabilities = fitted.predict_proba(X)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    for values in (fitted.dual_coef_, fitted.intercept_, [fitted.penalty_, fitted.temperature_]):
        assert np.isfinite(values).all()
    accuracy = float((fitted.predict(X) == y).mean())
    chance = 1 / len(np.unique(y))
    assert accuracy > 1.5 * chance or fitted.report_.warnings, f"accuracy {accuracy} and not a word"
    return accuracy


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_centers", [40, N, 10 * N], ids=["M < n", "M = n", "M > n"])
def test_hard_inputs(
    solver: str, case: str, dtype: type, n_centers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toptune.train.estimators.kernel_ridge.FLOAT64_WORK", 0)  # float32 stays float32
    X, y = problem()
    if case == "duplicated rows":
        y = np.concatenate([y[: N // 4]] * 4)
    X = np.ascontiguousarray(CASES[case](X), dtype=dtype)
    fitted = make(solver, n_centers=n_centers, penalty=PENALTIES, random_state=0).fit(X, y)
    accuracy = check(fitted, X, y)
    report = fitted.report_
    assert report.rank + report.n_dropped == report.n_centers == min(n_centers, N)
    if case in ("plain", "duplicated rows", "constant features", "scaled by 1e-6", "scaled by 1e6"):
        assert accuracy > 0.9


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_penalty_alone(
    solver: str, penalty: float, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toptune.train.estimators.kernel_ridge.FLOAT64_WORK", 0)
    X, y = problem()
    fitted = make(solver, sigma=[0.1, 5.0, 1e3], penalty=penalty, n_centers=80, random_state=0).fit(
        X.astype(dtype), y
    )
    check(fitted, X.astype(dtype), y)
    assert fitted.penalty_ == penalty


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_row_a_class(solver: str) -> None:
    X = np.eye(6)
    with pytest.raises(InputError, match="0 of 6 classes have training rows in more than one fold"):
        make(solver, penalty=1e-6, random_state=0).fit(X, list("abcdef"))
    y = [*"aaaaabbccddeef"]
    with pytest.warns(FoldsReducedWarning, match=r"1 training rows of 1 of 6 classes \('f'\)"):
        fitted = make(solver, penalty=1e-6, random_state=0).fit(X[[ord(name) - ord("a") for name in y]], y)
    assert (fitted.predict(X) == list("abcdef")).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_thousand_classes(solver: str) -> None:
    X, y = problem(n=3000, n_classes=1000)
    penalties = [1e-5, 1e-4] if solver == "logistic" else [1e-8, 1e-5]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FoldsReducedWarning)
        fitted = make(solver, n_centers=300, sigma=8.0, penalty=penalties, cv=2, random_state=0).fit(X, y)
    assert check(fitted, X, y) > 0.3
