"""Rows as they are or, where they are fewer than their columns, by coordinates in their span."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from toptune.store.features.blocks import Blocks
from toptune.train.kernels.kernels import Linear
from toptune.train.kernels.maps import IdentityMap, NystromMaps
from toptune.train.rows.block_reading import check_finite, to_tensor
from toptune.train.rows.inputs import predict_inputs

LinearMaps = IdentityMap | NystromMaps


def linear_maps(blocks: Blocks, *, device: torch.device) -> LinearMaps:
    """Feature map of a linear head on rows (n, d): the identity, or n coordinates where n is below d.

    Coordinates are the linear kernel's on all rows as centers, whitened: lengths and products stay those of
    the rows, so that every head that penalizes or shrinks by them is the same in ``min(n, d)`` numbers.
    """
    n, d = blocks.shape
    if d <= n:
        return IdentityMap(d)
    values = blocks.take(np.arange(n))
    check_finite(values)
    return NystromMaps.on([Linear()], to_tensor(values, dtype=torch.float64, device=device))


def linear_coefficients(maps: LinearMaps, beta: Tensor) -> Tensor:
    """Turn coefficients (r, n_classes) of the features into those (d, n_classes) of the columns."""
    if isinstance(maps, IdentityMap):
        return beta
    kept, dual = maps.coefficients(0, beta)
    return kept.T @ dual


def linear_scores(estimator: Any, X: Any) -> npt.NDArray[np.float64]:
    """Scores (n, n_classes) of rows (n, d), ``X coef_.T + intercept_``, block after block."""
    check_is_fitted(estimator)
    blocks = predict_inputs(estimator, X)
    scores = np.empty((blocks.shape[0], len(estimator.classes_)))
    for where, values in blocks.iterate():
        check_finite(values, start=where.start)
        scores[where] = values.astype(np.float64) @ estimator.coef_.T + estimator.intercept_
    return scores
