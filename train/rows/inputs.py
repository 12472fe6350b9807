"""Inputs of estimators, validated as scikit-learn does: arrays or Blocks, labels or numbers, weights."""

import logging
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d, validate_data

from toptune.errors import InputError
from toptune.store.features.blocks import ArrayBlocks, Blocks
from toptune.text import counted, named

logger = logging.getLogger(__name__)
Codes = npt.NDArray[np.int64]


# Rows that a message names, at most.
_SHOWN = 5
# Values of a matrix of labels that are checked at a time.
_CHECKED_VALUES = 2**18


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """The arguments of a fit, checked.

    Attributes
    ----------
    blocks : Blocks, shape (n, d)
    classes : ndarray, shape (n_classes,)
        The classes, sorted; the numbers of the labels, or of the targets.
    codes : ndarray of int64, shape (n,)
        Position of the class of each row in the sorted classes; 0 where rows have no class.
    values : ndarray, shape (n, n_classes), or None
        Labels or numbers in place of classes: labels, in float32, are 1, 0, and NaN where nobody knows;
        numbers are in float64.
    is_flat : bool
        Whether targets were given as (n,).
    """

    blocks: Blocks
    classes: npt.NDArray[np.generic]
    codes: Codes
    values: npt.NDArray[np.floating] | None = None
    is_flat: bool = True


def fit_inputs(estimator: BaseEstimator, X: object, y: object, *, are_numbers: bool = False) -> Given:
    """Validate the arguments of ``fit``, and record ``n_features_in_`` in the estimator.

    Parameters
    ----------
    estimator : estimator
    X : array-like or Blocks, shape (n, d)
    y : array-like
        Classes (n,); labels (n, n_labels) of 0 and 1, an indicator matrix in which NaN says that nobody
        knows; or, where they `are_numbers`, numbers (n,) or (n, n_targets).
    are_numbers : bool
        Whether the estimator is a regressor.

    Raises
    ------
    InputError
        For targets of another shape, of one class only, or that are not finite.
    """
    if y is None:
        raise InputError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    blocks: Blocks
    targets: Any = y
    if issparse(y):
        targets = targets.toarray()
    if is_blocks(X):
        blocks = X
        estimator.n_features_in_ = blocks.shape[1]
    else:
        # The pass over the rows names the rows that are not finite; scikit-learn would not.
        values = validate_data(
            estimator, X, dtype=[np.float64, np.float32], ensure_all_finite=False, ensure_min_samples=2
        )
        blocks = ArrayBlocks(values)
    found = np.asarray(targets)
    if found.ndim and len(found) != blocks.shape[0]:
        what = "targets" if are_numbers else "labels"
        raise InputError(
            f"Found input variables with inconsistent numbers of samples: y has {len(found)} {what} for "
            f"{blocks.shape[0]} rows; give one a row"
        )
    return _checked(blocks, found, are_numbers=are_numbers)


def block_inputs(
    estimator: BaseEstimator,
    X: object,
    y: object,
    *,
    classes: npt.NDArray[np.generic] | None,
    are_numbers: bool,
    is_first: bool,
) -> Given:
    """Validate the arguments of ``partial_fit``, as `fit_inputs` does those of ``fit``.

    Parameters
    ----------
    estimator, X, y, are_numbers
        As of `fit_inputs`.
    classes : ndarray, shape (n_classes,), or None
        All classes there are, sorted, of which a block need not have every one; None for labels and numbers.
    is_first : bool
        Whether no block came before, whose number of columns this one must have.

    Raises
    ------
    InputError
        As `fit_inputs`; for another number of columns or labels than before; for unknown classes.
    """
    if y is None:
        raise InputError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    blocks: Blocks
    if not is_first:
        blocks = predict_inputs(estimator, X)
    elif is_blocks(X):
        blocks = X
        estimator.n_features_in_ = blocks.shape[1]
    else:
        blocks = ArrayBlocks(
            validate_data(estimator, X, dtype=[np.float64, np.float32], ensure_all_finite=False)
        )
    targets: Any = y
    found = np.asarray(targets.toarray() if issparse(y) else targets)
    if found.ndim == 0 or len(found) != blocks.shape[0]:
        raise InputError(
            f"y has {len(found) if found.ndim else 'no'} targets for {blocks.shape[0]} rows; give one a row"
        )
    if classes is None:
        given = _checked(blocks, found, are_numbers=are_numbers)
        if not are_numbers and given.values is not None and np.isnan(given.values).any():
            raise InputError(
                "some labels are unknown (NaN), whose rows partial_fit cannot leave out; give all rows to fit"
            )
        return given
    labels = column_or_1d(found, warn=True)
    assert_all_finite(labels, input_name="y")
    is_known = np.isin(labels, classes)
    if not is_known.all():
        strange = np.unique(labels[~is_known]).tolist()
        raise InputError(
            f"classes of which partial_fit was not told at its first call: {named(strange, most=_SHOWN)}; "
            "name every class there with classes="
        )
    return Given(blocks=blocks, classes=classes, codes=np.searchsorted(classes, labels).astype(np.int64))


def _checked(blocks: Blocks, found: npt.NDArray[np.generic], *, are_numbers: bool) -> Given:
    if are_numbers:
        return _with_values(blocks, _numbers(found), is_flat=found.ndim == 1)
    if found.ndim == 2 and found.shape[1] > 1:
        return _with_values(blocks, _labels(found), is_flat=False)
    labels = column_or_1d(found, warn=True)
    assert_all_finite(labels, input_name="y")
    check_classification_targets(labels)
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"the labels have one class only, {classes[0]!r}; a classifier needs at least 2")
    return Given(blocks=blocks, classes=classes, codes=codes.astype(np.int64))


def _with_values(blocks: Blocks, values: npt.NDArray[np.floating], *, is_flat: bool) -> Given:
    return Given(
        blocks=blocks,
        classes=np.arange(values.shape[1]),
        codes=np.zeros(len(values), dtype=np.int64),
        values=values,
        is_flat=is_flat,
    )


def _labels(found: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Return an indicator matrix (n, n_labels) as float32, or refuse anything else with InputError.

    The three values that there are need no more than float32, and of many labels the matrix is large.
    """
    values, is_known = np.empty(found.shape, np.float32), np.zeros(found.shape[1], np.bool_)
    step = max(1, _CHECKED_VALUES // found.shape[1])
    for start in range(0, len(found), step):
        some = slice(start, start + step)
        try:
            part = found[some].astype(np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"Unknown label type: {type_of_target(found)}; several labels are given as a matrix of 0 "
                "and 1"
            ) from error
        strange = part[(part != 0) & (part != 1) & ~np.isnan(part)]
        if len(strange):
            # An infinite value is the least telling one.
            worst = min(strange, key=lambda value: (np.isinf(value), value))
            shown = "an infinite value" if np.isinf(worst) else worst
            raise InputError(
                f"Unknown label type: the matrix of labels holds {shown}, not only 0 and 1 (and NaN for "
                "labels of which nobody knows)"
            )
        values[some] = part
        is_known |= np.isfinite(part).any(axis=0)
    empty = np.flatnonzero(~is_known)
    if len(empty):
        raise InputError(f"label {empty[0]} is unknown in all {len(values)} rows; leave its column out")
    return values


def _numbers(found: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Return targets (n, n_targets) as float64, or refuse what are no finite numbers with InputError."""
    if found.dtype.kind in "cmM":
        raise InputError(
            f"Complex data not supported: the targets are {found.dtype}; give numbers of one part"
        )
    try:
        values = found.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the targets are no numbers ({error}); give numbers, one row of them a row"
        ) from error
    if values.ndim not in (1, 2) or values.size == 0:
        raise InputError(f"the targets have shape {values.shape}; give (n,) or (n, n_targets)")
    values = values.reshape(len(values), -1)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise InputError(
            f"targets of {counted(len(bad), 'row')} are NaN or infinity "
            f"(rows {named(bad.tolist(), most=_SHOWN)}); leave these rows out"
        )
    return values


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
