"""`KernelRidge`: how Nystrom kernel ridge regression fits, be it to classes, labels or numbers."""

import time
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from toptune.errors import InputError
from toptune.machine.plans import plan_logger
from toptune.machine.precision import full_precision
from toptune.options import check_choice
from toptune.store.features.blocks import Blocks
from toptune.train.estimators.arguments import RowsLike, Values
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.estimators.fit_report import Basis, FitReport, partial_report, report_of
from toptune.train.estimators.scored_classifier import ScoredEstimator, kernel_scores
from toptune.train.kernels.centers import choose_centers
from toptune.train.kernels.kernels import Linear, Radial, kernel_of, median_distance
from toptune.train.kernels.maps import NystromMaps
from toptune.train.kernels.names import check_kernel
from toptune.train.partial.running_sums import RunningSums
from toptune.train.passes.targets import in_target_unit
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import check_finite, to_tensor
from toptune.train.rows.grids import check_single, grid_of
from toptune.train.rows.inputs import Given
from toptune.train.solvers.device_rates import DEFAULT_SHARE, float32_share
from toptune.train.solvers.falkon_lib import check_library
from toptune.train.solvers.kernel_fit import FitProblem, fit_kernel
from toptune.train.solvers.left_out_scores import left_out_scores
from toptune.train.solvers.one_pass import RELATIVE_PENALTIES, Solution
from toptune.train.solvers.saved_sums import SavedSums
from toptune.train.solvers.selection import check_selection
from toptune.train.solvers.solver_choice import SOLVERS, Sizes, choose_solver

# Default widths, in multiples of the median distance between centers.
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
# Up to this many rows a class on average, too few rows are left out to choose a width by, and a narrow one is
# taken by chance. The widest is taken alone, which gained 2 to 6 points on the mean of the sets measured.
FEW_ROWS = 10
# Up to this many multiply-adds of the kernel's inner products, kernel values are float64 even where the rows
# are float32. Above, float32 products take half the time; sums and systems are float64 in any case.
FLOAT64_WORK = 2e9
# The median distance is taken among an even thousand of the centers, because the number of distances grows
# with the square of the number of centers.
_MEDIAN_ROWS = 1000


class KernelRidge(ScoredEstimator):
    """Kernel ridge regression on Nystrom centers; see `FalkonClassifier` and `FalkonRegressor`.

    A subclass has the parameters of `FalkonRegressor` and, for classes, ``selection`` and ``class_weight``.
    """

    needs_folds: ClassVar[bool] = False
    takes_values: ClassVar[bool] = True

    kernel: str
    sigma: float | Sequence[float] | None
    penalty: float | Sequence[float] | None
    n_centers: int
    centers: str | npt.ArrayLike
    solver: str
    cv: int | str | None
    selection: str = "squared-error"
    device: str | None
    memory_limit_bytes: int | None
    dask: str | None
    centers_: Values
    dual_coef_: npt.NDArray[np.float64]
    intercept_: npt.NDArray[np.float64]
    sums_: SavedSums | None
    report_: FitReport

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
        if given.has_unknown and self.solver not in ("auto", "direct"):
            raise InputError(
                f"solver {self.solver!r} knows all labels of all rows, and some are unknown (NaN); use "
                "'direct'"
            )
        center_rows, values = centers_of(self, given)
        is_exact = takes_float64(rows.blocks, len(values))
        penalties = grid_of(self.penalty, "penalty")
        choice = choose_solver(
            # The workers of a cluster add up sums, and only the direct solver works on sums alone.
            # Labels that are unknown in some rows have systems of their own, which begin with these sums.
            "direct" if rows.cluster is not None or given.has_unknown else self.solver,
            sizes_of(
                self, given, len(values), n_penalties=len(penalties or RELATIVE_PENALTIES), is_exact=is_exact
            ),
        )
        plan_logger.debug("%s", choice)
        if choice.kept_rows_bytes:
            rows = given.rows_on_device()
        centers = to_tensor(values, dtype=torch.float64 if is_exact else torch.float32, device=given.device)
        kernels = kernels_of(self, centers, usual_widths(rows))
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
        self._take_fit(fitted.selection, given, fitted.dual, fitted.intercept)
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

    def _begin_partial(self, first: Given, settings: Mapping[str, str]) -> RunningSums:
        given = FitInputs.of_block(self, first)
        self._partial_center_rows, values = centers_of(self, given)
        choice = choose_solver(
            "direct",
            # A first block may be small; what is chosen among stands for all blocks.
            sizes_of(
                self, given, len(values), n_penalties=len(RELATIVE_PENALTIES), is_exact=True, usual=WIDTHS
            ),
        )
        plan_logger.debug("%s", choice)
        centers = to_tensor(values, dtype=torch.float64, device=given.device)
        kernels = kernels_of(self, centers)
        return given.running(NystromMaps.on(kernels, centers), [kernel.sigma for kernel in kernels], settings)

    def _fit_partial(self, running: RunningSums) -> None:
        solution, given = self._solve_partial(running, grid_of(self.penalty, "penalty"), self.selection)
        maps = running.maps
        assert isinstance(maps, NystromMaps)
        whitening = maps.whitenings[solution.map_index]
        kept, dual = maps.coefficients(solution.map_index, solution.beta[:-1])
        self.centers_ = kept.cpu().numpy()
        rows = self._partial_center_rows
        self.center_indices_ = None if rows is None else rows[whitening.kept]
        self.sums_ = SavedSums.of(solution.sums, maps.factors[solution.map_index])
        self._take_fit(solution, given, dual, solution.beta[-1])
        basis = Basis(
            n_centers=len(maps.centers),
            rank=whitening.rank,
            n_dropped=whitening.n_dropped,
            smallest_pivot=whitening.smallest_pivot,
        )
        self.report_ = partial_report(solution, given, basis, running, solver="nystrom")

    def _take_fit(self, found: Solution, given: FitInputs, dual: Tensor, intercept: Tensor) -> None:
        """Set what scores rows, in the unit of the targets."""
        self.dual_coef_, self.intercept_ = in_target_unit(dual, intercept, given.scaling)
        self.sigma_, self.penalty_ = found.chosen.sigma, found.chosen.penalty
        self._take_calibration(found, given)

    def scores(self, X: RowsLike) -> npt.NDArray[np.float64]:
        """Return the scores (n, n_classes) of rows (n, d), also for two classes."""
        return kernel_scores(self, X)

    def _left_out_scores(
        self, X: RowsLike, y: npt.ArrayLike, *, groups: Sequence[str] | None
    ) -> npt.NDArray[np.float32]:
        """Return the scores (n, n_classes) of all rows by fits without their folds; of standardized numbers.

        Raises
        ------
        InputError
            If this estimator was fitted with ``cv=None``, or the scores are above the memory limit.
        NumericalError
            If the fit without a fold cannot be solved.
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
                what=f"left-out answers for {rows.n} rows and {rows.n_classes} classes or targets",
                instead="raise --memory-limit",
            )
            dtype = torch.float64 if self.centers_.dtype == np.float64 else torch.float32
            centers = to_tensor(self.centers_, dtype=dtype, device=given.device)
            maps = NystromMaps.on([kernel_of(self.kernel, self.sigma_)], centers, keep_grams=True)
            return left_out_scores(
                rows,
                maps,
                penalty=self.penalty_,
                block_rows=given.block_rows(rank=len(centers)),
                device=given.device,
            )


class KernelParameters(Protocol):
    """The parameters that both kernel classifiers have."""

    kernel: str
    sigma: float | Sequence[float] | None
    n_centers: int
    centers: str | npt.ArrayLike


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
    estimator: KernelParameters,
    given: FitInputs,
    n_centers: int,
    *,
    n_penalties: int,
    is_exact: bool,
    usual: Sequence[float] | None = None,
) -> Sizes:
    """Return the sizes that the choice of a solver depends on."""
    n, d = given.rows.blocks.shape
    n_widths = (
        1
        if estimator.kernel == "linear"
        else len(grid_of(estimator.sigma, "sigma") or usual or usual_widths(given.rows))
    )
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


def centers_of(
    estimator: KernelParameters, given: FitInputs
) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.number]]:
    """Return which rows are centers (None: the centers are given), and the centers (M, d).

    Raises
    ------
    InputError
        For centers that are not finite or of another number of columns than the rows.
    """
    if isinstance(estimator.centers, str):
        return drawn_centers(given, estimator.n_centers, how=estimator.centers)
    values = np.asarray(estimator.centers)
    d = given.rows.blocks.shape[1]
    if values.ndim != 2 or len(values) == 0 or values.shape[1] != d:
        raise InputError(
            f"centers have shape {values.shape}; give (M, {d}) values, or the name of a way to draw them"
        )
    check_finite(values)
    return None, values


def drawn_centers(
    given: FitInputs, n_centers: int, *, how: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.number]]:
    """Draw centers as `choose_centers`; return the rows that are centers, and the centers (M, d)."""
    if how == "class-balanced" and given.rows.targets is not None:
        raise InputError(
            "centers is 'class-balanced', but the rows have no classes to balance; give 'uniform' or "
            "'kmeans++'"
        )
    chosen = choose_centers(
        given.rows.codes, n_centers, how=how, seed=given.seed, blocks=given.rows.blocks,
        limit_bytes=given.limits.host_bytes,
    )  # fmt: skip
    values = given.rows.blocks.take(chosen)
    # The pass over the rows comes later, and a center that is not finite would spoil every kernel value.
    check_finite(values, rows=chosen)
    return chosen, values


def usual_widths(rows: TrainingRows) -> Sequence[float]:
    """Return the default widths as multiples of the median distance: the widest of few rows a class."""
    has_classes = rows.targets is None
    return WIDTHS[-1:] if has_classes and rows.n <= FEW_ROWS * rows.n_classes else WIDTHS


def kernels_of(
    estimator: KernelParameters, centers: torch.Tensor, usual: Sequence[float] = WIDTHS
) -> list[Radial | Linear]:
    """Return a kernel of each width: the widths given, or multiples of the centers' median distance."""
    if estimator.kernel == "linear":
        return [kernel_of("linear", None)]
    widths = grid_of(estimator.sigma, "sigma")
    if widths is None:
        # Drawn centers are in the order of the rows, which may be sorted by class: every k-th center
        # represents all of them, and the first thousand might not.
        median = median_distance(centers[:: max(1, len(centers) // _MEDIAN_ROWS)])
        widths = [multiple * median for multiple in usual]
    return [kernel_of(estimator.kernel, width) for width in widths]
