"""`FalkonRegressor`: Nystrom kernel ridge regression of numbers, cross-validated in one pass."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from toptune.train.estimators.arguments import RandomState, RowsLike
from toptune.train.estimators.kernel_ridge import KernelRidge
from toptune.train.partial.partial_fit import PartialRegressor
from toptune.train.passes.targets import Scaling
from toptune.train.regressors.scored_regressor import ScoredRegressor


class FalkonRegressor(KernelRidge, PartialRegressor, ScoredRegressor):
    """Kernel ridge regression on Nystrom centers, width and penalty cross-validated in one pass.

    The fit minimizes ``(1/n) sum_i |y_i - f(x_i) - b|^2 + penalty |f|^2`` over f in the span of the centers'
    kernel functions, with an intercept b that is not penalized. Targets y are standardized inside, and all of
    them share one width and one penalty: those of least left-out squared error. `X` is used as given:
    standardize it in a pipeline, or train through `toptune.train.train`.

    Parameters
    ----------
    kernel : {"gaussian", "laplacian", "matern12", "matern32", "matern52", "linear"}
        With Euclidean distance d, gaussian is ``exp(-d^2 / (2 sigma^2))`` and laplacian ``exp(-d / sigma)``.
    sigma : float, sequence of float or None
        Width of the kernel, in units of the features. A number is fixed, a sequence is a grid, None stands
        for the multiples `WIDTHS` of the median distance between centers.
    penalty : float, sequence of float or None
        The λ of the equation above, for targets of variance 1. A number is fixed, a sequence is a grid, None
        stands for `RELATIVE_PENALTIES` times the total variance of each width's features.
    n_centers : int
        Nystrom centers M; ``min(n_centers, n)`` are used.
    centers : {"uniform", "kmeans++"} or array-like, shape (M, d)
        How centers are drawn from the training rows, see `choose_centers`; or the centers themselves.
    solver : {"auto", "direct", "falkon", "falkon-lib"}
        As of `FalkonClassifier`.
    cv : int, "leave-one-group-out" or None
        Folds over which rows or groups are dealt out, or one fold for each group. None fits once, with the
        one width and penalty given.
    random_state : int, RandomState or None
        Seed of the centers and folds.
    device : str or None
        torch device of the sums and products; None is the CPU.
    memory_limit_bytes : int or None
        A fit whose projected peak is above this, in main memory or on a CUDA device, is refused; None is half
        of the machine's memory, and 85 % of what is free on the device.
    dask : str or None
        Address of a dask.distributed scheduler whose workers add up the sums, or ``local:N``.

    Attributes
    ----------
    centers_ : ndarray, shape (rank, d)
    center_indices_ : ndarray of int64, shape (rank,), or None
        Training rows that are centers; None where the centers were given.
    dual_coef_ : ndarray of float64, shape (rank, n_targets)
    intercept_ : ndarray of float64, shape (n_targets,)
        Predictions for a row x are ``k(x, centers_) @ dual_coef_ + intercept_``, in the unit of the targets.
    sigma_, penalty_ : float
        Chosen values; the width of the linear kernel is None.
    target_mean_, target_scale_ : ndarray of float64, shape (n_targets,)
        Means and standard deviations by which the targets were standardized.
    left_out_scores_ : LeftOutScores or None
        Predictions for training rows by fits that left them out, in the unit of the targets.
    sums_ : SavedSums or None
        Sums that the fit was made from, of standardized targets; None after an iterative fit.
    report_ : FitReport
        Squared errors are of standardized targets, summed over them.

    Raises
    ------
    InputError
        By ``fit``: for parameters out of range, rows or targets that are not finite, or a projected
        peak above the memory limit.
    NumericalError
        By ``fit``: if no combination of the grid can be solved.

    References
    ----------
    Saunders, Gammerman & Vovk 1998 (kernel ridge regression); Rudi, Carratino & Rosasco 2017 (FALKON).

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from toptune.train import FalkonRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> head = FalkonRegressor(n_centers=100, random_state=0).fit(X, y)
    >>> round(head.score(X, y), 1)
    0.5
    """

    def __init__(
        self,
        kernel: str = "gaussian",
        sigma: float | Sequence[float] | None = None,
        penalty: float | Sequence[float] | None = None,
        n_centers: int = 1000,
        centers: str | npt.ArrayLike = "uniform",
        solver: str = "auto",
        cv: int | str | None = 5,
        random_state: RandomState = None,
        device: str | None = None,
        memory_limit_bytes: int | None = None,
        dask: str | None = None,
    ) -> None:
        self.kernel = kernel
        self.sigma = sigma
        self.penalty = penalty
        self.n_centers = n_centers
        self.centers = centers
        self.solver = solver
        self.cv = cv
        self.random_state = random_state
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes
        self.dask = dask

    def left_out_predictions(
        self, X: RowsLike, y: npt.ArrayLike, *, groups: Sequence[str] | None = None
    ) -> npt.NDArray[np.float64]:
        """Return the numbers of each row by a fit that has not seen the fold of the row.

        Kernel, centers and penalty are those of this fit, and so are the folds if the arguments are.

        Parameters
        ----------
        X, y, groups
            The arguments of `fit`.

        Returns
        -------
        ndarray of float64, shape (n, n_targets)
            In the unit of the targets.

        Raises
        ------
        InputError
            If this regressor was fitted with ``cv=None`` and has no folds, or the predictions of all rows are
            above the memory limit.
        NumericalError
            If the fit without a fold cannot be solved.
        """
        scores = self._left_out_scores(X, y, groups=groups)
        return Scaling(mean=self.target_mean_, scale=self.target_scale_).restored(scores)
