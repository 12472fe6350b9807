"""`StreamingRidgeClassifier`: linear ridge classification from one pass, penalty in closed form."""

import time
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from toptune.machine.devices import device_of
from toptune.machine.memory import check_memory, memory_limit_bytes
from toptune.machine.plans import plan_logger
from toptune.train.estimators.fit_report import report_of
from toptune.train.estimators.fit_rows import training_rows
from toptune.train.estimators.scored_classifier import ScoredClassifier
from toptune.train.kernels.linear_maps import linear_coefficients, linear_maps, linear_scores
from toptune.train.kernels.maps import NystromMaps
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.passes.dask_passes import open_cluster
from toptune.train.passes.peak_memory import one_pass_peak_bytes
from toptune.train.passes.training_rows import Cluster
from toptune.train.rows.block_reading import block_rows_for
from toptune.train.rows.grids import check_single, grid_of
from toptune.train.solvers.one_pass import RELATIVE_PENALTIES, solve
from toptune.train.solvers.saved_sums import SavedSums
from toptune.train.solvers.selection import check_selection
from toptune.train.solvers.single_fit import solve_once

# What a fit is going to do, said before it does it.


class StreamingRidgeClassifier(ScoredClassifier):
    """Ridge regression of one-hot targets on the features, the penalty cross-validated in one pass.

    The same sums as `FalkonClassifier`, with the features themselves in place of kernel features.
    With at least as many rows as features the Gram matrix is of features (primal); with fewer it is
    of rows (the linear kernel on all rows as centers, which is the same estimator).

    Parameters
    ----------
    penalty : float, sequence of float or None
        λ of ``(1/n) loss + λ norm^2``; a number is fixed, a sequence a grid, None a default grid in
        units of the total variance of the features.
    cv : int, "leave-one-group-out" or None
        Folds; None fits once, with the one penalty given, and calibrates on leave-one-out scores.
    selection : {"accuracy", "one-se", "squared-error"}
        Rule that chooses the penalty by left-out figures; see `toptune.train.solvers.selection.choose`.
    class_weight : None, "balanced" or dict
    random_state : int, RandomState or None
        Seed of the folds.
    device : str or None
    memory_limit_bytes : int or None
        Refuse a fit whose projected peak is above; None is half of the machine's memory.
    dask : str or None
        Address of a dask.distributed scheduler whose workers add up the sums, or ``local:N``.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    coef_ : ndarray of float64, shape (n_classes, d)
    intercept_ : ndarray of float64, shape (n_classes,)
    penalty_, temperature_ : float
    sums_ : SavedSums or None
        Sums of a fit in the primal, for `updated_sums`.
    report_ : FitReport
    """

    def __init__(
        self,
        penalty: float | Sequence[float] | None = None,
        cv: int | str | None = 5,
        selection: str = "accuracy",
        class_weight: Any = None,
        random_state: Any = None,
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

    def fit(self, X: Any, y: Any, *, groups: Sequence[str] | None = None) -> Self:
        """Fit to rows of features; parameters and errors as in `FalkonClassifier.fit`."""
        with open_cluster(self.dask) as cluster:
            return self._fit(X, y, groups, cluster)

    def _fit(self, X: Any, y: Any, groups: Sequence[str] | None, cluster: Cluster | None) -> Self:
        start = time.perf_counter()
        penalties, device = grid_of(self.penalty, "penalty"), device_of(self.device)
        rows, classes, _ = training_rows(self, X, y, groups, cluster=cluster)
        blocks, n_folds = rows.blocks, rows.n_folds
        n, d = blocks.shape
        size = min(n, d)
        limit_bytes = self.memory_limit_bytes or memory_limit_bytes()
        block_rows = block_rows_for(d=d, rank=size, limit_bytes=limit_bytes)
        n_penalties = len(penalties or RELATIVE_PENALTIES)
        peak_bytes = one_pass_peak_bytes(
            n=n, d=d, rank=size, n_maps=1, n_classes=len(classes), n_folds=n_folds, block_rows=block_rows,
            n_penalties=n_penalties, n_finalists=min(3, n_penalties), n_calibration=min(n, CALIBRATION_ROWS),
        )  # fmt: skip
        check_memory(
            peak_bytes,
            limit_bytes=limit_bytes,
            what=f"ridge on {n} rows of {d} features",
            instead="take fewer layers, head 'falkon' with fewer centers, or raise --memory-limit",
        )
        plan_logger.info(
            "ridge: about %d MiB; memory limit %d MiB", peak_bytes // 2**20, limit_bytes // 2**20
        )
        maps = linear_maps(blocks, device=device)
        setup_seconds = time.perf_counter() - start
        if self.cv is None:
            check_single("penalty", self.penalty)
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
                selection=check_selection(self.selection),
            )
        rank = maps.ranks[0]
        self.classes_ = classes
        self.coef_ = np.ascontiguousarray(linear_coefficients(maps, solution.beta[:-1]).T.cpu().numpy())
        self.intercept_ = solution.beta[-1].cpu().numpy()
        self.sums_ = None if isinstance(maps, NystromMaps) else SavedSums.of(solution.sums)
        self.penalty_ = solution.chosen.penalty
        self.temperature_ = solution.temperature
        self.report_ = report_of(
            solution,
            rows,
            solver="primal" if d <= n else "dual",
            n_centers=0 if d <= n else n,
            rank=rank,
            n_dropped=0,
            smallest_pivot=1.0 if d <= n else maps.whitenings[0].smallest_pivot,  # type: ignore[union-attr]
            precision="float64",
            peak_bytes=peak_bytes,
            plan={"peak_bytes": peak_bytes, "limit_bytes": limit_bytes},
            setup_seconds=setup_seconds,
        )
        return self

    def scores(self, X: Any) -> npt.NDArray[np.float64]:
        """Scores (n, n_classes) of rows (n, d), also for two classes."""
        return linear_scores(self, X)
