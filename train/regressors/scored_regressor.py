"""`ScoredRegressor`: what regressors have in common beside what all estimators have."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import RegressorMixin

from toptune.train.estimators.arguments import RowsLike
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.estimators.scored_classifier import ScoredEstimator
from toptune.train.solvers.one_pass import Solution


class ScoredRegressor(RegressorMixin, ScoredEstimator):  # type: ignore[misc]
    """A regressor whose fit leaves a way to predict one or several numbers a row.

    Targets are standardized before the fit, so that targets of any unit weigh alike, and predictions are in
    the unit of the targets.

    Attributes
    ----------
    target_mean_, target_scale_ : ndarray of float64, shape (n_targets,)
        Means and standard deviations by which the targets were standardized.
    n_targets_ : int
    """

    gives_numbers: ClassVar[bool] = True
    takes_values: ClassVar[bool] = True
    target_mean_: npt.NDArray[np.float64]
    target_scale_: npt.NDArray[np.float64]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        return tags

    def _take_classes(self, given: FitInputs) -> None:
        self.n_targets_ = given.rows.n_classes
        self._is_flat = given.is_flat
        assert given.scaling is not None
        self.target_mean_, self.target_scale_ = given.scaling.mean, given.scaling.scale

    def _take_calibration(self, found: Solution, given: FitInputs) -> None:
        """Numbers are not calibrated."""

    def predict(self, X: RowsLike) -> npt.NDArray[np.float64]:
        """Return the numbers of rows (n, d): (n,) if the targets were (n,), else (n, n_targets)."""
        scores = self.scores(X)
        return scores[:, 0] if self._is_flat else scores
