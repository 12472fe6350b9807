"""scikit-learn estimators behind heads: how they are made, their grids, and their scores."""

import inspect
import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, is_classifier, is_regressor

from toptune.errors import InputError
from toptune.options import MOST_COUNT
from toptune.train.estimators.arguments import Params, Values
from toptune.train.heads.kind import HeadKind, SklearnForm
from toptune.train.rows.grids import values_of

# Smaller probabilities are raised to this one: the logarithm of 0 is infinite, and a forest, whose
# probabilities are shares of votes, may give 0.
_LEAST_PROBABILITY = 1e-4
# Values of more than a few parameters are hardly ever compared by the thousand, each on every fold.
MOST_COMBINATIONS = 10_000


def make_estimator(
    kind: HeadKind, form: SklearnForm, params: Params, *, seed: int, class_weight: str | None
) -> Any:
    """Make an unfitted estimator.

    Raises
    ------
    InputError
        If the class does not take these parameters, or is no classifier.
    """
    options: dict[str, object] = {"random_state": seed} if form.is_seeded else {}
    options |= {} if class_weight is None else {"class_weight": class_weight}
    try:
        estimator = kind.estimator_type(**{**form.fixed, **options, **params})
    except (TypeError, ValueError) as error:
        raise InputError(
            f"head {kind.name!r} cannot be made with {dict(params)}: {error}; give what it needs in params"
        ) from error
    if is_regressor(estimator) and kind.regression is not None and form is kind.regression:
        return estimator
    if not (hasattr(estimator, "fit") and is_classifier(estimator)):
        raise InputError(f"head {kind.name!r} is no classifier; only scikit-learn classifiers can be heads")
    return estimator


def check_counts(kind: HeadKind, params: Params) -> None:
    """Refuse numbers of trees, iterations or units of a layer with which no fit would ever end.

    Raises
    ------
    InputError
        For a whole number above `MOST_COUNT`, where the class has a whole number by default, or several.
    """
    try:
        defaults = inspect.signature(kind.estimator_type).parameters
    except (TypeError, ValueError):
        return  # A class that is not written in Python may tell nothing.
    for name in params.keys() & defaults.keys():
        default = defaults[name].default
        if type(default) not in (int, tuple):
            continue
        largest = max(_whole_numbers(params[name]), default=0)
        if largest > MOST_COUNT:
            raise InputError(
                f"head {kind.name!r}: {name} is {largest}, {MOST_COUNT} at most; give less in params",
                option="params",
            )


def _whole_numbers(value: object) -> Iterator[int]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _whole_numbers(each)
    elif type(value) is int:
        yield value


def grid_of(form: SklearnForm, params: Params, values: Values) -> list[dict[str, Any]]:
    """Return the combinations of parameters to compare on rows (n, d).

    A list among `params` is a grid. A head that compares nothing has one combination, `params` as given.
    """
    return combinations(params, form.grid(values)) if form.is_selected else [dict(params)]


def combinations(params: Params, defaults: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the parameters' values, given or by default."""
    names = {**dict.fromkeys(params), **dict.fromkeys(defaults)}
    lists = {name: values_of(params.get(name), defaults.get(name, [None]), name) for name in names}
    n_combinations = math.prod(map(len, lists.values()))
    if n_combinations > MOST_COMBINATIONS:
        raise InputError(
            f"the values of params make {n_combinations} combinations, {MOST_COMBINATIONS} at most",
            option="params",
        )
    return [dict(zip(lists, combination, strict=True)) for combination in product(*lists.values())]


def scores_of(
    estimator: BaseEstimator, values: npt.NDArray[np.number], n_classes: int
) -> npt.NDArray[np.float64]:
    """Return the scores (n, n_classes) of rows (n, d) by an estimator whose classes are codes.

    Scores are the estimator's decision function, else the logarithms of its probabilities, else 1 for the
    class that it predicts. A class that the estimator never saw scores below all others.

    Raises
    ------
    InputError
        If the estimator does not give one score for each class.
    """
    if hasattr(estimator, "decision_function"):
        raw = np.asarray(estimator.decision_function(values), dtype=np.float64)
        if raw.ndim == 1:
            # scikit-learn gives two classes one score; halves of it keep the difference, which decides.
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
