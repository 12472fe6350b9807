"""Which scikit-learn estimators stand behind heads, with their parameters and grids."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC

from toptune.errors import InputError
from toptune.train.rows.grids import values_of

# Probabilities below are taken for this: estimators that count may say 0.
_LEAST_PROBABILITY = 1e-4

Grid = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a head of scikit-learn's is made of.

    Attributes
    ----------
    parameters : tuple of str
        What ``params`` may name; a list of values is a grid to cross-validate over.
    grid : callable (params, values) -> list of dict
        Combinations to compare.
    make : callable (params, seed, class_weight) -> estimator
    peak_bytes : callable (n, d) -> int
        Projected peak memory.
    is_selected : bool
        Whether it is cross-validated; if not, it is fitted once, and nothing is calibrated.
    """

    estimator_type: type
    description: str
    parameters: tuple[str, ...]
    grid: Callable[[Mapping[str, Any], npt.NDArray[Any]], Grid]
    make: Callable[..., Any]
    peak_bytes: Callable[[int, int], int]
    takes_class_weight: bool
    is_selected: bool


def combinations(params: Mapping[str, Any], defaults: Mapping[str, list[Any]]) -> Grid:
    """Every combination of the parameters' values, given or by default."""
    names = {**dict.fromkeys(params), **dict.fromkeys(defaults)}
    lists = {name: values_of(params.get(name), defaults.get(name, [None]), name) for name in names}
    return [dict(zip(lists, combination, strict=True)) for combination in product(*lists.values())]


def _svm_grid(params: Mapping[str, Any], values: npt.NDArray[Any]) -> Grid:
    unit = 1 / max(float(values.shape[1] * values.var()), 1e-12)  # scikit-learn's gamma="scale"
    return combinations(
        params, {"C": [1.0, 10.0, 100.0], "gamma": [unit * multiple for multiple in (0.1, 0.3, 1.0, 3.0)]}
    )


def _make_svm(params: Mapping[str, Any], *, seed: int, class_weight: str | None) -> Any:
    # break_ties: labels are those of the highest score, as everywhere else.
    return SVC(
        **params,
        kernel="rbf",
        class_weight=class_weight,
        break_ties=True,
        random_state=seed,
        cache_size=500,
    )


def _forest_grid(params: Mapping[str, Any], _values: npt.NDArray[Any]) -> Grid:
    return [dict(params)]


def _make_forest(params: Mapping[str, Any], *, seed: int, class_weight: str | None) -> Any:
    return RandomForestClassifier(**params, class_weight=class_weight, random_state=seed)


KINDS: dict[str, Kind] = {
    "svm": Kind(
        estimator_type=SVC,
        description="RBF support vector machine, C and gamma cross-validated",
        parameters=("C", "gamma"),
        grid=_svm_grid,
        make=_make_svm,
        peak_bytes=lambda n, d: 28 * n * d + 500 * 2**20,
        takes_class_weight=True,
        is_selected=True,
    ),
    "forest": Kind(
        estimator_type=RandomForestClassifier,
        description="random forest with scikit-learn's defaults",
        parameters=("n_estimators", "max_depth", "max_features", "min_samples_leaf", "n_jobs"),
        grid=_forest_grid,
        make=_make_forest,
        peak_bytes=lambda n, d: 12 * n * d + 100 * 48 * 2 * n,
        takes_class_weight=True,
        is_selected=False,
    ),
}


def scores_of(estimator: Any, values: npt.NDArray[Any], n_classes: int) -> npt.NDArray[np.float64]:
    """Scores (n, n_classes) of rows (n, d) by an estimator whose classes are codes.

    Its decision function, else logarithms of its probabilities, else 1 for the class that it predicts. A
    class that it never saw is below all others.

    Raises
    ------
    InputError
        If it gives another number of scores than one a class.
    """
    if hasattr(estimator, "decision_function"):
        raw = np.asarray(estimator.decision_function(values), dtype=np.float64)
        if raw.ndim == 1:
            raw = np.stack([-raw / 2, raw / 2], axis=1)
    elif hasattr(estimator, "predict_proba"):
        raw = np.log(np.maximum(np.asarray(estimator.predict_proba(values)), _LEAST_PROBABILITY))
    else:
        raw = (np.asarray(estimator.predict(values))[:, None] == estimator.classes_).astype(np.float64)
    if raw.shape != (len(values), len(estimator.classes_)):
        raise InputError(
            f"{type(estimator).__name__} gives {raw.shape[-1]} scores for {len(estimator.classes_)} classes; "
            "give it params that make them one a class"
        )
    scores = np.repeat(raw.min(axis=1, keepdims=True) - 1.0, n_classes, axis=1).astype(np.float64)
    scores[:, estimator.classes_] = raw
    return scores
