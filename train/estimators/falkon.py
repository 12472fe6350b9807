"""`FalkonClassifier`: Nystrom kernel ridge classification, cross-validated in one pass."""

import time
from collections.abc import Sequence
from numbers import Integral
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted

from toptune.errors import InputError
from toptune.machine.plans import plan_logger
from toptune.machine.precision import full_precision
from toptune.options import check_choice
from toptune.store.features.blocks import Blocks, row_slices
from toptune.train.estimators.arguments import ClassWeight, RandomState, RowsLike
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.estimators.fit_report import Basis, report_of
from toptune.train.estimators.scored_classifier import ScoredClassifier, kernel_scores
from toptune.train.kernels.centers import choose_centers
from toptune.train.kernels.kernels import Linear, Radial, kernel_of, median_distance
from toptune.train.kernels.maps import NystromMaps
from toptune.train.kernels.names import check_kernel
from toptune.train.numerics.calibration import softmax
from toptune.train.rows.block_reading import check_finite, to_tensor
from toptune.train.rows.grids import check_single, grid_of
from toptune.train.solvers.device_rates import DEFAULT_SHARE, float32_share
from toptune.train.solvers.falkon_lib import check_library
from toptune.train.solvers.kernel_fit import FitProblem, fit_kernel
from toptune.train.solvers.left_out_scores import left_out_scores
from toptune.train.solvers.one_pass import RELATIVE_PENALTIES
from toptune.train.solvers.selection import check_selection
from toptune.train.solvers.solver_choice import SOLVERS, Sizes, choose_solver

# Default widths, in multiples of the median distance between centers.
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
# Up to this many multiply-adds of the kernel's inner products, kernel values are float64 even where the rows
# are float32. Above, float32 products take half the time; sums and systems are float64 in any case.
FLOAT64_WORK = 2e9
# The median distance is taken among an even thousand of the centers, because the number of distances grows
# with the square of the number of centers.
_MEDIAN_ROWS = 1000


class FalkonClassifier(ScoredClassifier):
    """Kernel ridge classification on Nystrom centers, width and penalty cross-validated in one pass.

    One-hot targets y are regressed: the fit minimizes
    ``(1/n) sum_i w_i |y_i - f(x_i) - b|^2 + penalty |f|^2`` over f in the span of the centers' kernel
    functions, with an intercept b that is not penalized. Features and targets are centered by the means of
    the rows fitted, fold by fold, in closed form. `X` is used as given: standardize it in a pipeline, or
    train through `toptune.train.train`.

    Parameters
    ----------
    kernel : {"gaussian", "laplacian", "matern12", "matern32", "matern52", "linear"}
        With Euclidean distance d, gaussian is ``exp(-d^2 / (2 sigma^2))`` and laplacian ``exp(-d / sigma)``.
    sigma : float, sequence of float or None
        Width of the kernel, in units of the features. A number is fixed, a sequence is a grid, None stands
        for the multiples `WIDTHS` of the median distance between centers.
    penalty : float, sequence of float or None
        The λ of the equation above. A number is fixed, a sequence is a grid, None stands for
        `RELATIVE_PENALTIES` times the total variance of each width's features.
    n_centers : int
        Nystrom centers M; ``min(n_centers, n)`` are used.
    centers : {"uniform", "class-balanced", "kmeans++"} or array-like, shape (M, d)
        How centers are drawn from the training rows, see `choose_centers`; or the centers themselves.
    solver : {"auto", "direct", "falkon", "falkon-lib"}
        ``"direct"`` adds up Gram matrices in one pass. ``"falkon"`` chooses width, penalty and temperature
        by these sums on at most `SELECTION_CENTERS` of the centers and then fits on all centers by
        preconditioned conjugate gradient. ``"auto"`` takes the cheaper of these two, see `choose_solver`.
        ``"falkon-lib"`` selects like ``"falkon"`` and leaves the last fit to FalkonML, if FalkonML is
        installed.
    cv : int, "leave-one-group-out" or None
        Folds, over which rows or groups are dealt out within each class; or one fold for each group. A
        `FoldsReducedWarning` tells of fewer folds and of classes that lie in one. None fits once, with the
        one width and penalty given, and calibrates the probabilities on leave-one-out scores.
    selection : {"accuracy", "one-se", "squared-error"}
        Rule that chooses width and penalty by left-out figures; see `choose_candidate`.
    class_weight : None, "balanced" or dict
        Weights of the rows by their class; ``"balanced"`` weighs by the inverse of a class's frequency.
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
        Probabilities are ``softmax(scores / temperature_)``.
    sums_ : SavedSums or None
        Sums that the fit was made from, with which a run is updated; None after an iterative fit.
    report_ : FitReport

    Raises
    ------
    InputError
        By ``fit``: for parameters out of range, rows that are not finite, fewer than two classes, or a
        projected peak above the memory limit.
    NumericalError
        By ``fit``: if no combination of the grid can be solved.

    References
    ----------
    Williams & Seeger 2001 (Nystrom method); Rudi, Carratino & Rosasco 2017, Alg. 1 (FALKON).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from toptune.train import FalkonClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> head = FalkonClassifier(n_centers=30, random_state=0).fit(X, y)
    >>> round(head.score(X, y), 2)
    0.99
    >>> head.centers_.shape
    (30, 4)
    """

    needs_folds: ClassVar[bool] = False

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
        class_weight: ClassWeight = None,
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
        self.selection = selection
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes
        self.dask = dask

    def _check(self) -> None:
        check_kernel_options(self)
        grid_of(self.penalty, "penalty")
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
        check_choice(self.solver, SOLVERS, option="solver")
        if self.solver == "falkon-lib":
            check_library(self.device)

    def _fit(self, given: FitInputs) -> npt.NDArray[np.floating] | None:
        rows = given.rows
        center_rows, values = self._centers(given)
        is_exact = takes_float64(rows.blocks, len(values))
        penalties = grid_of(self.penalty, "penalty")
        choice = choose_solver(
            # The workers of a cluster add up sums, and only the direct solver works on sums alone.
            "direct" if rows.cluster is not None else self.solver,
            sizes_of(
                self, given, len(values), n_penalties=len(penalties or RELATIVE_PENALTIES), is_exact=is_exact
            ),
        )
        plan_logger.debug("%s", choice)
        if choice.kept_rows_bytes:
            rows = given.rows_on_device()
        centers = to_tensor(values, dtype=torch.float64 if is_exact else torch.float32, device=given.device)
        kernels = kernels_of(self, centers)
        setup_seconds = given.seconds
        fitted = fit_kernel(
            FitProblem(
                rows=rows, kernels=kernels, centers=centers, center_rows=center_rows, penalties=penalties,
                rule=None if self.cv is None else self.selection, choice=choice, seed=given.seed,
            )
        )  # fmt: skip
        self.centers_ = fitted.centers.cpu().numpy()
        # Centers that others span are gone from the basis, and from the saved head with them.
        self.center_indices_ = None if center_rows is None else center_rows[fitted.kept]
        self.sums_ = fitted.sums
        self.dual_coef_ = fitted.dual.cpu().numpy()
        self.intercept_ = fitted.intercept.cpu().numpy()
        self.sigma_, self.penalty_ = fitted.selection.chosen.sigma, fitted.selection.chosen.penalty
        self.temperature_ = fitted.selection.temperature
        self.report_ = report_of(
            fitted.selection,
            rows,
            Basis(
                n_centers=len(values),
                rank=len(fitted.kept),
                n_dropped=len(values) - len(fitted.kept),
                smallest_pivot=fitted.smallest_pivot,
            ),
            solver="nystrom" if choice.solver == "direct" else choice.solver,
            precision="float64" if is_exact else "float32",
            peak_bytes=choice.peak_bytes,
            plan=choice.to_dict(),
            iteration=fitted.iteration,
            setup_seconds=setup_seconds,
        )
        return fitted.selection.left_out

    def _centers(self, given: FitInputs) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.number]]:
        """Return which rows are centers (None: the centers are given), and the centers (M, d)."""
        if isinstance(self.centers, str):
            return drawn_centers(given, self.n_centers, how=self.centers)
        values = np.asarray(self.centers)
        d = given.rows.blocks.shape[1]
        if values.ndim != 2 or len(values) == 0 or values.shape[1] != d:
            raise InputError(
                f"centers have shape {values.shape}; give (M, {d}) values, or the name of a way to draw them"
            )
        check_finite(values)
        return None, values

    def scores(self, X: RowsLike) -> npt.NDArray[np.float64]:
        """Return the scores (n, n_classes) of rows (n, d), also for two classes."""
        return kernel_scores(self, X)

    def left_out_probabilities(
        self, X: RowsLike, y: npt.ArrayLike, *, groups: Sequence[str] | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the probabilities of each row by a fit that has not seen the fold of the row.

        Kernel, centers, penalty and temperature are those of this fit, and so are the folds if the arguments
        are. All folds are solved from the sums of one pass, and a second pass scores the rows.

        Parameters
        ----------
        X, y, groups
            The arguments of `fit`.

        Returns
        -------
        ndarray of float32, shape (n, n_classes)
            Rows sum to 1. NaN for the rows of classes that lie in one fold: no fit without them knows the
            class.

        Raises
        ------
        InputError
            If this classifier was fitted with ``cv=None`` and has no folds, or the probabilities of all rows
            are above the memory limit.
        NumericalError
            If the fit without a fold cannot be solved.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> head = FalkonClassifier(n_centers=30, random_state=0).fit(X, y)
        >>> left = head.left_out_probabilities(X, y)
        >>> left.shape, bool((left.argmax(axis=1) == y).mean() > 0.9)
        ((150, 3), True)
        """
        check_is_fitted(self)
        if self.cv is None:
            raise InputError("cv is None, so that no rows are left out; fit with a number of folds")
        with full_precision():
            given = FitInputs.of(self, X, y, groups=groups, cluster=None, start=time.perf_counter())
            rows = given.rows
            given.check_memory(
                3 * 4 * rows.n * rows.n_classes,
                host_bytes=3 * 4 * rows.n * rows.n_classes,
                what=f"left-out probabilities of {rows.n} rows in {rows.n_classes} classes",
                instead="raise --memory-limit",
            )
            dtype = torch.float64 if self.centers_.dtype == np.float64 else torch.float32
            centers = to_tensor(self.centers_, dtype=dtype, device=given.device)
            maps = NystromMaps.on([kernel_of(self.kernel, self.sigma_)], centers, keep_grams=True)
            scores = left_out_scores(
                rows,
                maps,
                penalty=self.penalty_,
                block_rows=given.block_rows(rank=len(centers)),
                device=given.device,
            )
        for some in row_slices(scores.shape, scores.dtype):
            scores[some] = softmax(scores[some], self.temperature_)
        return scores


class KernelParameters(Protocol):
    """The parameters that both kernel classifiers have."""

    kernel: str
    sigma: float | Sequence[float] | None
    n_centers: int


def check_kernel_options(estimator: KernelParameters) -> None:
    """Refuse a ``kernel``, ``n_centers`` or ``sigma`` out of range with InputError."""
    kernel, n_centers = estimator.kernel, estimator.n_centers
    check_kernel(kernel)
    if isinstance(n_centers, bool) or not isinstance(n_centers, Integral) or n_centers < 1:
        raise InputError(f"n_centers is {n_centers!r}; it must be a whole number above 0")
    if kernel == "linear" and estimator.sigma is not None:
        raise InputError(f"sigma is {estimator.sigma}, but the linear kernel has no width; leave it out")
    grid_of(estimator.sigma, "sigma")


def takes_float64(blocks: Blocks, n_centers: int) -> bool:
    """Tell whether kernel values are float64: for float64 rows, and where float64 costs little."""
    n, d = blocks.shape
    return bool(blocks.dtype == np.float64) or n * n_centers * d <= FLOAT64_WORK


def sizes_of(
    estimator: KernelParameters, given: FitInputs, n_centers: int, *, n_penalties: int, is_exact: bool
) -> Sizes:
    """Return the sizes that the choice of a solver depends on."""
    n, d = given.rows.blocks.shape
    n_widths = 1 if estimator.kernel == "linear" else len(grid_of(estimator.sigma, "sigma") or WIDTHS)
    # Measured only where the answer decides something: between solvers, of float32 kernel values.
    is_asked = not is_exact and getattr(estimator, "solver", None) == "auto"
    share = float32_share(given.device, limit_bytes=given.limit_bytes) if is_asked else DEFAULT_SHARE
    return Sizes(
        n=n,
        d=d,
        n_centers=n_centers,
        n_classes=given.rows.n_classes,
        n_widths=n_widths,
        n_penalties=n_penalties,
        n_folds=given.rows.n_places,
        value_bytes=8 if is_exact else 4,
        limit_bytes=given.limit_bytes,
        device=given.limits.device,
        host_limit_bytes=given.limits.host_bytes,
        rows_bytes=given.kept_rows_bytes,
        float32_share=share,
    )


def drawn_centers(
    given: FitInputs, n_centers: int, *, how: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.number]]:
    """Draw centers as `choose_centers`; return the rows that are centers, and the centers (M, d)."""
    chosen = choose_centers(
        given.rows.codes, n_centers, how=how, seed=given.seed, blocks=given.rows.blocks,
        limit_bytes=given.limits.host_bytes,
    )  # fmt: skip
    values = given.rows.blocks.take(chosen)
    # The pass over the rows comes later, and a center that is not finite would spoil every kernel value.
    check_finite(values, rows=chosen)
    return chosen, values


def kernels_of(estimator: KernelParameters, centers: torch.Tensor) -> list[Radial | Linear]:
    """Return a kernel of each width: the widths given, or multiples of the centers' median distance."""
    if estimator.kernel == "linear":
        return [kernel_of("linear", None)]
    widths = grid_of(estimator.sigma, "sigma")
    if widths is None:
        # Drawn centers are in the order of the rows, which may be sorted by class: every k-th center
        # represents all of them, and the first thousand might not.
        some = centers[:: max(1, len(centers) // _MEDIAN_ROWS)]
        widths = [multiple * median_distance(some) for multiple in WIDTHS]
    return [kernel_of(estimator.kernel, width) for width in widths]
