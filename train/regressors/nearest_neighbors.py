"""`NearestNeighborRegressor`: the mean of the targets of a row's nearest training rows."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from toptune.machine.devices import device_of
from toptune.machine.memory import MemoryLimits
from toptune.machine.plans import plan_logger
from toptune.machine.precision import full_precision
from toptune.store.features.blocks import Blocks
from toptune.train.estimators.arguments import Params, RandomState, RowsLike
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.estimators.fit_report import HeadReport, LeftOutFigures
from toptune.train.estimators.nearest_mean import METRICS, check_metrics
from toptune.train.estimators.nearest_neighbors import (
    VOTE_TEMPERATURE,
    check_neighbor_counts,
    check_neighbor_weights,
    compared_rows,
    nearness_of,
    ready,
)
from toptune.train.estimators.settings_comparison import edges
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.passes.peak_memory import neighbors_peak_bytes
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.regressors.scored_regressor import ScoredRegressor
from toptune.train.rows.block_reading import check_finite, to_tensor
from toptune.train.rows.inputs import predict_inputs
from toptune.train.solvers.one_pass import NUMBERS


class NearestNeighborRegressor(ScoredRegressor):
    """The mean of the targets of the k nearest training rows, k and weights chosen from one search.

    The neighbors of each row among the rows of other folds are found once, as many as the largest k asks for;
    every k and weighting is a mean over these neighbors. The choice is that of least left-out squared error.

    Parameters
    ----------
    n_neighbors : int, sequence of int or None
        Neighbors k. A number is fixed, a sequence is compared, None compares those of `NEIGHBORS` that are at
        most half of the rows.
    metric : {"cosine", "euclidean"}
    weights : {"similarity", "uniform"}, sequence of these or None
        ``"similarity"`` weighs a neighbor by ``exp(cosine / 0.07)`` and needs the cosine. A sequence is
        compared; None compares both where the metric is the cosine.
    cv : int or "leave-one-group-out"
        Folds over which rows or groups are dealt out, or one fold for each group.
    random_state : int, RandomState or None
        Seed of the folds.
    device : str or None
        torch device of the sums and products; None is the CPU.
    memory_limit_bytes : int or None
        A fit whose projected peak, all rows included, is above this, in main memory or on a CUDA device, is
        refused; None is half of the machine's memory, and 85 % of what is free on the device.

    Attributes
    ----------
    rows_ : ndarray, shape (n, d)
        Training rows, of unit length for the cosine.
    targets_ : ndarray of float64, shape (n, n_targets)
        Targets of these rows.
    n_neighbors_ : int
    weights_, metric_ : str
        Chosen values.
    target_mean_, target_scale_ : ndarray of float64, shape (n_targets,)
        Means and standard deviations of the targets, by which errors of several targets weigh alike.
    left_out_scores_ : LeftOutScores or None
        Predictions for training rows by neighbors in other folds, in the unit of the targets.
    report_ : HeadReport

    Raises
    ------
    InputError
        By ``fit``: for parameters out of range, rows or targets that are not finite, or a projected peak
        above the memory limit.

    References
    ----------
    Cover & Hart 1967; Oquab et al. 2023 (DINOv2), for the weights.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from toptune.train import NearestNeighborRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> head = NearestNeighborRegressor(metric="euclidean", random_state=0).fit(X, y)
    >>> round(head.score(X, y), 1), head.n_neighbors_
    (0.5, 20)
    """

    def __init__(
        self,
        n_neighbors: int | Sequence[int] | None = None,
        metric: str = "cosine",
        weights: str | Sequence[str] | None = None,
        cv: int | str = 5,
        random_state: RandomState = None,
        device: str | None = None,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.weights = weights
        self.cv = cv
        self.random_state = random_state
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes

    def _check(self) -> None:
        (metric,) = check_metrics([self.metric], METRICS)
        check_neighbor_weights(self.weights, metric)

    def _fit(self, given: FitInputs) -> npt.NDArray[np.floating] | None:
        rows, metric = given.rows, self.metric
        counts = check_neighbor_counts(self.n_neighbors, rows.n)
        settings: list[Params] = [
            {"n_neighbors": count, "weights": weighting, "metric": metric}
            for count, weighting in product(counts, check_neighbor_weights(self.weights, metric))
        ]
        peak_bytes = self._plan(given, n_settings=len(settings), n_neighbors=counts[-1])
        dtype = torch.float64 if rows.blocks.dtype == np.float64 else torch.float32
        kept = torch.empty(rows.blocks.shape, dtype=dtype, device=given.device)
        for where, values in rows.blocks.iterate():
            check_finite(values, start=where.start)
            kept[where] = ready(to_tensor(values, dtype=dtype, device=given.device), metric)
        targets = rows.targets_of(slice(None)).to(given.device)
        errors, sample = np.zeros(len(settings)), rows.calibration_rows()
        left = np.zeros((len(settings), len(sample), rows.n_classes), dtype=np.float32)
        for where, of_settings in _left_out(kept, targets, rows, settings, given.limits.cuda_bytes):
            first, last = np.searchsorted(sample, [where.start, where.stop])
            local = torch.from_numpy(sample[first:last] - where.start).to(kept.device)
            for at, found in enumerate(of_settings):
                errors[at] += float((found - targets[where]).square().sum())
                left[at, first:last] = found[local].float().cpu().numpy()
        errors /= rows.n
        best = int(errors.argmin())
        chosen = dict(settings[best])
        assert given.scaling is not None
        self.rows_, self.targets_ = kept.cpu().numpy(), given.scaling.restored(targets.cpu().numpy())
        self.n_neighbors_, self.weights_, self.metric_ = chosen["n_neighbors"], chosen["weights"], metric
        self.report_ = HeadReport(
            solver="exact nearest neighbors, k and weights cross-validated from one search",
            n_rows=rows.n,
            n_features=rows.blocks.shape[1],
            n_folds=rows.n_folds,
            chosen=chosen,
            left_out=LeftOutFigures(
                accuracy=None, log_loss=None, n_rows=rows.n_validated, squared_error=float(errors[best])
            ),
            temperature=None,
            calibration=NUMBERS,
            table=[
                {**each, "squared_error": float(errors[at]), "is_chosen": at == best}
                for at, each in enumerate(settings)
            ],
            warnings=edges(settings, chosen),
            peak_bytes=peak_bytes,
            seconds={"total": given.seconds},
        )
        chosen_left: npt.NDArray[np.float32] = left[best]
        return chosen_left

    def _plan(self, given: FitInputs, *, n_settings: int, n_neighbors: int) -> int:
        """Return the projected peak in bytes, or refuse a fit that is above the memory limit."""
        rows, (n, d) = given.rows, given.rows.blocks.shape
        value_bytes = max(4, rows.blocks.dtype.itemsize)
        peak_bytes = neighbors_peak_bytes(
            n=n, d=d, n_classes=rows.n_classes * n_neighbors, n_neighbors=n_neighbors, n_settings=n_settings,
            n_kept=min(n, CALIBRATION_ROWS), value_bytes=value_bytes,
            block_rows=compared_rows(n, d, rows.n_classes * n_neighbors, cuda_bytes=given.limits.cuda_bytes),
        )  # fmt: skip
        given.check_memory(
            peak_bytes,
            host_bytes=value_bytes * n * d + 40 * n,  # the rows that the head keeps
            what=f"knn, which keeps all rows, on {n} rows of {d} features",
            instead="take fewer layers, a head that streams its rows ('ridge'), or raise --memory-limit",
        )
        plan_logger.debug(
            "knn: about %d MiB; %d MiB may be taken", peak_bytes // 2**20, given.limit_bytes // 2**20
        )
        return peak_bytes

    def scores(self, X: RowsLike) -> npt.NDArray[np.float64]:
        """Return the predictions (n, n_targets) for rows (n, d)."""
        check_is_fitted(self)
        blocks: Blocks = predict_inputs(self, X)
        dtype = torch.float64 if self.rows_.dtype == np.float64 else torch.float32
        kept = torch.from_numpy(self.rows_).to(device_of(self.device))
        targets = torch.from_numpy(self.targets_).to(kept.device)
        result = np.empty((blocks.shape[0], targets.shape[1]))
        limits = MemoryLimits.on(kept.device, self.memory_limit_bytes or None)
        n, d = kept.shape
        step = compared_rows(n, d, targets.shape[1] * self.n_neighbors_, cuda_bytes=limits.cuda_bytes)
        with full_precision():
            for where, values in blocks.iterate(step):
                check_finite(values, start=where.start)
                queries = ready(to_tensor(values, dtype=dtype, device=kept.device), self.metric_)
                nearness, at = nearness_of(queries, kept, self.metric_).topk(self.n_neighbors_, dim=1)
                result[where] = neighbor_means(nearness, targets[at], self.weights_).cpu().numpy()
        return result


def neighbor_means(nearness: Tensor, targets: Tensor, weights: str) -> Tensor:
    """Return the mean targets (b, n_targets) of neighbors (b, k, n_targets), nearest first.

    Parameters
    ----------
    nearness : Tensor, shape (b, k)
        Not finite for places that no row takes.
    targets : Tensor of float64, shape (b, k, n_targets)
    weights : {"similarity", "uniform"}
    """
    is_there = torch.isfinite(nearness)
    if weights == "similarity":
        shares = torch.softmax(nearness.double() / VOTE_TEMPERATURE, dim=1)
    else:
        shares = is_there.double() / is_there.sum(dim=1, keepdim=True)
    return (shares[:, :, None] * targets).sum(dim=1)


def _left_out(
    kept: Tensor,
    targets: Tensor,
    rows: TrainingRows,
    settings: Sequence[Params],
    cuda_bytes: int | None,
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yield the means of each block's neighbors in other folds, for every setting from one search."""
    folds, metric = torch.from_numpy(rows.folds).to(kept.device), settings[0]["metric"]
    most = max(setting["n_neighbors"] for setting in settings)
    step = compared_rows(len(kept), kept.shape[1], rows.n_classes * most, cuda_bytes=cuda_bytes)
    for start in range(0, rows.n, step):
        where = slice(start, min(start + step, rows.n))
        nearness = nearness_of(kept[where], kept, metric)
        nearness.masked_fill_(folds[where, None] == folds, -torch.inf)
        nearest, at = nearness.topk(most, dim=1)
        found = targets[at]
        yield (
            where,
            [
                neighbor_means(nearest[:, :k], found[:, :k], setting["weights"])
                for setting in settings
                for k in [setting["n_neighbors"]]
            ],
        )
