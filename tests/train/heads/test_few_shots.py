"""Few rows of each class: every head is calibrated, and rows that no other fold knows count for nothing."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from toptune.store import ArrayBlocks, InputError
from toptune.train import HEADS, make_head
from toptune.train.heads.trials import try_heads

# Left by itself, a forest is not cross-validated.
NAMES = [*HEADS, "sklearn:sklearn.linear_model.LogisticRegression"]
PARAMS: dict[str, dict[str, Any]] = {
    "forest": {"n_estimators": 20},
    "logistic": {"penalty": [1e-4, 1e-3, 1e-2]},
    "falkon-logistic": {"penalty": [1e-4, 1e-3], "sigma": 6.0},
    "head2toe": {"fraction": [0.5, 1.0]},
    "svm": {"C": [1.0, 10.0]},
}
N_CLASSES, D = 24, 16


def drawn(counts: list[int], seed: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Draw rows of well separated classes; return features, labels, and the means of the classes."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(len(counts), D))
    codes = np.repeat(np.arange(len(counts)), counts)
    X = means[codes] + 0.2 * rng.normal(size=(len(codes), D))
    return X, np.array([f"class {code:02d}" for code in codes]), means


def log_loss(head: Any, means: npt.NDArray[Any]) -> float:
    """Log-loss on fresh rows, one of each class."""
    X = means + 0.2 * np.random.default_rng(9).normal(size=means.shape)
    probabilities = head.predict_proba(X)
    return float(-np.log(np.maximum(np.diag(probabilities), 1e-300)).mean())


def fitted(name: str, X: Any, y: Any, *, cv: int = 5, groups: list[str] | None = None) -> Any:
    head = make_head(name, params=PARAMS.get(name), cv=cv, is_compared=True)
    return head.fit(ArrayBlocks(X), y, groups=groups or [f"id {row}" for row in range(len(y))])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cv", [2, 5])
def test_two_shots_of_many_classes_are_calibrated(name: str, cv: int) -> None:
    X, y, means = drawn([2] * N_CLASSES)
    head = fitted(name, X, y, cv=cv)
    assert log_loss(head, means) < (1.5 if name == "forest" else 0.5)
    assert head.report["n_folds"] == 2
    assert head.left_out.n_rows == 2 * N_CLASSES
    assert any("2 folds in place of 5" in note for note in head.report["warnings"]) == (cv == 5)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_classes_in_one_fold_change_no_left_out_figure(name: str) -> None:
    """Half of the classes have a single row; left-out accuracy is that of a fit without these classes."""
    X, y, means = drawn([6] * 6 + [1] * 6)
    ids = [f"id {row}" for row in range(len(y))]
    head = fitted(name, X, y, groups=ids)
    assert len(head.classes) == 12
    assert head.left_out.n_rows == 36
    (note,) = (note for note in head.report["warnings"] if "fold" in note and "class" in note)
    assert "6 training rows of 6 of 12 classes ('class 06'" in note
    assert "give each class a second image" in note
    without = fitted(name, X[:36], y[:36], groups=ids[:36])
    assert head.left_out.accuracy == without.left_out.accuracy
    assert log_loss(head, means) < 1.5
    # The single rows are learned all the same.
    assert (head.predict(X) == y).mean() > 0.95


@pytest.mark.parametrize("final", ["logistic", "falkon"])
def test_a_final_head_that_needs_folds_within_folds_is_refused_with_one_that_does_not(final: str) -> None:
    X, y, _ = drawn([2] * 6)
    head = make_head("head2toe", params={"final": final, "fraction": 0.5})
    with pytest.raises(InputError, match=r"within the rows outside each fold, where 0 of 6.*final 'ridge'"):
        head.fit(ArrayBlocks(X), y, groups=[f"id {row}" for row in range(12)])
    assert len(make_head("head2toe", params={"fraction": 0.5}).fit(ArrayBlocks(X), y).classes) == 6


def test_the_place_of_the_origin_has_no_say_in_the_temperature_of_nearest_means() -> None:
    """A class without a mean in any fold comes behind the others wherever their means lie."""
    X, y, _ = drawn([6, 6, 6, 1])
    names = [f"id {row}" for row in range(19)]
    near, far = (
        make_head("ncm", params={"metric": "euclidean"}).fit(
            ArrayBlocks(each.astype(np.float64)), y, groups=names
        )
        for each in (X, X + 50)
    )
    assert far.report["temperature"] == pytest.approx(near.report["temperature"], rel=1e-3)
    assert near.left_out is not None
    assert near.left_out.n_rows == 18


def test_groups_that_hold_whole_classes_are_told_by_every_head_that_auto_tries() -> None:
    X, y, means = drawn([8] * 8)
    # Classes 6 and 7 have one slide each; the others have four.
    slides = [f"slide {row}" if row >= 48 else f"slide {row // 8}-{row % 4}" for row in range(64)]
    slides[48:] = ["left"] * 8 + ["right"] * 8

    def make(name: str) -> Any:
        return make_head(name, params=PARAMS.get(name), is_compared=True)

    tried = try_heads(ArrayBlocks(X), y.tolist(), make=make, groups=slides, budget_seconds=60)
    assert tried.head.left_out is not None
    assert tried.head.left_out.n_rows == 48
    assert any("16 training rows of 2 of 8 classes" in note for note in tried.head.report["warnings"])
    assert log_loss(tried.head, means) < 0.5
