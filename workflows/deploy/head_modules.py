"""Fitted heads become torch modules, for exported models.

The record of a head names its module in this file. The module computes scores (b, n_classes) as the fitted
estimator does.
"""

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from toptune.errors import InputError
from toptune.train.estimators.nearest_neighbors import nearness_of, ready, vote_scores
from toptune.train.heads.heads import Head
from toptune.train.heads.kind import resolved
from toptune.train.heads.kinds import KINDS, kind_of
from toptune.train.heads.native_heads import OwnHead
from toptune.train.kernels.kernels import Linear, kernel_of
from toptune.train.regressors.nearest_neighbors import neighbor_means
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL, REGRESSION
from toptune.workflows.deploy.preprocessing_modules import UnitNormModule


class KernelScores(nn.Module):
    """Compute ``k(x, centers) dual_coef + intercept``, as `kernel_scores` does.

    Distances come from inner products after a shift to the mean of the centers. `squared_distances` computes
    pairs where this cancels a second time. A traced graph cannot, because a graph cannot pick rows by their
    values; in float64 enough digits are left without the second computation.
    """

    shift: Tensor
    centers: Tensor
    dual: Tensor
    intercept: Tensor

    def __init__(self, estimator: BaseEstimator, dtype: torch.dtype) -> None:
        super().__init__()
        self._kernel = kernel_of(estimator.kernel, estimator.sigma_)
        centers = torch.from_numpy(np.asarray(estimator.centers_, dtype=np.float64))
        shift = torch.zeros_like(centers[0]) if isinstance(self._kernel, Linear) else centers.mean(dim=0)
        self.register_buffer("shift", shift.to(dtype))
        # The centers are shifted by the rounded values by which rows will be shifted too.
        self.register_buffer("centers", (centers - shift.to(dtype).double()).to(dtype))
        self.register_buffer("dual", torch.from_numpy(np.asarray(estimator.dual_coef_)).to(dtype))
        self.register_buffer("intercept", torch.from_numpy(np.asarray(estimator.intercept_)).to(dtype))

    def forward(self, rows: Tensor) -> Tensor:
        x, c = rows.to(self.centers.dtype) - self.shift, self.centers
        if isinstance(self._kernel, Linear):
            values = self._kernel(x, c)
        else:
            norms = x.square().sum(dim=1, keepdim=True) + c.square().sum(dim=1)
            # Rounding can make the square of a small distance negative, and its root would be NaN.
            values = self._kernel.of_squared_distances((norms - 2 * (x @ c.T)).clamp(min=0))
        result: Tensor = values @ self.dual + self.intercept
        return result


class LinearScores(nn.Module):
    """Compute ``x coef^T + intercept``."""

    coef: Tensor
    intercept: Tensor

    def __init__(self, estimator: BaseEstimator, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("coef", torch.from_numpy(np.array(estimator.coef_)).to(dtype))
        self.register_buffer("intercept", torch.from_numpy(np.array(estimator.intercept_)).to(dtype))

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = rows.to(self.coef.dtype) @ self.coef.T + self.intercept
        return result


class NearestMeanScores(nn.Module):
    """Compute cosines with class means, or minus half the squared distances; see `nearness_of`."""

    means: Tensor

    def __init__(self, estimator: BaseEstimator, dtype: torch.dtype) -> None:
        super().__init__()
        self._metric = estimator.metric_
        self.register_buffer("means", torch.from_numpy(np.array(estimator.means_)).to(dtype))

    def forward(self, rows: Tensor) -> Tensor:
        return nearness_of(ready(rows.to(self.means.dtype), self._metric), self.means, self._metric)


class NeighborScores(nn.Module):
    """Count votes of the nearest training rows; the module holds all training rows."""

    rows: Tensor
    codes: Tensor

    def __init__(self, estimator: BaseEstimator, dtype: torch.dtype) -> None:
        super().__init__()
        self._metric, self._weights = estimator.metric_, estimator.weights_
        self._n_neighbors, self._n_classes = int(estimator.n_neighbors_), len(estimator.classes_)
        self.register_buffer("rows", torch.from_numpy(np.array(estimator.rows_)).to(dtype))
        self.register_buffer("codes", torch.from_numpy(np.array(estimator.codes_)))

    def forward(self, rows: Tensor) -> Tensor:
        queries = ready(rows.to(self.rows.dtype), self._metric)
        nearness, at = nearness_of(queries, self.rows, self._metric).topk(self._n_neighbors, dim=1)
        return vote_scores(nearness, self.codes[at], self._n_classes, self._weights).to(self.rows.dtype)


class NeighborMeans(nn.Module):
    """Compute the mean targets of the nearest training rows; the module holds all training rows."""

    rows: Tensor
    targets: Tensor

    def __init__(self, estimator: BaseEstimator, dtype: torch.dtype) -> None:
        super().__init__()
        self._metric, self._weights = estimator.metric_, estimator.weights_
        self._n_neighbors = int(estimator.n_neighbors_)
        self.register_buffer("rows", torch.from_numpy(np.array(estimator.rows_)).to(dtype))
        self.register_buffer("targets", torch.from_numpy(np.array(estimator.targets_)).to(dtype))

    def forward(self, rows: Tensor) -> Tensor:
        queries = ready(rows.to(self.rows.dtype), self._metric)
        nearness, at = nearness_of(queries, self.rows, self._metric).topk(self._n_neighbors, dim=1)
        return neighbor_means(nearness, self.targets[at], self._weights).to(self.rows.dtype)


class Head2ToeScores(nn.Module):
    """Compute the scores of the final head on the columns that Head2Toe kept."""

    columns: Tensor

    def __init__(self, estimator: BaseEstimator, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self.register_buffer("columns", torch.from_numpy(np.array(estimator.columns_)))
        dims = estimator.divided_dims
        self.norm = nn.Identity() if dims is None else UnitNormModule(dims)
        final = estimator.fitted_final()
        self.final = (KernelScores if hasattr(final, "centers_") else LinearScores)(final, dtype)

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = self.final(self.norm(rows[:, self.columns].to(self._dtype)))
        return result


class HeadModule(nn.Module):
    """Map preprocessed rows (b, d) to logits (b, n_classes), or to the numbers of a regression."""

    def __init__(self, head: Head, dtype: torch.dtype) -> None:
        super().__init__()
        module = check_exportable(head.name, head.task)
        assert isinstance(head, OwnHead)
        self.scores: nn.Module = resolved(module)(head.estimator, dtype)
        self.link = _link_of(head, dtype)

    def forward(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.link(self.scores(rows))
        return logits


def _link_of(head: OwnHead, dtype: torch.dtype) -> nn.Module:
    """Return the module that turns scores into logits, or into the numbers of a regression."""
    if head.task == REGRESSION:
        return nn.Identity() if head.levels is None else _Rounded(head.levels, dtype)
    if head.task == MULTILABEL:
        sigmoids = head.estimator.sigmoids_
        return _Scaled(sigmoids.slopes, sigmoids.offsets, dtype)
    # Probabilities of the head are those of its scores divided by the temperature of its calibration.
    return _Scaled(np.array(1 / float(head.estimator.temperature_)), np.zeros(1), dtype)


class _Scaled(nn.Module):
    """Compute ``slopes * scores + offsets``."""

    slopes: Tensor
    offsets: Tensor

    def __init__(
        self, slopes: npt.NDArray[np.float64], offsets: npt.NDArray[np.float64], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.from_numpy(np.asarray(slopes)).to(dtype))
        self.register_buffer("offsets", torch.from_numpy(np.asarray(offsets)).to(dtype))

    def forward(self, scores: Tensor) -> Tensor:
        return scores * self.slopes + self.offsets


class _Rounded(nn.Module):
    """Round numbers to the steps of a scale."""

    low: Tensor
    high: Tensor

    def __init__(self, levels: npt.NDArray[np.float64], dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("low", torch.from_numpy(levels[:, 0].copy()).to(dtype))
        self.register_buffer("high", torch.from_numpy(levels[:, 1].copy()).to(dtype))

    def forward(self, scores: Tensor) -> Tensor:
        return torch.maximum(torch.minimum(scores.round(), self.high), self.low)


def exportable_heads(task: str = CLASSIFICATION) -> list[str]:
    """Return the heads that know a task and that a torch module is written for."""
    kinds = [kind.for_task(task) for kind in KINDS.values() if kind.knows(task)]
    return [kind.name for kind in kinds if kind.scores_module is not None]


def check_exportable(name: str, task: str = CLASSIFICATION) -> str:
    """Return the path of a head's torch module, or refuse a head that none is written for.

    Raises
    ------
    InputError
        If the head cannot be exported; the message names the heads that can.
    """
    module = kind_of(name).for_task(task).scores_module
    if module is None:
        raise InputError(
            f"head {name!r} cannot be exported: it has no form as tensor operations here; train one of "
            f"{', '.join(exportable_heads(task))} on the same features (seconds), or use toptune predict"
        )
    return module
