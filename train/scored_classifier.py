"""What the estimators on the one-pass solver share: from scores to labels and probabilities."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin

from toptune.train.calibration import softmax


class ScoredClassifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """A classifier whose fit leaves ``classes_``, ``temperature_`` and scores of every class."""

    classes_: npt.NDArray[Any]
    temperature_: float

    @abstractmethod
    def scores(self, X: Any) -> npt.NDArray[np.float64]:
        """Scores (n, n_classes) of rows (n, d), also for two classes."""

    def decision_function(self, X: Any) -> npt.NDArray[np.float64]:
        """Scores (n, n_classes); for two classes the difference in favour of the second, (n,)."""
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
