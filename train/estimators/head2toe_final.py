"""The head on the columns that Head2Toe keeps, where it is fitted to rows: logistic regression or FALKON.

So is ridge regression of labels of which some are unknown, which moments of all rows do not give.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import FoldsError, InputError
from toptune.store.features.blocks import Blocks
from toptune.train.estimators.arguments import ClassWeight, Params
from toptune.train.estimators.falkon import FalkonClassifier
from toptune.train.estimators.logistic import StreamingLogisticClassifier
from toptune.train.estimators.ridge import StreamingRidgeClassifier
from toptune.train.head2toe.columns import Columns, Layers
from toptune.train.head2toe.selected_blocks import SelectedBlocks, SomeRows
from toptune.train.numerics.calibration import Temperature
from toptune.train.numerics.sigmoids import Sigmoids
from toptune.train.passes.passes import share_right
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.folds import FoldsReducedWarning

FINALS = ("ridge", "logistic", "falkon")
# The same number of centers that `FalkonClassifier` takes by default.
_N_CENTERS = 1000
FinalEstimator = FalkonClassifier | StreamingLogisticClassifier | StreamingRidgeClassifier


@dataclass(frozen=True, kw_only=True)
class Final:
    """A fitted final head, with figures on rows that neither the head nor the selection had seen.

    Attributes
    ----------
    estimator : FalkonClassifier, StreamingLogisticClassifier or StreamingRidgeClassifier
        Estimator fitted to all rows.
    accuracy : float
        Share, by weight, of the left-out rows that were predicted right; of several labels, of the labels.
    calibrated : Temperature or Sigmoids
        What was fitted to the left-out scores of classes or labels, and the log-loss at it.
    scores : ndarray of float64, shape (n_kept, n_classes)
        Left-out scores of `TrainingRows.calibration_rows`.
    """

    estimator: FinalEstimator
    accuracy: float
    calibrated: Temperature | Sigmoids
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
    name : {"ridge", "logistic", "falkon"}
    rows : TrainingRows
        Rows with all columns.
    columns_of : callable (fold or None) -> ndarray of int64
        Columns selected without a fold, or on all rows.
    layers : Layers
    unit_norm : bool
        Divide what is kept of each layer by its length.
    class_weight : None, "balanced" or dict of position of the class to weight
    options : dict
        Parameters of the estimator: ``cv``, ``random_state``, ``device``, ``memory_limit_bytes``; and
        ``penalty`` of ``"ridge"``.
    """

    def blocks(columns: Columns) -> SelectedBlocks:
        kept = [count for count in layers.counts(columns) if count]
        return SelectedBlocks(rows.blocks, columns, kept if unit_norm else None)

    def fit(columns: Columns, chosen: npt.NDArray[np.int64] | None) -> FinalEstimator:
        some: Blocks = blocks(columns)
        some_groups = groups
        if chosen is not None:
            some = SomeRows(some, chosen)
            some_groups = None if groups is None else [groups[row] for row in chosen.tolist()]
        taught, weight = _taught(rows, chosen), class_weight
        if isinstance(weight, dict):
            weight = {code: value for code, value in weight.items() if code in taught}
        with warnings.catch_warnings():
            # Without a fold a class may have too few rows. Users are told of the fit to all rows only.
            if chosen is not None:
                warnings.simplefilter("ignore", FoldsReducedWarning)
            try:
                return _estimator(name, weight, options).fit(some, taught, groups=some_groups)
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
    validated = np.flatnonzero(is_validated)
    calibrated = rows.calibration(scores[validated], validated)
    assert calibrated is not None, "classes and labels are calibrated"
    return Final(
        estimator=fit(columns_of(None), None),
        accuracy=_accuracy(rows, scores, validated, calibrated),
        calibrated=calibrated,
        scores=scores[rows.calibration_rows()],
    )


def _taught(rows: TrainingRows, chosen: npt.NDArray[np.int64] | None) -> npt.NDArray[np.generic]:
    """Return what the final head learns of all rows, or of some: classes (m,) or labels (m, n_labels)."""
    some = slice(None) if chosen is None else chosen
    if rows.targets is None:
        return rows.codes[some]
    values = rows.targets.values[some].copy()
    # A label of which nothing is known outside a fold has one score for all, whatever it is taken to be.
    values[:, ~np.isfinite(values).any(axis=0)] = 0.0
    return values


def _accuracy(
    rows: TrainingRows,
    scores: npt.NDArray[np.float64],
    validated: npt.NDArray[np.int64],
    calibrated: Temperature | Sigmoids,
) -> float:
    """Return the share, by weight, of the validated rows (or of their labels) that scores decide rightly."""
    weights, scores = rows.weights[validated], scores[validated]
    if isinstance(calibrated, Sigmoids):
        probabilities = torch.from_numpy(calibrated.probabilities(scores))
        hits = share_right(probabilities, rows.known_targets(validated)).numpy()
    else:
        hits = scores.argmax(axis=1) == rows.codes[validated]
    return float(weights @ hits / weights.sum())


def _estimator(name: str, class_weight: ClassWeight, options: Params) -> FinalEstimator:
    if name == "falkon":
        return FalkonClassifier(n_centers=_N_CENTERS, class_weight=class_weight, **options)
    kind = StreamingRidgeClassifier if name == "ridge" else StreamingLogisticClassifier
    return kind(class_weight=class_weight, **options)
