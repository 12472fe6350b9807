"""`RidgeRegressor`: linear ridge regression of numbers from one pass, penalty in closed form."""

from collections.abc import Sequence

from toptune.train.estimators.arguments import RandomState
from toptune.train.estimators.ridge import LinearRidge
from toptune.train.partial.partial_fit import PartialRegressor
from toptune.train.regressors.scored_regressor import ScoredRegressor


class RidgeRegressor(LinearRidge, PartialRegressor, ScoredRegressor):
    """Ridge regression of numbers on the features, the penalty cross-validated in one pass.

    The fit minimizes ``(1/n) sum_i |y_i - W^T x_i - b|^2 + penalty |W|^2`` over W and an intercept b that is
    not penalized, from the same sums as `FalkonRegressor`. Targets y are standardized inside and share one
    penalty: that of least left-out squared error.

    Parameters
    ----------
    penalty : float, sequence of float or None
        The λ of the equation above, for targets of variance 1. A number is fixed, a sequence is a grid, None
        stands for `RELATIVE_PENALTIES` times the total variance of the features.
    cv : int, "leave-one-group-out" or None
        Folds over which rows or groups are dealt out, or one fold for each group. None fits once, with the
        one penalty given.
    random_state : int, RandomState or None
        Seed of the folds.
    device : str or None
        torch device of the sums and products; None is the CPU.
    memory_limit_bytes : int or None
        A fit whose projected peak is above this, in main memory or on a CUDA device, is refused; None is half
        of the machine's memory, and 85 % of what is free on the device.
    dask : str or None
        Address of a dask.distributed scheduler whose workers add up the sums, or ``local:N``.

    Attributes
    ----------
    coef_ : ndarray of float64, shape (n_targets, d)
    intercept_ : ndarray of float64, shape (n_targets,)
        Predictions for a row x are ``coef_ @ x + intercept_``, in the unit of the targets.
    penalty_ : float
        Chosen value.
    target_mean_, target_scale_ : ndarray of float64, shape (n_targets,)
        Means and standard deviations by which the targets were standardized.
    left_out_scores_ : LeftOutScores or None
        Predictions for training rows by fits that left them out, in the unit of the targets.
    sums_ : SavedSums or None
        Sums of a fit in the primal, of standardized targets; None in the dual.
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
    Hoerl & Kennard 1970; Hastie, Tibshirani & Friedman 2009, section 3.4.1.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from toptune.train import RidgeRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> head = RidgeRegressor(random_state=0).fit(X, y)
    >>> round(head.score(X, y), 1)
    0.5
    """

    def __init__(
        self,
        penalty: float | Sequence[float] | None = None,
        cv: int | str | None = 5,
        random_state: RandomState = None,
        device: str | None = None,
        memory_limit_bytes: int | None = None,
        dask: str | None = None,
    ) -> None:
        self.penalty = penalty
        self.cv = cv
        self.random_state = random_state
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes
        self.dask = dask
