"""The feature maps of linear heads: the columns themselves or, for fewer rows than columns, their span.

n rows of d > n columns lie in a subspace of at most n dimensions. Every head that penalizes or shrinks by
lengths and inner products gives the same answer in coordinates of that subspace, with n numbers per row in
place of d.
"""

from typing import Protocol

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


class LinearHead(Protocol):
    """A fitted estimator whose scores are linear in the columns.

    Attributes
    ----------
    coef_ : ndarray of float64, shape (n_classes, d)
    intercept_ : ndarray of float64, shape (n_classes,)
    """

    coef_: npt.NDArray[np.float64]
    intercept_: npt.NDArray[np.float64]


def linear_maps(blocks: Blocks, *, device: torch.device) -> LinearMaps:
    """Return the feature map of a linear head on rows (n, d): the identity, or n coordinates where n < d.

    The coordinates are Nystrom features of the linear kernel with all rows as centers: they keep lengths and
    inner products of the rows, and there are at most ``min(n, d)`` of them.

    Raises
    ------
    InputError
        If n < d and a value is not finite; for n >= d the values are checked when they are read.
    """
    n, d = blocks.shape
    if d <= n:
        return IdentityMap(d)
    values = blocks.take(np.arange(n))
    check_finite(values)
    # Every row is a center, so the span loses nothing but what rounding has made dependent.
    return NystromMaps.on([Linear()], to_tensor(values, dtype=torch.float64, device=device))


def linear_coefficients(maps: LinearMaps, beta: Tensor) -> Tensor:
    """Turn coefficients (r, n_classes) of the features into coefficients (d, n_classes) of the columns."""
    if isinstance(maps, IdentityMap):
        return beta
    kept, dual = maps.coefficients(0, beta)
    return kept.T @ dual


def linear_scores(estimator: LinearHead, X: object) -> npt.NDArray[np.float64]:
    """Return the scores (n, n_classes) of rows (n, d), ``X coef_.T + intercept_``, block after block.

    Raises
    ------
    InputError
        If X has another number of columns than the fit had, or a value that is not finite.
    """
    check_is_fitted(estimator)
    blocks = predict_inputs(estimator, X)
    scores = np.empty((blocks.shape[0], len(estimator.intercept_)))
    for where, values in blocks.iterate():
        check_finite(values, start=where.start)
        scores[where] = values.astype(np.float64) @ estimator.coef_.T + estimator.intercept_
    return scores
