"""What the estimators on the one-pass solver share: from scores to labels and probabilities."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from toptune.machine.devices import device_of
from toptune.machine.precision import full_precision
from toptune.train.kernels.kernels import ReferenceRows, kernel_of
from toptune.train.numerics.calibration import softmax
from toptune.train.rows.block_reading import block_rows_for, read_ahead, to_tensor
from toptune.train.rows.inputs import predict_inputs


class ScoredClassifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """A classifier whose fit leaves ``classes_``, ``temperature_`` and scores of every class."""

    classes_: npt.NDArray[Any]
    temperature_: float

    @abstractmethod
    def scores(self, X: Any) -> npt.NDArray[np.float64]:
        """Scores (n, n_classes) of rows (n, d), also for two classes."""

    def decision_function(self, X: Any) -> npt.NDArray[np.float64]:
        """Scores (n, n_classes); for two classes the difference in favor of the second, (n,)."""
        scores = self.scores(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Labels (n,) of the highest score."""
        scores = self.scores(X)
        labels: npt.NDArray[Any] = self.classes_[scores.argmax(axis=1)]
        return labels

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Probabilities (n, n_classes): softmax of scores with one temperature fitted out of fold."""
        scores = self.scores(X)
        return softmax(scores, self.temperature_)


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
