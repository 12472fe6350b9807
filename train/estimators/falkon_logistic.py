"""`FalkonLogisticClassifier`: Nystrom kernel softmax regression, for probabilities."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from toptune.machine.plans import plan_logger
from toptune.train.estimators.arguments import ClassWeight, RandomState, RowsLike
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.estimators.fit_report import Basis, FitReport, Record
from toptune.train.estimators.kernel_ridge import (
    centers_of,
    check_kernel_options,
    kernels_of,
    sizes_of,
    takes_float64,
    usual_widths,
)
from toptune.train.estimators.scored_classifier import ScoredClassifier, kernel_scores
from toptune.train.logistic.fit import LogisticFit, fit_logistic
from toptune.train.logistic.plan import LogisticPlan, plan_logistic
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import to_tensor
from toptune.train.rows.grids import grid_of
from toptune.train.solvers.one_pass import RELATIVE_PENALTIES, SIGMOIDS


class FalkonLogisticClassifier(ScoredClassifier):
    """Softmax regression on Nystrom centers: `FalkonClassifier` with the log-loss.

    The fit minimizes ``(1/n) sum_i w_i logloss(softmax(f(x_i) + b), y_i) + penalty |f|^2`` over f in the span
    of the centers' kernel functions, with intercepts b that are not penalized. The log-loss takes longer
    than the squared loss, whose answer is in closed form, but scores are log-probabilities by themselves.
    The width is chosen by squared loss in one pass, and the penalty by the log-loss of the logistic fits' own
    left-out rows, both on at most 2,000 of the centers; the fit on all rows and centers follows. `X` is used
    as given: standardize it in a pipeline, or train through `toptune.train.train`.

    Parameters
    ----------
    kernel : {"gaussian", "laplacian", "matern12", "matern32", "matern52", "linear"}
        With Euclidean distance d, gaussian is ``exp(-d^2 / (2 sigma^2))`` and laplacian ``exp(-d / sigma)``.
    sigma : float, sequence of float or None
        Width of the kernel, in units of the features. A number is fixed, a sequence is a grid, None stands
        for the multiples `WIDTHS` of the median distance between centers, or for the widest of them with
        at most `FEW_ROWS` rows a class on average.
    penalty : float, sequence of float or None
        The λ of the equation above; scikit-learn's C is ``1 / (2 n λ)``. A number is fixed (its left-out
        figures are reported all the same), a sequence is a grid, None a default grid in units of the total
        variance of the features. The grid is followed from its largest value down, and left once the left-out
        log-loss has risen twice.
    n_centers : int
        Nystrom centers M; ``min(n_centers, n)`` are used.
    centers : {"uniform", "class-balanced", "kmeans++"} or array-like, shape (M, d)
        How centers are drawn from the training rows, see `choose_centers`; or the centers themselves.
    cv : int or "leave-one-group-out"
        Folds, over which rows or groups are dealt out within each class; or one fold for each group. A
        `FoldsReducedWarning` tells of fewer folds and of classes that lie in one.
    class_weight : None, "balanced" or dict
        Weights of the rows by their class; ``"balanced"`` weighs by the inverse of a class's frequency.
    random_state : int, RandomState or None
        Seed of the centers and folds.
    device : str or None
        torch device of the sums and products; None is the CPU.
    memory_limit_bytes : int or None
        A fit whose projected peak is above this, in main memory or on a CUDA device, is refused; None is half
        of the machine's memory, and 85 % of what is free on the device.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        Labels of the classes, sorted.
    centers_ : ndarray, shape (rank, d)
    center_indices_ : ndarray of int64, shape (rank,), or None
        Training rows that are centers; None where the centers were given.
    dual_coef_ : ndarray of float64, shape (rank, n_classes)
    intercept_ : ndarray of float64, shape (n_classes,)
        Scores of a row x are ``k(x, centers_) @ dual_coef_ + intercept_``.
    sigma_, penalty_ : float
        Chosen values; the width of the linear kernel is None.
    temperature_ : float
        Near 1. Probabilities are ``softmax(scores / temperature_)``.
    report_ : FitReport
        The ``squared_error`` is that of left-out probabilities (Brier score). The table has the penalties,
        then the widths that the squared loss compared.

    Raises
    ------
    InputError
        By ``fit``: for parameters out of range, rows that are not finite, fewer than two classes, or a
        projected peak above the memory limit.
    NumericalError
        By ``fit``: if no combination of the grid can be solved.

    References
    ----------
    Marteau-Ferey, Bach & Rudi 2019 (generalized self-concordant losses); Meanti et al. 2020 (LogisticFALKON,
    for two classes). `toptune.train.logistic.path` says what is done here.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from toptune.train import FalkonLogisticClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> head = FalkonLogisticClassifier(n_centers=20, penalty=1e-4, random_state=0).fit(X, y)
    >>> round(head.score(X, y), 2)
    0.98
    >>> 0.9 < head.temperature_ < 1.1
    True
    """

    takes_values: ClassVar[bool] = True

    def __init__(
        self,
        kernel: str = "gaussian",
        sigma: float | Sequence[float] | None = None,
        penalty: float | Sequence[float] | None = None,
        n_centers: int = 1000,
        centers: str | npt.ArrayLike = "uniform",
        cv: int | str = 5,
        class_weight: ClassWeight = None,
        random_state: RandomState = None,
        device: str | None = None,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self.kernel = kernel
        self.sigma = sigma
        self.penalty = penalty
        self.n_centers = n_centers
        self.centers = centers
        self.cv = cv
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes

    def _check(self) -> None:
        check_kernel_options(self)
        grid_of(self.penalty, "penalty")

    def _fit(self, given: FitInputs) -> npt.NDArray[np.floating] | None:
        rows = given.rows
        # The plan comes before the centers are drawn: a fit above the memory limit is refused at once.
        are_drawn = isinstance(self.centers, str)
        n_centers = min(self.n_centers, rows.n) if are_drawn else len(centers_of(self, given)[1])
        is_exact = takes_float64(rows.blocks, n_centers)
        plan = plan_logistic(
            sizes_of(self, given, n_centers, n_penalties=len(RELATIVE_PENALTIES), is_exact=is_exact),
            are_labels=rows.have_labels,
        )
        plan_logger.debug("%s", plan)
        if plan.kept_rows_bytes:
            rows = given.rows_on_device()
        center_rows, values = centers_of(self, given)
        centers = to_tensor(values, dtype=torch.float64 if is_exact else torch.float32, device=given.device)
        kernels = kernels_of(self, centers, usual_widths(rows))
        setup_seconds = given.seconds
        fitted = fit_logistic(
            rows, kernels, centers, penalties=grid_of(self.penalty, "penalty"), plan=plan, seed=given.seed
        )
        self.centers_ = fitted.centers.cpu().numpy()
        # Centers that others span are gone from the basis, and from the saved head with them.
        self.center_indices_ = None if center_rows is None else center_rows[fitted.whitening.kept]
        self.dual_coef_ = fitted.dual.cpu().numpy()
        self.intercept_ = fitted.intercept.cpu().numpy()
        self.sigma_, self.penalty_ = fitted.sigma, fitted.chosen.penalty
        self.temperature_ = fitted.chosen.temperature
        self.sigmoids_ = fitted.chosen.sigmoids
        self.report_ = logistic_report(
            fitted,
            rows,
            plan=plan,
            n_centers=len(values),
            is_exact=is_exact,
            setup_seconds=setup_seconds,
        )
        return fitted.chosen.left_out

    def scores(self, X: RowsLike) -> npt.NDArray[np.float64]:
        """Return the scores (n, n_classes) of rows (n, d), also for two classes."""
        return kernel_scores(self, X)


def logistic_report(
    fitted: LogisticFit,
    rows: TrainingRows,
    *,
    plan: LogisticPlan,
    n_centers: int,
    is_exact: bool,
    setup_seconds: float,
) -> FitReport:
    """Return the report of a fit that `fit_logistic` made."""
    chosen, whitening = fitted.chosen, fitted.whitening
    n, d = rows.blocks.shape
    basis = Basis(
        n_centers=n_centers,
        rank=whitening.rank,
        n_dropped=whitening.n_dropped,
        smallest_pivot=whitening.smallest_pivot,
    )
    return FitReport(
        solver="falkon-logistic",
        n_rows=n,
        n_features=d,
        n_folds=rows.n_folds,
        n_validated=rows.n_validated,
        n_centers=basis.n_centers,
        rank=basis.rank,
        n_dropped=basis.n_dropped,
        smallest_pivot=basis.smallest_pivot,
        precision="float64" if is_exact else "float32",
        jitter=fitted.jitter,
        # Left-out figures are of predictions here, which cannot cancel to below 0 as closed forms do.
        n_clipped=0,
        sigma=fitted.sigma,
        penalty=chosen.penalty,
        temperature=chosen.temperature,
        squared_error=chosen.squared_error,
        accuracy=chosen.accuracy,
        log_loss=chosen.log_loss,
        table=_table(fitted),
        warnings=basis.warned(fitted.warnings),
        n_passes=fitted.n_passes,
        peak_bytes=plan.peak_bytes,
        plan=plan.to_dict(),
        iteration=fitted.iteration,
        seconds={"setup": setup_seconds, **fitted.seconds},
        calibration=SIGMOIDS
        if rows.have_labels
        else "softmax of a logistic fit's scores with one temperature, near 1, fitted out of fold",
    )


def _table(fitted: LogisticFit) -> list[Record]:
    """Return the penalties of the logistic path, then what the choice of the width compared."""
    penalties: list[Record] = [
        {"loss": "logistic", "sigma": fitted.sigma, **row} for row in fitted.chosen.table
    ]
    widths: list[Record] = [
        {
            "loss": "squared",
            "sigma": row.sigma,
            "penalty": row.penalty,
            "squared_error": row.squared_error,
            "accuracy": row.accuracy,
            "log_loss": row.log_loss,
            "temperature": row.temperature,
            "is_chosen": False,
            "reason": None,
            "n_passes": None,
        }
        for row in fitted.widths
    ]
    return penalties + widths
