"""Scores of any scikit-learn classifier, one a class."""

from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError

# Probabilities below are taken for this: estimators that count may say 0.
_LEAST_PROBABILITY = 1e-4


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
