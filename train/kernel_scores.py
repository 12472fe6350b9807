"""Scores of a fitted kernel head."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted

from toptune.machine.devices import device_of
from toptune.machine.precision import full_precision
from toptune.train.inputs import predict_inputs
from toptune.train.kernels import ReferenceRows, kernel_of
from toptune.train.memory import block_rows_for
from toptune.train.reading import read_ahead, to_tensor


def kernel_scores(estimator: Any, X: Any) -> npt.NDArray[np.float64]:
    """Scores (n, n_classes) of rows (n, d), ``k(X, centers_) dual_coef_ + intercept_``, block after block.

    Parameters
    ----------
    estimator : FalkonClassifier or FalkonLogisticClassifier
        Fitted.
    X : array-like or Blocks, shape (n, d)
    """
    check_is_fitted(estimator)
    blocks = predict_inputs(estimator, X)
    device = device_of(estimator.device)
    dtype = torch.float64 if estimator.centers_.dtype == np.float64 else torch.float32
    centers = ReferenceRows.of(to_tensor(estimator.centers_, dtype=dtype, device=device))
    dual = to_tensor(estimator.dual_coef_, dtype=torch.float64, device=device)
    intercept = torch.from_numpy(estimator.intercept_).to(device)
    kernel = kernel_of(estimator.kernel, estimator.sigma_)
    scores = np.empty((blocks.shape[0], len(estimator.classes_)))
    block_rows = block_rows_for(
        d=blocks.shape[1], rank=len(centers), limit_bytes=estimator.memory_limit_bytes
    )
    with full_precision():
        for where, values in read_ahead(blocks, block_rows=block_rows, dtype=dtype, device=device):
            scores[where] = torch.addmm(intercept, kernel(values, centers).double(), dual).cpu().numpy()
    return scores
