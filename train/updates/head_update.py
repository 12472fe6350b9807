"""A fitted head with rows added and subtracted, by means of the sums that the fit kept."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError
from toptune.machine.devices import device_of
from toptune.machine.precision import full_precision
from toptune.store.features.blocks import Blocks
from toptune.text import counted, named
from toptune.train.heads.native_heads import OwnHead
from toptune.train.kernels.kernels import kernel_of
from toptune.train.kernels.maps import IdentityMap, NystromMaps
from toptune.train.passes.passes import accumulate
from toptune.train.passes.sums import FoldSums
from toptune.train.passes.targets import Scaling, Targets, in_target_unit
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import block_rows_for, to_tensor
from toptune.train.solvers.ridge import left_out
from toptune.train.solvers.saved_sums import SavedSums
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL, REGRESSION

# A class is gone when the weight of its rows falls below this. Each row weighs 1, but adding and subtracting
# in floating point leaves a little of the weight of rows that are gone.
_NONE_LEFT = 0.5


@dataclass(frozen=True, kw_only=True)
class Change:
    """Rows that are added to the sums of a head, or subtracted from the sums.

    Attributes
    ----------
    blocks : Blocks, shape (n, d)
        Features, preprocessed as the rows that trained the head.
    labels : sequence of str, length n
    places : ndarray of int64, shape (n,)
        Fold of each row, or the place behind the folds for a row that takes no part in cross-validation.
    task : str
        What the labels mean; see `toptune.train.tasks.task.Task`.
    """

    blocks: Blocks
    labels: Sequence[str]
    places: npt.NDArray[np.int64]
    task: str = CLASSIFICATION


def updated_head(
    head: OwnHead,
    saved: SavedSums,
    *,
    added: Change,
    removed: Change,
    n_folds: int,
    gone_centers: npt.NDArray[np.int64],
    device: str | None = None,
) -> OwnHead:
    """Add and subtract rows; centers, width, penalty, temperature and preprocessing stay.

    The head equals a fit of the remaining rows on the same centers. The time is proportional to the number of
    rows added and subtracted, because the normal equations are sums over rows.

    Parameters
    ----------
    head : OwnHead
        A loaded head of kind ``falkon`` or ``ridge``, which stays as it is.
    saved : SavedSums
        Sums over the rows that trained the head.
    added, removed : Change
    n_folds : int
        Folds of the run; 1 if it has none.
    gone_centers : ndarray of int64
        Positions of the centers that must leave the head.

    Raises
    ------
    InputError
        If fewer than two classes remain.
    NumericalError
        If no center remains or the system cannot be solved.
    """
    old = head.classes
    task = task_of(head.task)
    # Targets stay as they were named; classes and labels may come and go.
    are_numbers = head.task == REGRESSION
    classes = list(old) if are_numbers else sorted({*old, *task.names(added.labels)})
    # New classes begin with sums of zero, so that adding their first rows needs no special case.
    saved = saved.for_classes(old, classes)
    if n_folds in added.places:
        saved = saved.with_aside()
    # The head of the old run stays usable, and so does its folder.
    estimator = copy(head.estimator)
    maps = _maps_of(head, saved, device=device)
    sums = saved.sums
    for sign, change in ((1, added), (-1, removed)):
        if len(change.labels):
            part = _sums(
                change, maps, classes, n_folds=n_folds, has_aside=sums.has_aside, scaling=_scaling_of(head),
                device=device,
            )  # fmt: skip
            # The normal equations are sums over rows, so that subtracting a row is as exact as adding one
            # up to rounding.
            sums = sums + part if sign > 0 else sums - part
    members = sums.cross[:, -1].sum(dim=0)
    left = [
        name
        for name, weight in zip(classes, members.tolist(), strict=True)
        if are_numbers or weight > _NONE_LEFT
    ]
    if are_numbers and float(sums.weights.sum()) < 2 - _NONE_LEFT:
        raise InputError("fewer than 2 images would be left; a regression needs at least 2")
    if len(left) < 2 and not are_numbers:
        nouns = "labels" if head.task == MULTILABEL else "classes"
        raise InputError(f"{len(left)} {nouns} would be left; a classifier needs at least 2")
    saved = SavedSums(sums=sums, factor=saved.factor).for_classes(classes, left)
    if len(gone_centers):
        # A center is the features of an image. If the image must go, so must its center, whatever the sums
        # say.
        saved = saved.without_centers(gone_centers)
        stay = np.setdiff1d(np.arange(len(estimator.centers_)), gone_centers)
        estimator.centers_, estimator.center_indices_ = (
            estimator.centers_[stay],
            estimator.center_indices_[stay],
        )
    solved, intercept, jitter = saved.solve(estimator.penalty_)
    coefficients, estimator.intercept_ = in_target_unit(solved, intercept, _scaling_of(head))
    if saved.factor is None:
        estimator.coef_ = coefficients.T.copy()
    else:
        estimator.dual_coef_ = coefficients
    estimator.sums_ = saved
    report = _report(head, saved, jitter=jitter, n_gone=len(gone_centers))
    if head.task == MULTILABEL:
        return _with_labels(head, estimator, report, left)
    if not are_numbers:
        estimator.classes_ = np.array(left)
    return head.with_estimator(estimator, report)


def _with_labels(head: OwnHead, estimator: Any, report: dict[str, Any], names: Sequence[str]) -> OwnHead:
    """Return the head for other labels; a new one has the middle of the others' sigmoids, and is told."""
    position = {name: at for at, name in enumerate(head.classes)}
    fresh = [name for name in names if name not in position]
    sigmoids, thresholds = estimator.sigmoids_, head.thresholds
    assert thresholds is not None, "a head of several labels has thresholds"

    def moved(values: npt.NDArray[np.float64], of_new: float) -> npt.NDArray[np.float64]:
        return np.array([values[position[name]] if name in position else of_new for name in names])

    estimator.sigmoids_ = replace(
        sigmoids,
        slopes=moved(sigmoids.slopes, float(np.median(sigmoids.slopes))),
        offsets=moved(sigmoids.offsets, float(np.median(sigmoids.offsets))),
    )
    estimator.classes_ = np.arange(len(names))
    if fresh:
        report["warnings"] = [
            *report["warnings"],
            f"not calibrated: {counted(len(fresh), 'label')} that the run did not know, {named(fresh)}; "
            "until the run is trained again, the sigmoid of such a label is the median of the others', and "
            "its threshold 0.5 [TT317]",
        ]
    return head.with_estimator(estimator, report).for_labels(names, moved(thresholds, 0.5))


def _scaling_of(head: OwnHead) -> Scaling | None:
    """Return how the sums of a head have standardized numbers; None of classes and labels."""
    if head.task != REGRESSION:
        return None
    return Scaling(mean=head.estimator.target_mean_, scale=head.estimator.target_scale_)


def _maps_of(head: OwnHead, saved: SavedSums, *, device: str | None) -> IdentityMap | NystromMaps:
    """Return the feature map of a fitted head."""
    estimator = head.estimator
    d = int(estimator.n_features_in_)
    if saved.factor is None:
        return IdentityMap(d)
    dtype = torch.float64 if estimator.centers_.dtype == np.float64 else torch.float32
    centers = to_tensor(estimator.centers_, dtype=dtype, device=device_of(device))
    kernel = kernel_of(estimator.kernel, estimator.sigma_)
    return NystromMaps.of_factor(kernel, centers, saved.factor)


def _sums(
    change: Change,
    maps: IdentityMap | NystromMaps,
    classes: list[str],
    *,
    n_folds: int,
    has_aside: bool,
    scaling: Scaling | None,
    device: str | None,
) -> FoldSums:
    """Sum the normal equations over rows, for each fold and over the rows of no fold."""
    n, targets = len(change.labels), None
    if change.task == CLASSIFICATION:
        position = {name: code for code, name in enumerate(classes)}
        codes = np.array([position[label] for label in change.labels], dtype=np.int64)
    else:
        values = task_of(change.task).targets(change.labels, classes).values
        values = values if scaling is None else scaling.standardized(values)
        codes, targets = np.zeros(n, dtype=np.int64), Targets(values=values, are_labels=scaling is None)
    rows = TrainingRows(
        blocks=change.blocks,
        codes=codes,
        targets=targets,
        weights=np.ones(n),
        folds=change.places,
        n_classes=len(classes),
        n_folds=n_folds,
        has_aside=has_aside,
    )
    block_rows = block_rows_for(d=change.blocks.shape[1], rank=maps.ranks[0])
    # Rows are mapped in the basis of the old fit; in a basis of their own they could not be added.
    with full_precision():
        (sums,) = accumulate(rows, maps, [0], block_rows=block_rows, device=device_of(device))
    return sums.cpu()


def _report(head: OwnHead, saved: SavedSums, *, jitter: float, n_gone: int) -> dict[str, Any]:
    """Give the figures of the updated sums; figures that would need all rows again are left out."""
    report = dict(head.report)
    weight = float(saved.sums.weights.sum())
    folds = saved.sums.validated()
    # Left-out errors follow from the sums of each fold, if the training kept more than one.
    if len(folds.gram) > 1:
        are_numbers = head.task == REGRESSION
        report["squared_error"] = _squared_error(folds, float(report["penalty"]), are_numbers=are_numbers)
    rank = saved.sums.gram.shape[1] - 1
    gone = f"{counted(n_gone, 'center')} left the head with images that are gone [TT414]"
    return report | {
        "n_rows": round(weight),
        "rank": rank,
        "n_centers": rank if saved.factor is not None else 0,
        "n_dropped": 0,
        "jitter": jitter,
        # Accuracy and log-loss of left-out rows would need a prediction for every row, and an update reads
        # the changed rows only.
        "accuracy": None,
        "log_loss": None,
        "left_out": None,
        "table": [],
        "iteration": None,
        "seconds": {},
        "n_passes": 0,
        "warnings": [
            "updated: width, penalty, temperature and preprocessing are those of the run before [TT414]",
            *([gone] if n_gone else []),
            *([f"the system needed jitter, {jitter:.1e} of its mean diagonal [TT402]"] if jitter else []),
        ],
    }


def _squared_error(folds: FoldSums, penalty: float, *, are_numbers: bool) -> float | None:
    """Return the left-out squared error of each row; None where the rows of all but one class are gone."""
    if not are_numbers and int((folds.cross[:, -1].sum(dim=0) > _NONE_LEFT).sum()) < 2:
        return None
    return float(left_out(folds, [penalty]).errors.sum() / folds.weights.sum())
