"""`FalkonLogisticClassifier`: Nystrom kernel softmax regression, for probabilities."""

import logging
import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from toptune.machine.devices import device_of
from toptune.machine.memory import memory_limit_bytes
from toptune.machine.precision import full_precision
from toptune.train.centers import choose_centers, refuse_non_finite
from toptune.train.falkon_classifier import FLOAT64_WORK, WIDTHS, check_kernel_options, spread_of
from toptune.train.fit_rows import rows_to_fit
from toptune.train.inputs import grid_of
from toptune.train.kernel_scores import kernel_scores
from toptune.train.kernels import kernel_of, median_distance
from toptune.train.logistic_fit import fit_logistic
from toptune.train.logistic_plan import plan_logistic
from toptune.train.logistic_report import logistic_report
from toptune.train.one_pass import RELATIVE_PENALTIES
from toptune.train.reading import to_tensor
from toptune.train.scored_classifier import ScoredClassifier
from toptune.train.solver_choice import Sizes

# What a fit is going to do, said before it does it.
plan_logger = logging.getLogger("toptune.train.plan")


class FalkonLogisticClassifier(ScoredClassifier):
    """Softmax regression on Nystrom centres: `FalkonClassifier` with the log-loss.

    Minimises ``(1/n) sum w_i logloss(softmax(f(x_i)), y_i) + penalty ||f||^2`` over f in the span of
    the centres plus intercepts that no penalty touches. Slower than the squared loss, which has its
    answer in closed form; its scores are log-probabilities by themselves. The width is chosen by
    squared loss in one pass, the penalty by the log-loss of the logistic fits' own left-out rows, both
    on at most 2000 of the centres, and the fit on all rows and centres follows. `X` is used as given:
    standardise it in a pipeline, or train through `toptune.train.train`.

    Parameters
    ----------
    kernel : {"gaussian", "laplacian", "matern12", "matern32", "matern52", "linear"}
    sigma : float, sequence of float or None
        Width; a number is fixed, a sequence a grid, None the multiples `WIDTHS` of the median distance
        between centres.
    penalty : float, sequence of float or None
        λ of ``(1/n) loss + λ norm^2``; scikit-learn's C is ``1 / (2 n λ)``. A number is fixed (its
        left-out figures are reported all the same), a sequence a grid, None a default grid in units of
        the total variance of the features. The grid is followed from its largest value down, and left
        once the left-out log-loss has risen twice.
    n_centers : int
        Nystrom centres M; ``min(n_centers, n)`` are used.
    centers : {"uniform", "class-balanced", "kmeans++"}
        How centres are drawn from the training rows; see `choose_centers`.
    cv : int or "leave-one-group-out"
        Folds. A class with fewer members makes it fewer, with a `FoldsReducedWarning`.
    class_weight : None, "balanced" or dict
    random_state : int, RandomState or None
        Seed of centres and folds.
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
    Marteau-Ferey, Bach & Rudi 2019 (generalised self-concordant losses); Meanti et al. 2020
    (LogisticFALKON, for two classes); see `toptune.train.logistic_path` for what is done here.
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
