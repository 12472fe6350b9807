"""`FalkonClassifier`: Nystrom kernel ridge classification, cross-validated in one pass."""

import time
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError
from toptune.machine.devices import device_of
from toptune.machine.memory import memory_limit_bytes
from toptune.machine.plans import plan_logger
from toptune.machine.precision import full_precision
from toptune.store.features.blocks import Blocks
from toptune.train.estimators.fit_report import report_of
from toptune.train.estimators.fit_rows import training_rows
from toptune.train.estimators.scored_classifier import ScoredClassifier, kernel_scores
from toptune.train.kernels.centers import choose_centers
from toptune.train.kernels.kernels import KERNELS, kernel_of, median_distance
from toptune.train.passes.dask_passes import open_cluster
from toptune.train.passes.training_rows import Cluster
from toptune.train.rows.block_reading import check_finite, refuse_non_finite, to_tensor
from toptune.train.rows.grids import check_single, grid_of
from toptune.train.solvers.falkon_lib import check_library
from toptune.train.solvers.kernel_fit import FitProblem, fit_kernel
from toptune.train.solvers.one_pass import RELATIVE_PENALTIES
from toptune.train.solvers.selection import check_selection
from toptune.train.solvers.solver_choice import SOLVERS, Sizes, choose_solver

# What a fit is going to do, said before it does it.

# Default widths, in multiples of the median distance between centers.
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
# Multiply-adds of the kernel's inner products up to which blocks are float64 too.
FLOAT64_WORK = 2e9
_MEDIAN_ROWS = 1000


class FalkonClassifier(ScoredClassifier):
    """Kernel ridge classification on Nystrom centers, width and penalty cross-validated in one pass.

    One-hot targets are regressed with an unpenalised intercept (features and targets centered by the
    means of the rows fitted, fold by fold, in closed form). `X` is used as given: standardise it in
    a pipeline, or train through `toptune.train.train`.

    Parameters
    ----------
    kernel : {"gaussian", "laplacian", "matern12", "matern32", "matern52", "linear"}
        Gaussian is ``exp(-d^2 / (2 sigma^2))``, Laplacian ``exp(-d / sigma)`` with Euclidean d.
    sigma, penalty : float, sequence of float or None
        Width, and λ of ``(1/n) loss + λ norm^2``. A number is fixed, a sequence is a grid, None a
        default grid: multiples `WIDTHS` of the median distance between centers, and
        `RELATIVE_PENALTIES` times the total variance of each width's features.
    n_centers : int
        Nystrom centers M; ``min(n_centers, n)`` are used.
    centers : {"uniform", "class-balanced", "kmeans++"} or array-like, shape (M, d)
        How centers are drawn from the training rows, see `choose_centers`; or the centers themselves.
    solver : {"auto", "direct", "falkon", "falkon-lib"}
        ``"direct"`` adds up Gram matrices in one pass; ``"falkon"`` chooses width, penalty and
        temperature that way on at most `SELECTION_CENTERS` of the centers and then fits on all of them
        by preconditioned conjugate gradient; ``"auto"`` takes the cheaper (see `choose_solver`).
        ``"falkon-lib"`` selects like ``"falkon"`` and leaves the last fit to FalkonML, where it is installed.
    cv : int, "leave-one-group-out" or None
        Folds. A class with fewer members makes it fewer, with a `FoldsReducedWarning`. None fits once, with
        the one width and the one penalty given, and calibrates on leave-one-out scores.
    selection : {"accuracy", "one-se", "squared-error"}
        Rule that chooses width and penalty by left-out figures; see `toptune.train.solvers.selection.choose`.
    class_weight : None, "balanced" or dict
    random_state : int, RandomState or None
        Seed of centers and folds.
    device : str or None
        torch device; None is the CPU.
    memory_limit_bytes : int or None
        Refuse a fit whose projected peak is above; None is half of the machine's memory.
    dask : str or None
        Address of a dask.distributed scheduler whose workers add up the sums, or ``local:N``.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    centers_ : ndarray, shape (rank, d)
    center_indices_ : ndarray of int64, shape (rank,), or None
        Training rows that are centers; None where the centers were given.
    dual_coef_ : ndarray of float64, shape (rank, n_classes)
    intercept_ : ndarray of float64, shape (n_classes,)
    sigma_, penalty_, temperature_ : float
        Chosen values; ``predict_proba`` is ``softmax(scores / temperature_)``.
    sums_ : SavedSums or None
        Sums of the fit, for `updated_sums`; None after an iterative fit.
    report_ : FitReport

    References
    ----------
    Williams & Seeger 2001 (Nystrom); Rudi, Carratino, Rosasco 2017 (FALKON's estimator).
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
        selection: str = "accuracy",
        class_weight: Any = None,
        random_state: Any = None,
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
        self.selection = selection
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes
        self.dask = dask

    def fit(self, X: Any, y: Any, *, groups: Sequence[str] | None = None) -> Self:
        """Fit to rows of features.

        Parameters
        ----------
        X : array-like or Blocks, shape (n, d)
            Blocks are streamed and never held whole.
        y : array-like, shape (n,)
            Labels.
        groups : sequence of str, optional
            Ids or groups of the rows: equal ones share a fold, and folds follow from them alone.

        Raises
        ------
        InputError
            For options out of range, rows that are not finite (named), fewer than two classes, or a
            projected peak above the memory limit.
        NumericalError
            If no combination of the grid can be solved.
        """
        self._check_options()
        with open_cluster(self.dask) as cluster, full_precision():
            return self._fit(X, y, groups, cluster)

    def _fit(self, X: Any, y: Any, groups: Sequence[str] | None, cluster: Cluster | None) -> Self:
        start = time.perf_counter()
        sigmas, penalties = grid_of(self.sigma, "sigma"), grid_of(self.penalty, "penalty")
        device = device_of(self.device)
        rows, classes, seed = training_rows(self, X, y, groups, cluster=cluster)
        blocks, codes, n_folds = rows.blocks, rows.codes, rows.n_folds
        n, d = blocks.shape
        limit_bytes = self.memory_limit_bytes or memory_limit_bytes()
        center_rows, values = self._centers(blocks, codes, seed=seed, limit_bytes=limit_bytes)
        is_exact = blocks.dtype == np.float64 or n * len(values) * d <= FLOAT64_WORK
        dtype = torch.float64 if is_exact else torch.float32
        choice = choose_solver(
            "direct" if cluster is not None else self.solver,
            Sizes(
                n=n,
                d=d,
                n_centers=len(values),
                n_classes=len(classes),
                n_widths=1 if self.kernel == "linear" else len(sigmas or WIDTHS),
                n_penalties=len(penalties or RELATIVE_PENALTIES),
                n_folds=n_folds,
                value_bytes=8 if is_exact else 4,
                limit_bytes=limit_bytes,
            ),
        )
        plan_logger.info("%s", choice)
        centers = to_tensor(values, dtype=dtype, device=device)
        widths: list[float | None] = [None]
        if self.kernel != "linear":
            spread = spread_of(centers)
            widths = list(sigmas or [multiple * median_distance(spread) for multiple in WIDTHS])
        kernels = [kernel_of(self.kernel, width) for width in widths]
        setup_seconds = time.perf_counter() - start
        fitted = fit_kernel(
            FitProblem(
                rows=rows, kernels=kernels, centers=centers, center_rows=center_rows, penalties=penalties,
                rule=None if self.cv is None else self.selection, choice=choice, seed=seed,
            )
        )  # fmt: skip
        self.classes_ = classes
        self.centers_ = fitted.centers.cpu().numpy()
        self.center_indices_ = None if center_rows is None else center_rows[fitted.kept]
        self.sums_ = fitted.sums
        self.dual_coef_ = fitted.dual.cpu().numpy()
        self.intercept_ = fitted.intercept.cpu().numpy()
        self.sigma_ = fitted.selection.chosen.sigma
        self.penalty_ = fitted.selection.chosen.penalty
        self.temperature_ = fitted.selection.temperature
        self.report_ = report_of(
            fitted.selection,
            rows,
            solver="nystrom" if choice.solver == "direct" else choice.solver,
            n_centers=len(values),
            rank=len(fitted.kept),
            n_dropped=len(values) - len(fitted.kept),
            smallest_pivot=fitted.smallest_pivot,
            precision="float64" if is_exact else "float32",
            peak_bytes=choice.peak_bytes,
            plan=choice.to_dict(),
            iteration=fitted.iteration,
            setup_seconds=setup_seconds,
        )
        return self

    def _centers(
        self, blocks: Blocks, codes: npt.NDArray[np.int64], *, seed: int, limit_bytes: int
    ) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[Any]]:
        """Rows of the centers, where they are rows, and their values (M, d)."""
        if isinstance(self.centers, str):
            chosen = choose_centers(
                codes, self.n_centers, how=self.centers, seed=seed, blocks=blocks, limit_bytes=limit_bytes
            )
            values = blocks.take(chosen)
            refuse_non_finite(values, chosen)
            return chosen, values
        given = np.asarray(self.centers)
        if given.ndim != 2 or len(given) == 0 or given.shape[1] != blocks.shape[1]:
            raise InputError(
                f"centers have shape {given.shape}; give (M, {blocks.shape[1]}) values, or the name of a way "
                "to draw them"
            )
        check_finite(given)
        return None, given

    def scores(self, X: Any) -> npt.NDArray[np.float64]:
        """Scores (n, n_classes) of rows (n, d), also for two classes."""
        return kernel_scores(self, X)

    def _check_options(self) -> None:
        check_kernel_options(self)
        check_selection(self.selection)
        if self.dask is not None and self.solver not in ("auto", "direct"):
            raise InputError(
                f"solver {self.solver!r} does not work on a dask cluster; use 'direct', whose sums its "
                "workers add up"
            )
        if self.cv is None:
            check_single("penalty", self.penalty)
            if self.kernel != "linear":
                check_single("sigma", self.sigma)
        if self.solver not in SOLVERS:
            raise InputError(f"solver {self.solver!r} is unknown; choose one of {', '.join(SOLVERS)}")
        if self.solver == "falkon-lib":
            check_library(self.device)


def check_kernel_options(estimator: Any) -> None:
    """Refuse an estimator's ``kernel``, ``n_centers`` or ``sigma`` with InputError."""
    kernel, n_centers = estimator.kernel, estimator.n_centers
    if kernel not in KERNELS:
        raise InputError(f"kernel {kernel!r} is unknown; choose one of {', '.join(KERNELS)}")
    if isinstance(n_centers, bool) or not isinstance(n_centers, Integral) or n_centers < 1:
        raise InputError(f"n_centers is {n_centers!r}; it must be a whole number above 0")
    if kernel == "linear" and estimator.sigma is not None:
        raise InputError(f"sigma is {estimator.sigma}, but the linear kernel has no width; leave it out")


def spread_of(centers: torch.Tensor) -> torch.Tensor:
    """Return the centers (M, d), or an even thousand of them, that default widths are taken from."""
    return centers[:: max(1, len(centers) // _MEDIAN_ROWS)]
