"""The head on the columns that Head2Toe keeps, where it is fitted to rows: logistic regression or FALKON."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.errors import FoldsError, InputError
from toptune.store.features.blocks import Blocks
from toptune.train.estimators.arguments import ClassWeight, Params
from toptune.train.estimators.falkon import FalkonClassifier
from toptune.train.estimators.logistic import StreamingLogisticClassifier
from toptune.train.head2toe.columns import Columns, Layers
from toptune.train.head2toe.selected_blocks import SelectedBlocks, SomeRows
from toptune.train.numerics.calibration import Temperature, fit_temperature
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.folds import FoldsReducedWarning

FINALS = ("ridge", "logistic", "falkon")
# The same number of centers that `FalkonClassifier` takes by default.
_N_CENTERS = 1000
FinalEstimator = FalkonClassifier | StreamingLogisticClassifier


@dataclass(frozen=True, kw_only=True)
class Final:
    """A fitted final head, with figures on rows that neither the head nor the selection had seen.

    Attributes
    ----------
    estimator : FalkonClassifier or StreamingLogisticClassifier
        Estimator fitted to all rows.
    accuracy : float
        Share, by weight, of the left-out rows that were predicted right.
    calibrated : Temperature
        Temperature fitted to the left-out scores, and the log-loss at it.
    scores : ndarray of float64, shape (n_kept, n_classes)
        Left-out scores of `TrainingRows.calibration_rows`.
    """

    estimator: FinalEstimator
    accuracy: float
    calibrated: Temperature
    scores: npt.NDArray[np.float64]


def fit_final(
    name: str,
    rows: TrainingRows,
    columns_of: Callable[[int | None], Columns],
    layers: Layers,
    *,
    unit_norm: bool,
    class_weight: ClassWeight,
    groups: Sequence[str] | None,
    options: Params,
) -> Final:
    """Fit without each fold to the columns selected without it, then to all rows.

    Each of these fits chooses its own penalty (and width) by cross-validation within its rows: neither the
    selection of columns nor a hyperparameter has seen the rows that are scored.

    Parameters
    ----------
    name : {"logistic", "falkon"}
    rows : TrainingRows
        Rows with all columns.
    columns_of : callable (fold or None) -> ndarray of int64
        Columns selected without a fold, or on all rows.
    layers : Layers
    unit_norm : bool
        Divide what is kept of each layer by its length.
    class_weight : None, "balanced" or dict of position of the class to weight
    options : dict
        Parameters of the estimator: ``cv``, ``random_state``, ``device``, ``memory_limit_bytes``.
    """

    def blocks(columns: Columns) -> SelectedBlocks:
        kept = [count for count in layers.counts(columns) if count]
        return SelectedBlocks(rows.blocks, columns, kept if unit_norm else None)

    def fit(columns: Columns, chosen: npt.NDArray[np.int64] | None) -> FinalEstimator:
        some: Blocks = blocks(columns)
        codes, some_groups = rows.codes, groups
        if chosen is not None:
            some, codes = SomeRows(some, chosen), rows.codes[chosen]
            some_groups = None if groups is None else [groups[row] for row in chosen.tolist()]
        weight = class_weight
        if isinstance(weight, dict):
            weight = {code: value for code, value in weight.items() if code in codes}
        with warnings.catch_warnings():
            # Without a fold a class may have too few rows. Users are told of the fit to all rows only.
            if chosen is not None:
                warnings.simplefilter("ignore", FoldsReducedWarning)
            try:
                return _estimator(name, weight, options).fit(some, codes, groups=some_groups)
            except FoldsError as error:
                raise InputError(
                    f"final {name!r} is cross-validated within the rows outside each fold, where {error}; or "
                    "take final 'ridge', which is not"
                ) from error

    scores = np.zeros((rows.n, rows.n_classes))
    is_validated = rows.is_validated
    for fold in np.unique(rows.folds[is_validated]).tolist():
        columns = columns_of(fold)
        mine = np.flatnonzero(rows.folds == fold)
        fitted = fit(columns, np.flatnonzero(is_validated & (rows.folds != fold)))
        left_out = fitted.scores(SomeRows(blocks(columns), mine))
        # A class that takes no part in cross-validation scores below all others.
        scores[mine] = left_out.min(axis=1, keepdims=True) - 1
        scores[mine[:, None], fitted.classes_] = left_out
    return Final(
        estimator=fit(columns_of(None), None),
        accuracy=float(
            rows.weights[is_validated]
            @ (scores.argmax(axis=1) == rows.codes)[is_validated]
            / rows.weights[is_validated].sum()
        ),
        calibrated=fit_temperature(
            scores[is_validated], rows.codes[is_validated], rows.weights[is_validated]
        ),
        scores=scores[rows.calibration_rows()],
    )


def _estimator(name: str, class_weight: ClassWeight, options: Params) -> FinalEstimator:
    if name == "falkon":
        return FalkonClassifier(n_centers=_N_CENTERS, class_weight=class_weight, **options)
    return StreamingLogisticClassifier(class_weight=class_weight, **options)
