"""`FalkonLogisticClassifier`: Nystrom kernel softmax regression, for probabilities."""

import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from toptune.machine.devices import device_of
from toptune.machine.memory import memory_limit_bytes
from toptune.machine.plans import plan_logger
from toptune.machine.precision import full_precision
from toptune.train.estimators.falkon import FLOAT64_WORK, WIDTHS, check_kernel_options, spread_of
from toptune.train.estimators.fit_report import FitReport
from toptune.train.estimators.fit_rows import rows_to_fit
from toptune.train.estimators.scored_classifier import ScoredClassifier, kernel_scores
from toptune.train.kernels.centers import choose_centers
from toptune.train.kernels.kernels import kernel_of, median_distance
from toptune.train.logistic.fit import LogisticFit, fit_logistic
from toptune.train.logistic.plan import LogisticPlan, plan_logistic
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import refuse_non_finite, to_tensor
from toptune.train.rows.grids import grid_of
from toptune.train.solvers.one_pass import RELATIVE_PENALTIES
from toptune.train.solvers.solver_choice import Sizes

# What a fit is going to do, said before it does it.


class FalkonLogisticClassifier(ScoredClassifier):
    """Softmax regression on Nystrom centers: `FalkonClassifier` with the log-loss.

    Minimizes ``(1/n) sum w_i logloss(softmax(f(x_i)), y_i) + penalty ||f||^2`` over f in the span of
    the centers plus intercepts that no penalty touches. Slower than the squared loss, which has its
    answer in closed form; its scores are log-probabilities by themselves. The width is chosen by
    squared loss in one pass, the penalty by the log-loss of the logistic fits' own left-out rows, both
    on at most 2000 of the centers, and the fit on all rows and centers follows. `X` is used as given:
    standardise it in a pipeline, or train through `toptune.train.train`.

    Parameters
    ----------
    kernel : {"gaussian", "laplacian", "matern12", "matern32", "matern52", "linear"}
    sigma : float, sequence of float or None
        Width; a number is fixed, a sequence a grid, None the multiples `WIDTHS` of the median distance
        between centers.
    penalty : float, sequence of float or None
        λ of ``(1/n) loss + λ norm^2``; scikit-learn's C is ``1 / (2 n λ)``. A number is fixed (its
        left-out figures are reported all the same), a sequence a grid, None a default grid in units of
        the total variance of the features. The grid is followed from its largest value down, and left
        once the left-out log-loss has risen twice.
    n_centers : int
        Nystrom centers M; ``min(n_centers, n)`` are used.
    centers : {"uniform", "class-balanced", "kmeans++"}
        How centers are drawn from the training rows; see `choose_centers`.
    cv : int or "leave-one-group-out"
        Folds. A class with fewer members makes it fewer, with a `FoldsReducedWarning`.
    class_weight : None, "balanced" or dict
    random_state : int, RandomState or None
        Seed of centers and folds.
    device : str or None
        torch device; None is the CPU.
    memory_limit_bytes : int or None
        Refuse a fit whose projected peak is above; None is half of the machine's memory.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    centers_ : ndarray, shape (rank, d)
    dual_coef_ : ndarray of float64, shape (rank, n_classes)
    intercept_ : ndarray of float64, shape (n_classes,)
    sigma_, penalty_, temperature_ : float
        Chosen values; ``predict_proba`` is ``softmax(scores / temperature_)``, the temperature near 1.
    report_ : FitReport
        Its ``squared_error`` is that of left-out probabilities (Brier score); its table has the penalties,
        then the widths that the squared loss compared.

    References
    ----------
    Marteau-Ferey, Bach & Rudi 2019 (generalized self-concordant losses); Meanti et al. 2020
    (LogisticFALKON, for two classes); see `toptune.train.logistic.path` for what is done here.
    """

    def __init__(
        self,
        kernel: str = "gaussian",
        sigma: float | Sequence[float] | None = None,
        penalty: float | Sequence[float] | None = None,
        n_centers: int = 1000,
        centers: str = "uniform",
        cv: int | str = 5,
        class_weight: Any = None,
        random_state: Any = None,
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

    def fit(self, X: Any, y: Any, *, groups: Sequence[str] | None = None) -> Self:
        """Fit to rows of features; parameters and errors as in `FalkonClassifier.fit`."""
        with full_precision():
            return self._fit(X, y, groups)

    def _fit(self, X: Any, y: Any, groups: Sequence[str] | None) -> Self:
        start = time.perf_counter()
        check_kernel_options(self)
        sigmas, penalties = grid_of(self.sigma, "sigma"), grid_of(self.penalty, "penalty")
        device = device_of(self.device)
        rows, classes, seed = rows_to_fit(self, X, y, groups)
        blocks, codes, n_folds = rows.blocks, rows.codes, rows.n_folds
        n, d = blocks.shape
        n_centers = min(self.n_centers, n)
        is_exact = blocks.dtype == np.float64 or n * n_centers * d <= FLOAT64_WORK
        plan = plan_logistic(
            Sizes(
                n=n,
                d=d,
                n_centers=n_centers,
                n_classes=len(classes),
                n_widths=1 if self.kernel == "linear" else len(sigmas or WIDTHS),
                n_penalties=len(RELATIVE_PENALTIES),
                n_folds=n_folds,
                value_bytes=8 if is_exact else 4,
                limit_bytes=self.memory_limit_bytes or memory_limit_bytes(),
            )
        )
        plan_logger.info("%s", plan)
        center_rows = choose_centers(
            codes, self.n_centers, how=self.centers, seed=seed, blocks=blocks, limit_bytes=plan.limit_bytes
        )
        values = blocks.take(center_rows)
        refuse_non_finite(values, center_rows)
        centers = to_tensor(values, dtype=torch.float64 if is_exact else torch.float32, device=device)
        widths: list[float | None] = [None]
        if self.kernel != "linear":
            spread = spread_of(centers)
            widths = list(sigmas or [multiple * median_distance(spread) for multiple in WIDTHS])
        setup_seconds = time.perf_counter() - start
        fitted = fit_logistic(
            rows,
            [kernel_of(self.kernel, width) for width in widths],
            centers,
            penalties=penalties,
            plan=plan,
            seed=seed,
        )
        self.classes_ = classes
        self.centers_ = fitted.centers.cpu().numpy()
        self.dual_coef_ = fitted.dual.cpu().numpy()
        self.intercept_ = fitted.intercept.cpu().numpy()
        self.sigma_ = fitted.sigma
        self.penalty_ = fitted.chosen.penalty
        self.temperature_ = fitted.chosen.temperature
        self.report_ = logistic_report(
            fitted,
            rows,
            plan=plan,
            n_centers=len(center_rows),
            is_exact=is_exact,
            setup_seconds=setup_seconds,
        )
        return self

    def scores(self, X: Any) -> npt.NDArray[np.float64]:
        """Scores (n, n_classes) of rows (n, d), also for two classes."""
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
    """Put together what a fit has to say."""
    chosen, whitening = fitted.chosen, fitted.whitening
    n, d = rows.blocks.shape
    warnings = list(fitted.warnings)
    if whitening.n_dropped:
        warnings.insert(
            0, f"{whitening.n_dropped} of {n_centers} centers are spanned by the others and were dropped"
        )
    return FitReport(
        solver="falkon-logistic",
        n_rows=n,
        n_features=d,
        n_folds=rows.n_folds,
        n_centers=n_centers,
        rank=whitening.rank,
        n_dropped=whitening.n_dropped,
        smallest_pivot=whitening.smallest_pivot,
        precision="float64" if is_exact else "float32",
        jitter=fitted.jitter,
        n_clipped=0,
        sigma=fitted.sigma,
        penalty=chosen.penalty,
        temperature=chosen.temperature,
        squared_error=chosen.squared_error,
        accuracy=chosen.accuracy,
        log_loss=chosen.log_loss,
        table=_table(fitted),
        warnings=warnings,
        n_passes=fitted.n_passes,
        peak_bytes=plan.peak_bytes,
        plan=plan.to_dict(),
        iteration=fitted.iteration,
        seconds={"setup": setup_seconds, **fitted.seconds},
        calibration="softmax of a logistic fit's scores with one temperature, near 1, fitted out of fold",
    )


def _table(fitted: LogisticFit) -> list[dict[str, Any]]:
    """Return the penalties of the logistic path, then what the choice of the width compared."""
    penalties = [{"loss": "logistic", "sigma": fitted.sigma, **row} for row in fitted.chosen.table]
    widths = [
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
