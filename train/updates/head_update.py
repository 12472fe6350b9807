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
from toptune.train.passes.targets import Targets
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import block_rows_for, to_tensor
from toptune.train.solvers.ridge import left_out
from toptune.train.solvers.saved_sums import SavedSums
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL

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
    classes = sorted({*old, *task.names(added.labels)})
    # New classes begin with sums of zero, so that adding their first rows needs no special case.
    saved = saved.for_classes(old, classes)
    if n_folds in added.places:
        saved = saved.with_aside()
    # The head of the old run stays usable, and so does its folder.
    estimator = copy(head.estimator)
    maps, d = _maps_of(head, saved, device=device)
    sums = saved.sums
    for sign, change in ((1, added), (-1, removed)):
        if len(change.labels):
            part = _sums(change, maps, classes, n_folds=n_folds, has_aside=sums.has_aside, d=d, device=device)
            # The normal equations are sums over rows, so that subtracting a row is as exact as adding one
            # up to rounding.
            sums = sums + part if sign > 0 else sums - part
    members = sums.cross[:, -1].sum(dim=0)
    left = [name for name, weight in zip(classes, members.tolist(), strict=True) if weight > _NONE_LEFT]
    if len(left) < 2:
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
    coefficients, intercept, jitter = saved.solve(estimator.penalty_)
    estimator.intercept_ = intercept.numpy()
    if saved.factor is None:
        estimator.coef_ = coefficients.T.numpy().copy()
    else:
        estimator.dual_coef_ = coefficients.numpy()
    estimator.sums_ = saved
    report = _report(head, saved, jitter=jitter, n_gone=len(gone_centers))
    if head.task == MULTILABEL:
        return _with_labels(head, estimator, report, left)
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


def _maps_of(head: OwnHead, saved: SavedSums, *, device: str | None) -> tuple[IdentityMap | NystromMaps, int]:
    """Return the feature map of a fitted head, and the number of columns of a row."""
    estimator = head.estimator
    d = int(estimator.n_features_in_)
    if saved.factor is None:
        return IdentityMap(d), d
    dtype = torch.float64 if estimator.centers_.dtype == np.float64 else torch.float32
    centers = to_tensor(estimator.centers_, dtype=dtype, device=device_of(device))
    kernel = kernel_of(estimator.kernel, estimator.sigma_)
    return NystromMaps.of_factor(kernel, centers, saved.factor), d


def _sums(
    change: Change,
    maps: IdentityMap | NystromMaps,
    classes: list[str],
    *,
    n_folds: int,
    has_aside: bool,
    d: int,
    device: str | None,
) -> FoldSums:
    """Sum the normal equations over rows, for each fold and over the rows of no fold."""
    n, targets = len(change.labels), None
    if change.task == CLASSIFICATION:
        position = {name: code for code, name in enumerate(classes)}
        codes = np.array([position[label] for label in change.labels], dtype=np.int64)
    else:
        values = task_of(change.task).targets(change.labels, classes).values
        codes, targets = np.zeros(n, dtype=np.int64), Targets(values=values, are_labels=True)
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
    block_rows = block_rows_for(d=d, rank=maps.ranks[0])
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
        report["squared_error"] = _squared_error(folds, float(report["penalty"]))
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


def _squared_error(folds: FoldSums, penalty: float) -> float | None:
    """Return the left-out squared error of each row; None where the rows of all but one class are gone."""
    if int((folds.cross[:, -1].sum(dim=0) > _NONE_LEFT).sum()) < 2:
        return None
    return float(left_out(folds, [penalty]).errors.sum() / folds.weights.sum())
