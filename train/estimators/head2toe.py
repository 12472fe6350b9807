"""`Head2ToeClassifier`: columns of all layers chosen by the group lasso, and a head on those kept."""

import time
from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted

from toptune.errors import InputError
from toptune.machine.devices import device_of
from toptune.machine.memory import memory_limit_bytes
from toptune.machine.plans import plan_logger
from toptune.machine.precision import full_precision
from toptune.train.estimators.falkon import FalkonClassifier
from toptune.train.estimators.fit_rows import training_rows
from toptune.train.estimators.head2toe_final import FINALS, Final, fit_final
from toptune.train.estimators.ridge import StreamingRidgeClassifier
from toptune.train.estimators.scored_classifier import ScoredClassifier
from toptune.train.head2toe.columns import SELECTIONS, Columns, Layers
from toptune.train.head2toe.cross_validation import Comparison, compare, fit_ridge
from toptune.train.head2toe.fold_moments import FoldMoments, SummedFolds
from toptune.train.head2toe.held_folds import HeldFolds
from toptune.train.head2toe.plan import Plan, plan_head2toe
from toptune.train.head2toe.ranking import Ranking, gram_paths, rules_of, softmax_paths
from toptune.train.head2toe.report import FinalFit, Head2ToeReport, head2toe_report
from toptune.train.head2toe.selected_blocks import SelectedBlocks
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.rows.block_reading import block_rows_for
from toptune.train.rows.grids import grid_of
from toptune.train.rows.inputs import predict_inputs

SOLVERS = ("gram", "softmax")
FRACTIONS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SHARES = (0.3, 0.1, 0.03)


class Head2ToeClassifier(ScoredClassifier):
    """Head2Toe (Evci et al. 2022): a group lasso ranks the columns of all layers, the best are kept.

    A column's score is the length of its weights over the classes. Fraction, group penalty and the ridge
    penalty of the head on what is kept are cross-validated on the rows given, with the ranking made anew
    without each fold. Columns are taken as they are: Head2Toe divides each layer by its length first (step
    ``l2`` of `toptune.train.fit_preprocessing`).

    Parameters
    ----------
    solver : {"gram", "softmax"}
        What ranks: the squared loss on centered columns, from their second moments without a further pass;
        or the paper's cross-entropy without intercept, in many passes over the rows.
    selection : {"feature", "layer"}
        Rank columns over all layers together, or keep whole layers by the mean score of their columns.
    fraction : float, sequence of float or None
        Share of the columns (or layers) to keep, above 0 and at most 1; None compares a grid, with all
        columns and the last layer alone among the candidates.
    group_penalty : float, sequence of float or None
        As a share, below 1, of the smallest penalty at which no column has a weight; None compares a grid.
    final : {"ridge", "logistic", "falkon"}
        Head on the columns kept: ridge regression from the same moments; or `StreamingLogisticClassifier`
        or `FalkonClassifier` on the rows, which choose their own penalty (and width)
        within the rows that they are fitted to.
    penalty : float, sequence of float or None
        Of the ridge regression; None compares a grid in units of the kept columns' total variance.
    unit_norm : bool
        Divide what is kept of each layer by its length once more, as the paper does, for finals
        ``"logistic"`` and ``"falkon"``. Ridge regression from moments takes the columns as they are.
    layer_dims : sequence of int or None
        Columns of each layer, in order; None takes what Blocks say, else one layer.
    cv : int or "leave-one-group-out"
    class_weight : None, "balanced" or dict
    random_state : int, RandomState or None
        Seed of the folds.
    device : str or None
    memory_limit_bytes : int or None
        Refuse a fit whose projected peak is above; None is half of the machine's memory.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    columns_ : ndarray of int64, shape (k,)
        Positions of the columns kept, ascending; nothing else of a row is read.
    kept_dims_ : ndarray of int64
        How many of them are of each layer that has any.
    coef_ : ndarray of float64, shape (n_classes, k) or, of final ``"falkon"``, (n_classes, n_centers)
    intercept_ : ndarray of float64, shape (n_classes,)
    centers_ : ndarray, shape (n_centers, k)
        Of final ``"falkon"``; no rows otherwise.
    sigma_ : float or None
    penalty_, temperature_ : float
    report_ : Head2ToeReport
    """

    def __init__(
        self,
        solver: str = "gram",
        selection: str = "feature",
        fraction: float | Sequence[float] | None = None,
        group_penalty: float | Sequence[float] | None = None,
        final: str = "ridge",
        penalty: float | Sequence[float] | None = None,
        unit_norm: bool = True,
        layer_dims: Sequence[int] | None = None,
        cv: int | str = 5,
        class_weight: Any = None,
        random_state: Any = None,
        device: str | None = None,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self.solver = solver
        self.selection = selection
        self.fraction = fraction
        self.group_penalty = group_penalty
        self.final = final
        self.penalty = penalty
        self.unit_norm = unit_norm
        self.layer_dims = layer_dims
        self.cv = cv
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.memory_limit_bytes = memory_limit_bytes

    def fit(self, X: Any, y: Any, *, groups: Sequence[str] | None = None) -> Self:
        """Fit to rows of features; parameters and errors as in `FalkonClassifier.fit`."""
        self._check_options()
        with full_precision():
            return self._fit(X, y, groups)

    def _fit(self, X: Any, y: Any, groups: Sequence[str] | None) -> Self:
        start = time.perf_counter()
        device = device_of(self.device)
        rows, classes, seed = training_rows(self, X, y, groups)
        n, d = rows.blocks.shape
        layers = Layers.of(X, d, self.layer_dims)
        if self.selection == "layer" and len(layers.dims) == 1:
            raise InputError(
                "selection 'layer' chooses among layers and there is one; give layer_dims, train on --layers "
                "all with a preprocessing that keeps layers apart, or take selection 'feature'"
            )
        limit_bytes = self.memory_limit_bytes or memory_limit_bytes()
        block_rows = block_rows_for(d=d, rank=min(n, d), limit_bytes=limit_bytes)
        plan = plan_head2toe(
            n=n, d=d, n_classes=len(classes), n_folds=rows.n_folds, n_shares=len(self._shares()),
            solver=self.solver, block_rows=block_rows, limit_bytes=limit_bytes,
        )  # fmt: skip
        plan_logger.info("%s", plan)
        seconds, clock = {"setup": time.perf_counter() - start}, time.perf_counter()
        form = SummedFolds if plan.form == "sums" else HeldFolds
        moments: FoldMoments = form.over(rows, block_rows=block_rows, device=device)
        seconds["pass"], clock = time.perf_counter() - clock, time.perf_counter()
        paths = (
            softmax_paths(rows, self._shares(), is_held=plan.is_held, block_rows=block_rows, device=device)
            if self.solver == "softmax"
            else gram_paths(moments, rows.n_folds, self._shares())
        )
        ranking = Ranking(paths=paths, layers=layers, selection=self.selection)
        seconds["ranking"], clock = time.perf_counter() - clock, time.perf_counter()
        rules = rules_of(
            len(paths[0]),
            _grid(self.fraction, "fraction", FRACTIONS),
            ranking,
            with_last=self.fraction is None,
        )
        comparison = compare(rows, moments, ranking, rules, penalties=grid_of(self.penalty, "penalty"))
        seconds["comparison"], clock = time.perf_counter() - clock, time.perf_counter()
        columns = ranking.columns(comparison.rule, None)
        final = self._finish(rows, moments, ranking, comparison, columns, classes, groups, seed, device)
        seconds["final"] = time.perf_counter() - clock
        seconds["total"] = time.perf_counter() - start
        self.classes_ = classes
        self.report_ = self._report(rows, ranking, comparison, final, plan, seconds)
        return self

    def _finish(
        self,
        rows: TrainingRows,
        moments: FoldMoments,
        ranking: Ranking,
        comparison: Comparison,
        columns: Columns,
        classes: npt.NDArray[Any],
        groups: Sequence[str] | None,
        seed: int,
        device: torch.device,
    ) -> Final | None:
        """Fit the final head to all rows and keep it; the figures of one fitted to rows."""
        counts = ranking.layers.counts(columns)
        self.columns_, self.kept_dims_ = columns, np.array([count for count in counts if count])
        self.centers_, self.sigma_ = np.zeros((0, len(columns))), None
        if self.final == "ridge":
            beta = fit_ridge(
                moments.without(None), torch.from_numpy(columns).to(device), comparison.chosen.penalty
            )
            self.coef_, self.intercept_ = beta[:-1].T.cpu().numpy(), beta[-1].cpu().numpy()
            self.penalty_ = comparison.chosen.penalty
            self.temperature_ = comparison.chosen.temperature or 1.0
            return None
        class_weight = self.class_weight
        if isinstance(class_weight, dict):
            class_weight = {code: class_weight.get(name, 1.0) for code, name in enumerate(classes.tolist())}
        final = fit_final(
            self.final, rows, lambda fold: ranking.columns(comparison.rule, fold), ranking.layers,
            unit_norm=self.unit_norm, class_weight=class_weight, groups=groups,
            options={
                "cv": self.cv, "random_state": seed, "device": self.device,
                "memory_limit_bytes": self.memory_limit_bytes,
            },
        )  # fmt: skip
        fitted = final.estimator
        if self.final == "falkon":
            self.coef_, self.centers_, self.sigma_ = fitted.dual_coef_.T, fitted.centers_, fitted.sigma_
        else:
            self.coef_ = fitted.coef_
        self.intercept_, self.penalty_ = fitted.intercept_, fitted.penalty_
        self.temperature_ = final.calibrated.value
        return final

    def _report(
        self,
        rows: TrainingRows,
        ranking: Ranking,
        comparison: Comparison,
        final: Final | None,
        plan: Plan,
        seconds: dict[str, float],
    ) -> Head2ToeReport:
        fitted = FinalFit(
            name=self.final,
            penalty=self.penalty_,
            sigma=self.sigma_,
            temperature=self.temperature_,
            left_out=None if final is None else (final.accuracy, final.calibrated.log_loss),
            warnings=[] if final is None else final.estimator.report_.warnings,
        )
        return head2toe_report(
            rows,
            ranking,
            comparison,
            self.columns_,
            solver=self.solver,
            final=fitted,
            plan=plan,
            seconds=seconds,
        )

    def scores(self, X: Any) -> npt.NDArray[np.float64]:
        """Scores (n, n_classes) of rows (n, d), also for two classes."""
        check_is_fitted(self)
        kept = SelectedBlocks(predict_inputs(self, X), self.columns_, self.divided_dims)
        return self.fitted_final().scores(kept)

    @property
    def divided_dims(self) -> list[int] | None:
        """Columns kept of each layer, where the final head takes each divided by its length."""
        return self.kept_dims_.tolist() if self.unit_norm and self.final != "ridge" else None

    def on_kept(self) -> "Head2ToeClassifier":
        """Give the same fitted classifier for rows that have only the columns kept."""
        narrow = copy(self)
        narrow.columns_ = np.arange(len(self.columns_))
        narrow.n_features_in_ = len(self.columns_)
        return narrow

    def fitted_final(self) -> ScoredClassifier:
        """Give the final head, as an estimator on the columns kept."""
        final: Any
        if self.final == "falkon":
            final = FalkonClassifier(device=self.device, memory_limit_bytes=self.memory_limit_bytes)
            final.centers_, final.dual_coef_, final.sigma_ = self.centers_, self.coef_.T, self.sigma_
        else:
            final = StreamingRidgeClassifier()
            final.coef_ = self.coef_
        final.intercept_, final.classes_ = self.intercept_, self.classes_
        final.n_features_in_ = len(self.columns_)
        return final  # type: ignore[no-any-return]

    def _shares(self) -> list[float]:
        """Group penalties to compare, descending."""
        return sorted(_grid(self.group_penalty, "group_penalty", SHARES), reverse=True)

    def _check_options(self) -> None:
        for name, value, valid in (
            ("solver", self.solver, SOLVERS),
            ("selection", self.selection, SELECTIONS),
            ("final", self.final, FINALS),
        ):
            if value not in valid:
                raise InputError(f"{name} {value!r} is unknown; choose one of {', '.join(valid)}")
        if self.cv is None:
            raise InputError(
                "cv is None, but the selection is chosen by left-out rows; give a number of folds"
            )
        _grid(self.fraction, "fraction", FRACTIONS)
        if self._shares()[0] >= 1:
            raise InputError(
                f"group_penalty is {self.group_penalty!r}; it is a share of the smallest penalty at which no "
                "column has a weight: give a number above 0 and below 1, such as 0.1"
            )


def _grid(value: Any, name: str, default: Sequence[float]) -> list[float]:
    """Return a grid of shares above 0 and at most 1."""
    grid = grid_of(value, name) or list(default)
    if grid[-1] > 1:
        raise InputError(f"{name} is {value!r}; it is a share: give numbers above 0 and at most 1")
    return grid
