"""Inputs of estimators, validated as scikit-learn does: arrays or Blocks, labels, weights, folds."""

import logging
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from toptune.errors import InputError
from toptune.store.features.blocks import ArrayBlocks, Blocks
from toptune.train.rows.folds import (
    LEAVE_ONE_GROUP_OUT,
    folds_of_groups,
    folds_of_keys,
    folds_of_rows,
    usable_folds,
)

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


def fold_numbers(
    codes: Codes,
    classes: npt.NDArray[np.generic],
    *,
    cv: int | str | None,
    seed: int,
    groups: Sequence[str] | None,
    may_reduce: bool = True,
) -> tuple[Codes, int]:
    """Return the fold of each row, and the number of folds; labels decide at most about that number.

    Rows with `groups` (ids will do) are put into folds by a hash, so that a row keeps its fold when other
    rows come and go. Rows without groups are dealt out evenly by the seed. With ``"leave-one-group-out"``
    every group is a fold; with None all rows are one fold, and no row is left out.
    """
    if cv is None:
        return np.zeros(len(codes), dtype=np.int64), 1
    if isinstance(cv, str):
        if cv != LEAVE_ONE_GROUP_OUT:
            raise InputError(f"cv is {cv!r}; it must be a number of folds or {LEAVE_ONE_GROUP_OUT!r}")
        if groups is None or len(groups) != len(codes):
            given = "none" if groups is None else len(groups)
            raise InputError(
                f"{LEAVE_ONE_GROUP_OUT} needs the group of each of the {len(codes)} rows; {given} given"
            )
        return folds_of_groups(list(map(str, groups)))
    counts = {str(name): int(count) for name, count in zip(classes, np.bincount(codes), strict=True)}
    n_folds = usable_folds(counts, cv, may_reduce=may_reduce)
    if groups is None:
        return folds_of_rows(len(codes), n_folds=n_folds, seed=seed), n_folds
    if len(groups) != len(codes):
        raise InputError(f"groups has {len(groups)} entries for {len(codes)} rows; give one a row")
    folds = folds_of_keys(list(map(str, groups)), n_folds=n_folds)
    if len(np.unique(folds)) < 2:
        raise InputError(
            f"all {len(codes)} rows fall into one fold: {len(set(groups))} different groups are too few "
            "to cross-validate; group more finely"
        )
    return folds, n_folds


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
