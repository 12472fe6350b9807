"""`StreamingRidgeClassifier`: linear ridge classification from one pass, penalty in closed form.

`LinearRidge` is how the fit is made, be it to classes, labels or numbers.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from toptune.train.estimators.arguments import ClassWeight, RandomState, RowsLike
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.estimators.fit_report import Basis, FitReport, partial_report, report_of
from toptune.train.estimators.scored_classifier import ScoredClassifier, ScoredEstimator
from toptune.train.kernels.linear_maps import linear_coefficients, linear_maps, linear_scores
from toptune.train.kernels.maps import IdentityMap, NystromMaps
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.partial.partial_fit import PartialClassifier
from toptune.train.partial.running_sums import RunningSums
from toptune.train.passes.peak_memory import host_peak_bytes, one_pass_peak_bytes
from toptune.train.passes.targets import in_target_unit
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.grids import check_single, grid_of
from toptune.train.rows.inputs import Given
from toptune.train.solvers.one_pass import RELATIVE_PENALTIES, held_fits, solve
from toptune.train.solvers.saved_sums import SavedSums
from toptune.train.solvers.selection import check_selection
from toptune.train.solvers.single_fit import solve_once
from toptune.train.solvers.unknown_labels import with_known_labels


class LinearRidge(ScoredEstimator):
    """Ridge regression on the columns themselves; see `StreamingRidgeClassifier` and `RidgeRegressor`.

    A subclass has the parameters of `RidgeRegressor` and, for classes, ``selection`` and ``class_weight``.
    """

    needs_folds: ClassVar[bool] = False
    takes_values: ClassVar[bool] = True

    penalty: float | Sequence[float] | None
    cv: int | str | None
    selection: str = "squared-error"
    device: str | None
    memory_limit_bytes: int | None
    dask: str | None
    coef_: npt.NDArray[np.float64]
    intercept_: npt.NDArray[np.float64]
    sums_: SavedSums | None
    report_: FitReport

    def _check(self) -> None:
        grid_of(self.penalty, "penalty")
        check_selection(self.selection)
        if self.cv is None:
            check_single("penalty", self.penalty)

    def _fit(self, given: FitInputs) -> npt.NDArray[np.floating] | None:
        n, d = given.rows.blocks.shape
        penalties, device = grid_of(self.penalty, "penalty"), given.device
        # The smaller Gram matrix has min(n, d) rows, whether the fit is primal or dual.
        block_rows = given.block_rows(rank=min(n, d))
        rows, peak_bytes = self._plan(given, block_rows=block_rows)
        maps = linear_maps(rows.blocks, device=device)
        setup_seconds = given.seconds
        if self.cv is None:
            penalty = (penalties or [0.0])[0]
            solution = solve_once(rows, maps, None, penalty=penalty, block_rows=block_rows, device=device)
        else:
            solution = solve(
                rows,
                maps,
                [None],
                penalties=penalties,
                block_rows=block_rows,
                device=device,
                selection=self.selection,
            )
        if given.has_unknown:
            solution = with_known_labels(solution, rows, maps, block_rows=block_rows, device=device)
        coefficients, self.intercept_ = in_target_unit(
            linear_coefficients(maps, solution.beta[:-1]), solution.beta[-1], given.scaling
        )
        self.coef_ = np.ascontiguousarray(coefficients.T)
        # In the dual the basis is the span of the rows, outside of which rows that are added later may lie.
        self.sums_ = None if isinstance(maps, NystromMaps) else SavedSums.of(solution.sums)
        self.penalty_ = solution.chosen.penalty
        self._take_calibration(solution, given)
        self.report_ = report_of(
            solution,
            rows,
            # In the dual all rows are centers of the linear kernel.
            Basis(
                n_centers=n if isinstance(maps, NystromMaps) else 0,
                rank=maps.ranks[0],
                smallest_pivot=maps.whitenings[0].smallest_pivot if isinstance(maps, NystromMaps) else 1.0,
            ),
            solver="dual" if isinstance(maps, NystromMaps) else "primal",
            precision="float64",
            peak_bytes=peak_bytes,
            plan={"peak_bytes": peak_bytes, "limit_bytes": given.limit_bytes},
            setup_seconds=setup_seconds,
        )
        return solution.left_out

    def _plan(self, given: FitInputs, *, block_rows: int) -> tuple[TrainingRows, int]:
        """Return the rows and the projected peak in bytes, or refuse a fit that is above the memory limit."""
        rows, (n, d) = given.rows, given.rows.blocks.shape
        n_penalties = len(grid_of(self.penalty, "penalty") or RELATIVE_PENALTIES)
        peak_bytes = one_pass_peak_bytes(
            n=n, d=d, rank=min(n, d), n_maps=1, n_classes=rows.n_classes, n_folds=rows.n_places,
            block_rows=block_rows, n_finalists=min(3, n_penalties),
            n_fits=held_fits(rank=min(n, d), n_penalties=n_penalties, n_folds=rows.n_places),
            n_calibration=min(n, CALIBRATION_ROWS),
        )  # fmt: skip
        host_bytes = host_peak_bytes(
            n=n, d=d, rank=min(n, d), n_maps=int(n < d), n_classes=rows.n_classes, n_folds=rows.n_places,
            n_finalists=min(3, n_penalties), block_rows=block_rows, keeps_sums=d <= n,
        )  # fmt: skip
        given.check_memory(
            peak_bytes,
            host_bytes=host_bytes,
            what=f"ridge on {n} rows of {d} features",
            instead="take fewer layers, head 'falkon' with fewer centers, or raise --memory-limit",
        )
        return given.planned_rows(peak_bytes, name="ridge")

    def _begin_partial(self, first: Given, settings: Mapping[str, str]) -> RunningSums:
        given = FitInputs.of_block(self, first)
        d = first.blocks.shape[1]
        n_penalties, n_folds = len(RELATIVE_PENALTIES), given.rows.n_folds
        given.check_memory(
            one_pass_peak_bytes(
                n=2 * CALIBRATION_ROWS, d=d, rank=d, n_maps=1, n_classes=given.rows.n_classes,
                n_folds=n_folds, block_rows=given.block_rows(rank=d), n_finalists=3,
                n_fits=held_fits(rank=d, n_penalties=n_penalties, n_folds=n_folds),
                n_calibration=CALIBRATION_ROWS,
            ),
            what=f"ridge on blocks of {d} features",
            instead="take fewer layers, or raise memory_limit_bytes",
        )  # fmt: skip
        return given.running(IdentityMap(d), [None], settings)

    def _fit_partial(self, running: RunningSums) -> None:
        solution, given = self._solve_partial(running, grid_of(self.penalty, "penalty"), self.selection)
        coefficients, self.intercept_ = in_target_unit(solution.beta[:-1], solution.beta[-1], given.scaling)
        self.coef_ = np.ascontiguousarray(coefficients.T)
        self.sums_ = SavedSums.of(solution.sums)
        self.penalty_ = solution.chosen.penalty
        basis = Basis(n_centers=0, rank=running.maps.ranks[0], smallest_pivot=1.0)
        self.report_ = partial_report(solution, given, basis, running, solver="primal")

    def scores(self, X: RowsLike) -> npt.NDArray[np.float64]:
        """Return the scores (n, n_classes) of rows (n, d), also for two classes."""
        return linear_scores(self, X)


class StreamingRidgeClassifier(LinearRidge, PartialClassifier, ScoredClassifier):
    """Ridge regression of one-hot targets on the features, the penalty cross-validated in one pass.

    The fit minimizes ``(1/n) sum_i w_i |y_i - W^T x_i - b|^2 + penalty |W|^2`` over W and an intercept b that
    is not penalized, from the same sums as `FalkonClassifier`. With at least as many rows as
    features the Gram matrix is of features (primal). With fewer rows it is of rows (dual): the linear kernel
    with all rows as centers, which is the same estimator.

    Parameters
    ----------
    penalty : float, sequence of float or None
        The λ of the equation above. A number is fixed, a sequence is a grid, None stands for
        `RELATIVE_PENALTIES` times the total variance of the features.
    cv : int, "leave-one-group-out" or None
        Folds, over which rows or groups are dealt out within each class; or one fold for each group. A
        `FoldsReducedWarning` tells of fewer folds and of classes that lie in one. None fits once, with the
        one penalty given, and calibrates the probabilities on leave-one-out scores.
    selection : {"accuracy", "one-se", "squared-error"}
        Rule that chooses the penalty by left-out figures; see `choose_candidate`.
    class_weight : None, "balanced" or dict
        Weights of the rows by their class; ``"balanced"`` weighs by the inverse of a class's frequency.
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
    classes_ : ndarray, shape (n_classes,)
        Labels of the classes, sorted.
    coef_ : ndarray of float64, shape (n_classes, d)
    intercept_ : ndarray of float64, shape (n_classes,)
        Scores of a row x are ``coef_ @ x + intercept_``.
    penalty_ : float
        Chosen value.
    temperature_ : float
        Probabilities are ``softmax(scores / temperature_)``.
    sums_ : SavedSums or None
        Sums of a fit in the primal, with which a run is updated; None in the dual.
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
    Hastie, Tibshirani & Friedman 2009, sections 3.4.1 and 4.2 (ridge regression; indicator matrix).

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from toptune.train import StreamingRidgeClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> head = StreamingRidgeClassifier(random_state=0).fit(X, y)
    >>> round(head.score(X, y), 2)
    0.85
    >>> head.report_.solver
    'primal'
    """

    def __init__(
        self,
        penalty: float | Sequence[float] | None = None,
        cv: int | str | None = 5,
        selection: str = "accuracy",
        class_weight: ClassWeight = None,
        random_state: RandomState = None,
        device: str | None = None,
        memory_limit_bytes: int | None = None,
        dask: str | None = None,
    ) -> None:
        self.penalty = penalty
        self.cv = cv
        self.selection = selection
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes
        self.dask = dask
