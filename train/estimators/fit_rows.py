"""`TrainingRows` of an estimator, from what its ``fit`` was given."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
from sklearn.utils import check_random_state

from toptune.errors import InputError
from toptune.train.passes.training_rows import Cluster, TrainingRows
from toptune.train.rows.inputs import fit_inputs, fold_numbers, row_weights


def rows_to_fit(
    estimator: Any, X: Any, y: Any, groups: Sequence[str] | None
) -> tuple[TrainingRows, npt.NDArray[Any], int]:
    """Do what `training_rows` does, for an estimator that cannot do without folds.

    Raises
    ------
    InputError
        If ``cv`` is None; see also `training_rows`.
    """
    if estimator.cv is None:
        raise InputError(
            "cv is None, but this classifier calibrates on left-out rows; give a number of folds"
        )
    return training_rows(estimator, X, y, groups)


def training_rows(
    estimator: Any, X: Any, y: Any, groups: Sequence[str] | None, *, cluster: Cluster | None = None
) -> tuple[TrainingRows, npt.NDArray[Any], int]:
    """Rows with their weights and folds, the classes, and a seed from the estimator's ``random_state``.

    Raises
    ------
    InputError
        For labels of one class, or options out of range.
    """
    blocks, classes, codes = fit_inputs(estimator, X, y)
    seed = int(check_random_state(estimator.random_state).randint(2**31 - 1))
    folds, n_folds = fold_numbers(codes, classes, cv=estimator.cv, seed=seed, groups=groups)
    rows = TrainingRows(
        blocks=blocks,
        codes=codes,
        weights=row_weights(codes, classes, getattr(estimator, "class_weight", None)),
        folds=folds,
        n_classes=len(classes),
        n_folds=n_folds,
        cluster=cluster,
    )
    return rows, classes, seed
