"""Which scikit-learn estimators stand behind heads, with their parameters and grids."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from toptune.store import InputError

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
    trusted : tuple of str
        Types that its skops file may hold beside those of scikit-learn and numpy that skops trusts.
    """

    estimator_type: type
    description: str
    parameters: tuple[str, ...]
    grid: Callable[[Mapping[str, Any], npt.NDArray[Any]], Grid]
    make: Callable[..., Any]
    peak_bytes: Callable[[int, int], int]
    probabilities: str
    has_probabilities: bool
    takes_class_weight: bool
    is_selected: bool
    trusted: tuple[str, ...] = ()


def _combinations(params: Mapping[str, Any], defaults: Mapping[str, list[Any]]) -> Grid:
    lists = {}
    for name, default in defaults.items():
        value = params.get(name)
        values = default if value is None else value if isinstance(value, list | tuple) else [value]
        if not values:
            raise InputError(f"{name} is an empty list; give at least one value")
        lists[name] = list(values)
    return [dict(zip(lists, combination, strict=True)) for combination in product(*lists.values())]


def _logistic_grid(params: Mapping[str, Any], _values: npt.NDArray[Any]) -> Grid:
    return _combinations(
        params, {"C": [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0], "max_iter": [2000], "tol": [1e-3]}
    )


def _make_logistic(params: Mapping[str, Any], *, seed: int, class_weight: str | None) -> Any:
    return LogisticRegression(**params, class_weight=class_weight, random_state=seed)


def _svm_grid(params: Mapping[str, Any], values: npt.NDArray[Any]) -> Grid:
    unit = 1 / max(float(values.shape[1] * values.var()), 1e-12)  # scikit-learn's gamma="scale"
    return _combinations(
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


def _knn_grid(params: Mapping[str, Any], values: npt.NDArray[Any]) -> Grid:
    n = len(values)
    grid = _combinations(
        params,
        {
            "n_neighbors": [k for k in (1, 3, 5, 10, 20, 50, 100) if 2 * k <= n] or [1],
            "metric": ["cosine"],
            "weights": ["uniform"],
        },
    )
    for each in grid:
        if each["metric"] not in ("cosine", "euclidean"):
            raise InputError(f"knn metric is {each['metric']!r}; it must be 'cosine' or 'euclidean'")
        if not (isinstance(each["n_neighbors"], int) and 1 <= each["n_neighbors"] <= n):
            raise InputError(f"n_neighbors is {each['n_neighbors']}; it must be from 1 to the {n} rows")
    return grid


def _make_knn(params: Mapping[str, Any], **_unused: Any) -> Any:
    return KNeighborsClassifier(**params, algorithm="brute")


FOREST = ("n_estimators", "max_depth", "max_features", "min_samples_leaf", "n_jobs")


def _forest_grid(params: Mapping[str, Any], _values: npt.NDArray[Any]) -> Grid:
    return [dict(params)]


def _make_forest(params: Mapping[str, Any], *, seed: int, class_weight: str | None) -> Any:
    return RandomForestClassifier(**params, class_weight=class_weight, random_state=seed)


KINDS: dict[str, Kind] = {
    "logistic": Kind(
        estimator_type=LogisticRegression,
        description="multinomial logistic regression (lbfgs), C cross-validated",
        parameters=("C", "max_iter", "tol"),
        grid=_logistic_grid,
        make=_make_logistic,
        peak_bytes=lambda n, d: 20 * n * d,
        probabilities="the model's own",
        has_probabilities=True,
        takes_class_weight=True,
        is_selected=True,
    ),
    "svm": Kind(
        estimator_type=SVC,
        description="RBF support vector machine, C and gamma cross-validated",
        parameters=("C", "gamma"),
        grid=_svm_grid,
        make=_make_svm,
        peak_bytes=lambda n, d: 28 * n * d + 500 * 2**20,
        probabilities="",
        has_probabilities=False,
        takes_class_weight=True,
        is_selected=True,
    ),
    "knn": Kind(
        estimator_type=KNeighborsClassifier,
        description="nearest neighbours on standardised features (cosine unless asked), k cross-validated",
        parameters=("n_neighbors", "metric", "weights"),
        grid=_knn_grid,
        make=_make_knn,
        peak_bytes=lambda n, d: 12 * n * d + 2**30,
        probabilities="shares of the neighbours, not calibrated",
        has_probabilities=True,
        takes_class_weight=False,
        is_selected=True,
    ),
    "forest": Kind(
        estimator_type=RandomForestClassifier,
        description="random forest with scikit-learn's defaults",
        parameters=FOREST,
        grid=_forest_grid,
        make=_make_forest,
        peak_bytes=lambda n, d: 12 * n * d + 100 * 48 * 2 * n,
        probabilities="shares of the trees, not calibrated",
        has_probabilities=True,
        takes_class_weight=True,
        is_selected=False,
        trusted=("sklearn.tree._tree.Tree",),
    ),
}
