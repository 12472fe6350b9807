"""Inputs of estimators, validated as scikit-learn does: arrays or Blocks, labels, weights."""

import logging
from typing import TypeGuard

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from toptune.errors import InputError
from toptune.store.features.blocks import ArrayBlocks, Blocks

logger = logging.getLogger(__name__)
Codes = npt.NDArray[np.int64]


def fit_inputs(
    estimator: BaseEstimator, X: object, y: object
) -> tuple[Blocks, npt.NDArray[np.generic], Codes]:
    """Validate the arguments of ``fit``, and record ``n_features_in_`` in the estimator.

    Returns
    -------
    Blocks
        Features, shape (n, d).
    ndarray
        The classes, sorted.
    ndarray of int64, shape (n,)
        Position of the class of each row in the sorted classes.
    """
    if y is None:
        raise InputError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    blocks: Blocks
    if is_blocks(X):
        blocks = X
        labels = column_or_1d(np.asarray(y))
        if len(labels) != blocks.shape[0]:
            raise InputError(f"y has {len(labels)} labels for {blocks.shape[0]} rows; give one label a row")
        estimator.n_features_in_ = blocks.shape[1]
    else:
        # The pass over the rows names the rows that are not finite; scikit-learn would not.
        values, labels = validate_data(
            estimator, X, y, dtype=[np.float64, np.float32], ensure_all_finite=False, ensure_min_samples=2
        )
        labels = column_or_1d(labels, warn=True)
        blocks = ArrayBlocks(values)
    check_classification_targets(labels)
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"the labels have one class only, {classes[0]!r}; a classifier needs at least 2")
    return blocks, classes, codes.astype(np.int64)


def predict_inputs(estimator: BaseEstimator, X: object) -> Blocks:
    """Validate the rows for ``predict`` against the number of features that ``fit`` saw."""
    if is_blocks(X):
        blocks: Blocks = X
        if blocks.shape[1] != estimator.n_features_in_:
            raise InputError(
                f"X has {blocks.shape[1]} features, but {type(estimator).__name__} is expecting "
                f"{estimator.n_features_in_} features as input"
            )
        return blocks
    return ArrayBlocks(
        validate_data(estimator, X, dtype=[np.float64, np.float32], ensure_all_finite=False, reset=False)
    )


def is_blocks(X: object) -> TypeGuard[Blocks]:
    """Tell Blocks from arrays, frames and lists."""
    return not isinstance(X, np.ndarray) and isinstance(X, Blocks)


def row_weights(
    codes: Codes, classes: npt.NDArray[np.generic], class_weight: object
) -> npt.NDArray[np.float64]:
    """Return the weight of each row, scaled to mean 1 so that a penalty means the same with any weights.

    None gives all rows the same weight, ``"balanced"`` gives all classes the same total, and a dict gives the
    rows of each class the weight of the class.
    """
    if class_weight is None:
        return np.ones(len(codes))
    if class_weight != "balanced" and not isinstance(class_weight, dict):
        raise InputError(f"class_weight is {class_weight!r}; it must be None, 'balanced' or a dict")
    by_class = compute_class_weight(class_weight, classes=classes, y=classes[codes])
    weights = np.asarray(by_class, dtype=np.float64)[codes]
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise InputError(f"class_weight is {class_weight!r}; every weight must be finite and above 0")
    return weights / float(weights.mean())
