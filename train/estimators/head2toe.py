"""`Head2ToeClassifier`: columns of all layers chosen by the group lasso, and a head on those kept."""

import time
from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils.validation import check_is_fitted

from toptune.errors import InputError
from toptune.machine.plans import plan_logger
from toptune.options import check_choice
from toptune.train.estimators.arguments import ClassWeight, RandomState, RowsLike
from toptune.train.estimators.falkon import FalkonClassifier
from toptune.train.estimators.fit_inputs import FitInputs
from toptune.train.estimators.head2toe_final import FINALS, fit_final
from toptune.train.estimators.ridge import StreamingRidgeClassifier
from toptune.train.estimators.scored_classifier import ScoredClassifier
from toptune.train.head2toe.columns import SELECTIONS, Columns, Layers
from toptune.train.head2toe.cross_validation import Comparison, compare, fit_ridge
from toptune.train.head2toe.fold_moments import FoldMoments, SummedFolds
from toptune.train.head2toe.held_folds import HeldFolds
from toptune.train.head2toe.plan import plan_head2toe, softmax_rows
from toptune.train.head2toe.ranking import Ranking, gram_paths, most_rules, rules_of, softmax_paths
from toptune.train.head2toe.report import FinalFit, head2toe_report
from toptune.train.head2toe.selected_blocks import SelectedBlocks
from toptune.train.numerics.calibration import Temperature
from toptune.train.rows.grids import grid_of
from toptune.train.rows.inputs import predict_inputs
from toptune.train.solvers.one_pass import RELATIVE_PENALTIES

SOLVERS = ("gram", "softmax")
# Shares of the columns to keep, and group penalties as shares of the smallest one that keeps no column.
FRACTIONS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SHARES = (0.3, 0.1, 0.03)


class Head2ToeClassifier(ScoredClassifier):
    """Head2Toe: a group lasso ranks the columns of all layers, and a head is fitted to the best of them.

    The score of a column is the norm of the column's weights over the classes. Fraction, group penalty and
    the ridge penalty on the columns kept are cross-validated on the rows given, with the ranking made anew
    without each fold. Columns are taken as they are; the paper divides each layer by its length first (step
    ``l2`` of `toptune.train.fit_preprocessing`).

    Given an indicator matrix of several labels a row, all labels share the columns. A label that is unknown
    (NaN) in a row has no part in the loss of the final head there; in the ranking by the squared loss and in
    the comparison the label's mean stands in its place.

    Parameters
    ----------
    solver : {"gram", "softmax"}
        Loss of the ranking: the squared loss on centered columns, from second moments without a further pass;
        or the paper's cross-entropy without intercept, in many passes over the rows. Of several labels a row,
        that of a sigmoid for each label.
    selection : {"feature", "layer"}
        Rank columns over all layers together, or keep whole layers by the mean score of their columns.
    fraction : float, sequence of float or None
        Share of the columns (or layers) to keep, above 0 and at most 1. None compares `FRACTIONS`, with all
        columns and the last layer alone among the candidates.
    group_penalty : float, sequence of float or None
        Penalty of the group lasso as a share, below 1, of the smallest penalty at which no column has a
        weight. None compares `SHARES`.
    final : {"ridge", "logistic", "falkon"}
        Head on the columns kept: ridge regression from the same moments; or `StreamingLogisticClassifier` or
        `FalkonClassifier` on the rows, which choose their own penalty (and width) within the rows that they
        are fitted to.
    penalty : float, sequence of float or None
        Penalty of the ridge regression; None compares a grid in units of the kept columns' total variance.
    unit_norm : bool
        Divide what is kept of each layer by its length once more, as the paper does, for finals
        ``"logistic"`` and ``"falkon"``. Ridge regression from moments takes the columns as they are.
    layer_dims : sequence of int or None
        Columns of each layer, in order; None takes what Blocks say, else all columns are one layer.
    cv : int or "leave-one-group-out"
        Folds, over which rows or groups are dealt out within each class; or one fold for each group. A
        `FoldsReducedWarning` tells of fewer folds and of classes that lie in one.
    class_weight : None, "balanced" or dict
        Weights of the rows by their class; ``"balanced"`` weighs by the inverse of a class's frequency.
    random_state : int, RandomState or None
        Seed of the folds.
    device : str or None
        torch device of the sums and products; None is the CPU.
    memory_limit_bytes : int or None
        A fit whose projected peak is above this, in main memory or on a CUDA device, is refused; None is half
        of the machine's memory, and 85 % of what is free on the device.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        Labels of the classes, sorted; numbers of the labels where a row may have several.
    columns_ : ndarray of int64, shape (k,)
        Positions of the columns kept, ascending; no other column of a row is used.
    kept_dims_ : ndarray of int64
        Number of columns kept of each layer, for the layers that keep any.
    coef_ : ndarray of float64, shape (n_classes, k) or, of final ``"falkon"``, (n_classes, n_centers)
    intercept_ : ndarray of float64, shape (n_classes,)
    centers_ : ndarray, shape (n_centers, k)
        Centers of final ``"falkon"``; no rows otherwise.
    sigma_ : float or None
        Width of final ``"falkon"``.
    penalty_ : float
        Penalty of the final head.
    temperature_ : float
        Probabilities are ``softmax(scores / temperature_)``; 1 where a row may have several labels.
    sigmoids_ : Sigmoids or None
        What turns the scores of several labels a row into probabilities.
    report_ : Head2ToeReport

    Raises
    ------
    InputError
        By ``fit``: for parameters out of range, rows that are not finite, fewer than two classes, or a
        projected peak above the memory limit.
    NumericalError
        By ``fit``: if no combination of the grid can be solved.

    References
    ----------
    Evci, Dumoulin, Larochelle & Mozer 2022 (Head2Toe), section 3.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from toptune.train import Head2ToeClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> head = Head2ToeClassifier(layer_dims=(2, 2), fraction=0.5, random_state=0).fit(X, y)
    >>> head.columns_.tolist(), head.kept_dims_.tolist()
    ([1, 2], [1, 1])
    """

    takes_values: ClassVar[bool] = True
    coef_: npt.NDArray[np.floating]
    centers_: npt.NDArray[np.floating]

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
        class_weight: ClassWeight = None,
        random_state: RandomState = None,
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

    def _check(self) -> None:
        for name, value, valid in (
            ("solver", self.solver, SOLVERS),
            ("selection", self.selection, SELECTIONS),
            ("final", self.final, FINALS),
        ):
            check_choice(value, valid, option=name)
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

    def _fit(self, given: FitInputs) -> npt.NDArray[np.floating] | None:
        rows, (n, d) = given.rows, given.rows.blocks.shape
        layers, penalties = self._layers(given), grid_of(self.penalty, "penalty")
        fractions = _grid(self.fraction, "fraction", FRACTIONS)
        block_rows = given.block_rows(rank=min(n, d))
        plan = plan_head2toe(
            n=n, d=d, n_classes=rows.n_classes, n_folds=rows.n_places, n_shares=len(self._shares()),
            n_rules=most_rules(len(self._shares()), fractions, layers, self.selection),
            n_penalties=len(penalties or RELATIVE_PENALTIES), solver=self.solver, block_rows=block_rows,
            limits=given.limits,
        )  # fmt: skip
        plan_logger.debug("%s", plan)
        seconds, clock = {"setup": given.seconds}, time.perf_counter()
        # The second moments of the columns are taken once and serve the ranking, the comparison of selections
        # and a final ridge regression.
        form = SummedFolds if plan.form == "sums" else HeldFolds
        moments: FoldMoments = form.over(rows, block_rows=block_rows, device=given.device)
        seconds["pass"], clock = time.perf_counter() - clock, time.perf_counter()
        paths = (
            softmax_paths(
                rows,
                self._shares(),
                is_held=plan.is_held,
                device=given.device,
                block_rows=softmax_rows(block_rows, rows.n_classes, rows.n_folds + 1),
            )
            if self.solver == "softmax"
            else gram_paths(moments, rows.n_folds, self._shares())
        )
        ranking = Ranking(paths=paths, layers=layers, selection=self.selection)
        seconds["ranking"], clock = time.perf_counter() - clock, time.perf_counter()
        rules = rules_of(len(paths[0]), fractions, ranking, with_last=self.fraction is None)
        comparison = compare(rows, moments, ranking, rules, penalties=penalties)
        seconds["comparison"], clock = time.perf_counter() - clock, time.perf_counter()
        self._keep_columns(ranking, ranking.columns(comparison.rule, None))
        if self.final == "ridge" and not given.has_unknown:
            final = self._finish_ridge(moments, comparison, device=given.device)
            left_out: npt.NDArray[np.floating] = comparison.scores
        else:
            final, left_out = self._finish_on_rows(given, ranking, comparison)
        seconds["final"] = time.perf_counter() - clock
        seconds["total"] = given.seconds
        self.report_ = head2toe_report(
            rows, ranking, comparison, self.columns_,
            solver=self.solver, final=final, plan=plan, seconds=seconds,
        )  # fmt: skip
        return left_out

    def _layers(self, given: FitInputs) -> Layers:
        blocks = given.rows.blocks
        layers = Layers.of(blocks, blocks.shape[1], self.layer_dims)
        if self.selection == "layer" and len(layers.dims) == 1:
            raise InputError(
                "selection 'layer' chooses among layers and there is one; give layer_dims, train on --layers "
                "all with a preprocessing that keeps layers apart, or take selection 'feature'"
            )
        return layers

    def _keep_columns(self, ranking: Ranking, columns: Columns) -> None:
        counts = ranking.layers.counts(columns)
        self.columns_, self.kept_dims_ = columns, np.array([count for count in counts if count])
        # Finals without centers are saved in the same arrays as the final that has some.
        self.centers_ = np.zeros((0, len(columns)))
        self.sigma_: float | None = None

    def _finish_ridge(
        self, moments: FoldMoments, comparison: Comparison, *, device: torch.device
    ) -> FinalFit:
        """Fit ridge regression to the moments of the columns kept, at the penalty that was compared."""
        columns = torch.from_numpy(self.columns_).to(device)
        beta = fit_ridge(moments.without(None), columns, comparison.chosen.penalty)
        self.coef_, self.intercept_ = beta[:-1].T.cpu().numpy(), beta[-1].cpu().numpy()
        self.penalty_ = comparison.chosen.penalty
        self.temperature_, self.sigmoids_ = comparison.chosen.temperature or 1.0, comparison.sigmoids
        return FinalFit(
            name=self.final,
            penalty=self.penalty_,
            sigma=None,
            temperature=self.temperature_,
            left_out=None,
            warnings=[],
        )

    def _finish_on_rows(
        self, given: FitInputs, ranking: Ranking, comparison: Comparison
    ) -> tuple[FinalFit, npt.NDArray[np.floating]]:
        """Fit the final head to the rows, on the columns kept; return the left-out scores beside the fit."""
        class_weight = self.class_weight
        # The final head is fitted to positions of classes in place of their names.
        if isinstance(class_weight, dict):
            names = given.classes.tolist()
            class_weight = {code: class_weight.get(name, 1.0) for code, name in enumerate(names)}
        final = fit_final(
            self.final, given.rows, lambda fold: ranking.columns(comparison.rule, fold), ranking.layers,
            unit_norm=self.divides, class_weight=class_weight, groups=given.groups,
            options={
                "cv": self.cv, "random_state": given.seed, "device": self.device,
                "memory_limit_bytes": self.memory_limit_bytes,
                **({"penalty": comparison.chosen.penalty} if self.final == "ridge" else {}),
            },
        )  # fmt: skip
        fitted = final.estimator
        if isinstance(fitted, FalkonClassifier):
            self.coef_, self.centers_, self.sigma_ = fitted.dual_coef_.T, fitted.centers_, fitted.sigma_
        else:
            self.coef_ = fitted.coef_
        self.intercept_, self.penalty_ = fitted.intercept_, fitted.penalty_
        calibrated = final.calibrated
        self.temperature_ = calibrated.value if isinstance(calibrated, Temperature) else 1.0
        self.sigmoids_ = None if isinstance(calibrated, Temperature) else calibrated
        told = FinalFit(
            name=self.final,
            penalty=self.penalty_,
            sigma=self.sigma_,
            temperature=self.temperature_,
            left_out=(final.accuracy, calibrated.log_loss),
            warnings=fitted.report_.warnings,
        )
        return told, final.scores

    def scores(self, X: RowsLike) -> npt.NDArray[np.float64]:
        """Return the scores (n, n_classes) of rows (n, d), also for two classes."""
        check_is_fitted(self)
        kept = SelectedBlocks(predict_inputs(self, X), self.columns_, self.divided_dims)
        return self.fitted_final().scores(kept)

    @property
    def divided_dims(self) -> list[int] | None:
        """Columns kept of each layer, where the final head takes each layer divided by its length."""
        return self.kept_dims_.tolist() if self.divides else None

    @property
    def divides(self) -> bool:
        """Whether the final head takes what is kept of each layer divided by its length."""
        return self.unit_norm and self.final != "ridge"

    def on_kept(self) -> "Head2ToeClassifier":
        """Return the same fitted classifier for rows that have only the columns kept."""
        narrow = copy(self)
        narrow.columns_ = np.arange(len(self.columns_))
        narrow.n_features_in_ = len(self.columns_)
        return narrow

    def fitted_final(self) -> ScoredClassifier:
        """Return the final head, as an estimator on the columns kept."""
        # Only fitted attributes are saved, so the estimator is made again from them on every call.
        final: Any
        if self.final == "falkon":
            final = FalkonClassifier(device=self.device, memory_limit_bytes=self.memory_limit_bytes)
            final.centers_, final.dual_coef_, final.sigma_ = self.centers_, self.coef_.T, self.sigma_
        else:
            # Logistic scores are linear in the columns as well, and scoring needs nothing of the fit.
            final = StreamingRidgeClassifier()
            final.coef_ = self.coef_
        final.intercept_, final.classes_ = self.intercept_, self.classes_
        final.n_features_in_ = len(self.columns_)
        return final  # type: ignore[no-any-return]

    def _shares(self) -> list[float]:
        """Return the group penalties to compare, descending, as shares."""
        return sorted(_grid(self.group_penalty, "group_penalty", SHARES), reverse=True)


def _grid(value: float | Sequence[float] | None, name: str, default: Sequence[float]) -> list[float]:
    """Return a grid of shares, ascending, or refuse a share that is not above 0 and at most 1."""
    grid = grid_of(value, name) or list(default)
    if grid[-1] > 1:
        raise InputError(f"{name} is {value!r}; it is a share: give numbers above 0 and at most 1")
    return grid
