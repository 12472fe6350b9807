"""Heads on scikit-learn's estimators: all rows in memory, cross-validated, saved through skops."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import InvalidParameterError

from toptune.errors import CorruptError, InputError
from toptune.machine.memory import check_memory
from toptune.machine.plans import plan_logger
from toptune.store.features.blocks import ArrayBlocks
from toptune.store.files.json_values import json_ready
from toptune.text import counted
from toptune.train.estimators.arguments import Features, Params, Values
from toptune.train.estimators.fit_report import HeadReport, LeftOutFigures
from toptune.train.estimators.settings_comparison import Comparison, compare
from toptune.train.heads.files import SKOPS, HeadDescription, write_description
from toptune.train.heads.kind import PREFIX, HeadKind, SklearnForm, is_path
from toptune.train.heads.kinds import KINDS, kind_of
from toptune.train.heads.native_heads import check_temperature
from toptune.train.heads.problem_size import FitSizes
from toptune.train.heads.reported_head import ReportedHead
from toptune.train.heads.sklearn_estimators import check_counts, grid_of, make_estimator, scores_of
from toptune.train.heads.skops_files import check_trusted, read_estimator, write_estimator
from toptune.train.numerics.calibration import CALIBRATION_ROWS, softmax
from toptune.train.passes.peak_memory import SCORES_BYTES
from toptune.train.passes.targets import Scaling
from toptune.train.passes.training_rows import LeftOutScores, OutOfFold, TrainingRows, even_sample
from toptune.train.rows.block_reading import check_finite
from toptune.train.rows.folds import draw_folds
from toptune.train.rows.inputs import is_blocks, row_weights
from toptune.train.tasks.names import CLASSIFICATION, REGRESSION
from toptune.train.tasks.task import TargetMatrix

_MOST_WARNINGS = 5
# Values of pairs of classes that are made at a time: libsvm copies its model for each call.
_PAIRS_BYTES = 128 * 2**20
_UNCONVERGED = "not converged"


class SklearnHead(ReportedHead):
    """`Head` over a scikit-learn classifier, its parameters chosen by cross-validation.

    Folds and the rule of choice are the same for all heads: among the candidates whose left-out accuracy is
    within half a standard error of the best, the candidate of least log-loss is chosen.

    Parameters
    ----------
    name : str
        Name in `KINDS`, or ``sklearn:package.Class``.
    params : mapping
        Parameters of the estimator; a list of values is a grid.
    seed : int
        Seed of the folds and of the estimator.
    cv : int or "leave-one-group-out"
        Number of folds, or one fold for each group.
    class_weight : None or "balanced"
    memory_limit_bytes : int, optional
        A fit whose projected peak is above this is refused; by default half of the machine's memory.
    is_compared : bool
        Cross-validate the head even if it has nothing to choose and would be fitted once by itself (the
        forest).
    """

    def __init__(
        self,
        name: str,
        params: Params,
        *,
        seed: int = 0,
        cv: int | str | None = 5,
        class_weight: str | None = None,
        memory_limit_bytes: int | None = None,
        is_compared: bool = False,
        task: str = CLASSIFICATION,
        ordinal: bool = False,
    ) -> None:
        self.name = name
        self.task = task
        self.ordinal = ordinal
        self.kind = kind_of(name).for_task(task)
        self.form = _form_of(self.kind)
        self.params = dict(params)
        self.seed = seed
        self.cv = cv
        self.class_weight = class_weight
        self.memory_limit_bytes = memory_limit_bytes
        self.is_selected = self.form.is_selected or is_compared
        self.temperature: float | None = None
        self.estimator: Any = None
        self._classes: list[str] = []
        self._report: dict[str, Any] = {}
        check_counts(self.kind, self.params)
        if is_path(name):
            # Only an estimator shows whether its class is a classifier, so one is made before rows are read.
            self._make(grid_of(self.form, self.params, np.empty((0, 0)))[0])

    @property
    def classes(self) -> list[str]:
        return list(self._classes)

    def on_columns(self) -> Self:
        return self

    def fit(
        self, X: Features, y: npt.ArrayLike | TargetMatrix, *, groups: Sequence[str] | None = None
    ) -> Self:
        start = time.perf_counter()
        if isinstance(y, TargetMatrix) and self.task == REGRESSION:
            return self._fit_numbers(X, y, groups=groups, start=start)
        if isinstance(y, TargetMatrix):
            raise InputError(
                f"head {self.name!r} takes one class a row, and these are {len(y.names)} targets"
            )
        n, d = X.shape
        labels = np.asarray(y)
        counts = np.unique(labels, return_counts=True)[1]
        peak_bytes = self._peak_bytes(n, d, counts)
        plan_logger.debug("%s: about %d MiB", self.name, peak_bytes // 2**20)
        check_memory(
            peak_bytes,
            limit_bytes=self.memory_limit_bytes,
            what=f"head {self.name!r} on {n} rows of {d} features and {len(counts)} classes",
            instead="head 'falkon' streams its rows and does not; or take fewer layers",
        )
        values = gather(X)
        check_finite(values)
        try:
            return self._fit(values, labels, groups=groups, start=start, peak_bytes=peak_bytes)
        except InvalidParameterError as error:
            raise InputError(f"head {self.name!r}: {error}; give another value in params") from error

    def _fit(
        self,
        values: Values,
        y: npt.NDArray[np.generic],
        *,
        groups: Sequence[str] | None,
        start: float,
        peak_bytes: int,
    ) -> Self:
        n, d = values.shape
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise InputError(f"the labels have one class only, {classes[0]!r}; a classifier needs at least 2")
        self._classes = [str(name) for name in classes]
        grid = grid_of(self.form, self.params, values)
        read_seconds = time.perf_counter() - start
        said: list[str] = []
        compared: Comparison | None = None
        n_folds, notes = 0, list[str]()
        if self.is_selected:
            folds = draw_folds(codes, classes, cv=self.cv, seed=self.seed, groups=groups)
            rows = TrainingRows(
                blocks=ArrayBlocks(values),
                codes=codes,
                weights=row_weights(codes, classes, self.class_weight),
                folds=folds.places,
                n_classes=len(classes),
                n_folds=folds.count,
                has_aside=not folds.is_validated.all(),
            )
            n_folds, notes = folds.count, [*folds.notes]
            tallied = [_tally(self._left_out(params, values, rows, said), rows) for params in grid]
            compared = compare(grid, tallied, rows)
            self._left_out_scores = LeftOutScores(rows=rows.calibration_rows(), scores=compared.scores)
        chosen = compared.chosen if compared else grid[0]
        self.temperature = compared.temperature if compared else None
        self.estimator = self._fit_one(chosen, values, codes, said)
        self._report = json_ready(
            HeadReport(
                solver=self.form.description,
                n_rows=n,
                n_features=d,
                n_folds=n_folds,
                chosen=chosen,
                left_out=compared.left_out if compared else None,
                temperature=self.temperature,
                calibration="softmax of scores with one temperature fitted out of fold"
                if compared
                else "the estimator's own, not calibrated",
                table=compared.table if compared else [],
                warnings=[*notes, *(compared.warnings if compared else []), *summary_of(said)],
                peak_bytes=peak_bytes,
                seconds={"read": read_seconds, "total": time.perf_counter() - start},
            ).to_dict()
        )
        return self

    def _fit_numbers(
        self, X: Features, y: TargetMatrix, *, groups: Sequence[str] | None, start: float
    ) -> Self:
        """Fit to the targets of rows; a forest has nothing to choose and leaves out rows by itself."""
        (n, d), k = X.shape, len(y.names)
        if self.ordinal:
            self._take_levels(y)
        grid = grid_of(self.form, self.params, np.zeros((1, d)))
        sizes = {**self._make(grid[0]).get_params(), **self.params}
        peak_bytes = self.form.peak_bytes(FitSizes(n=n, d=d, n_classes=k, pair_rows=n, params=sizes))
        plan_logger.debug("%s: about %d MiB", self.name, peak_bytes // 2**20)
        check_memory(
            peak_bytes,
            limit_bytes=self.memory_limit_bytes,
            what=f"head {self.name!r} on {n} rows of {d} features and {k} targets",
            instead="head 'falkon' streams its rows and does not; or take fewer layers",
        )
        values = gather(X)
        check_finite(values)
        # Trees of several targets split by their summed errors, in which all targets are to weigh alike.
        scaling = Scaling.of(y.values)
        targets = scaling.standardized(y.values)
        said: list[str] = []
        try:
            self.estimator = self._fit_one(grid[0], values, targets if k > 1 else targets[:, 0], said)
        except InvalidParameterError as error:
            raise InputError(f"head {self.name!r}: {error}; give another value in params") from error
        self._classes, self._scaling = list(y.names), scaling
        figures, notes = self._take_out_of_bag(targets, groups)
        self._report = json_ready(
            HeadReport(
                solver=self.form.description,
                n_rows=n,
                n_features=d,
                n_folds=0,
                chosen=grid[0],
                left_out=figures,
                temperature=None,
                calibration="numbers, not calibrated; left-out figures are of the trees without the row",
                table=[],
                warnings=[*notes, *summary_of(said)],
                peak_bytes=peak_bytes,
                seconds={"total": time.perf_counter() - start},
            ).to_dict()
        )
        return self

    def _take_out_of_bag(
        self, targets: npt.NDArray[np.float64], groups: Sequence[str] | None
    ) -> tuple[LeftOutFigures | None, list[str]]:
        """Keep what the trees say of rows that they have not seen; return the figures, and notes."""
        self._left_out_scores = None
        left = getattr(self.estimator, "oob_prediction_", None)
        if left is None:
            return None, []
        # The predictions of training rows have no use in a saved forest.
        del self.estimator.oob_prediction_
        if groups is not None and len(set(groups)) < len(groups):
            return None, [
                "nothing is left out of this forest: its trees leave out rows, and have seen others of the "
                "row's group; head falkon leaves out whole groups [TT404]"
            ]
        left = np.asarray(left).reshape(targets.shape)
        unseen = np.flatnonzero(_is_left_out(self.estimator, len(targets)))
        some = unseen[even_sample(len(unseen), CALIBRATION_ROWS)]
        if not len(some):
            return None, ["every tree of the forest has seen every row; give more trees in params [TT404]"]
        scores = self._scaling.restored(left[some]).astype(np.float32)
        self._left_out_scores = LeftOutScores(rows=some, scores=scores)
        squared = float(((left[unseen] - targets[unseen]) ** 2).sum(axis=1).mean())
        figures = LeftOutFigures(accuracy=None, log_loss=None, n_rows=len(unseen), squared_error=squared)
        notes = [
            f"{len(unseen)} of {counted(len(targets), 'training row')} are part of the left-out figures: "
            "every tree has seen the others; more trees in params leave more out [TT404]"
        ]
        return figures, notes if len(unseen) < len(targets) else []

    def decision_function(self, X: Features) -> npt.NDArray[np.float64]:
        """Return the scores (n, n_classes) of rows (n, d), as `scores_of`."""
        if self.task == REGRESSION:
            k = len(self._classes)
            found = self._by_block(X, lambda block: np.asarray(self.estimator.predict(block)).reshape(-1, k))
            return self._scaling.restored(found)
        return self._by_block(X, lambda block: scores_of(self.estimator, block, len(self._classes)))

    def probabilities_of(self, scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        assert self.temperature is not None, "a head with left-out scores has a temperature"
        return softmax(scores, self.temperature)

    def predict_proba(self, X: Features) -> npt.NDArray[np.float64]:
        if self.task == REGRESSION:
            return self.rounded(self.decision_function(X))
        if self.temperature is not None:
            return softmax(self.decision_function(X), self.temperature)
        shares = self._by_block(X, lambda block: np.asarray(self.estimator.predict_proba(block)))
        # Where the estimator computes in float32, its shares sum to 1 in float32 only.
        probabilities: npt.NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
        return probabilities

    def save(self, folder: Path, *, keep_sums: bool = True) -> None:  # noqa: ARG002
        """Write ``head.skops`` and ``head.json``."""
        write_estimator(folder / SKOPS, self.estimator)
        description = {
            "head": self.name,
            "classes": self._classes,
            "params": self.params,
            "fitted": {"temperature": self.temperature},
            "report": self._report,
        }
        if self.task == REGRESSION:
            levels = None if self.levels is None else self.levels.tolist()
            description["task"] = self.task
            description["fitted"] = {
                "target_mean": self._scaling.mean.tolist(),
                "target_scale": self._scaling.scale.tolist(),
                "levels": levels,
            }
        write_description(folder, json_ready(description))

    @classmethod
    def load(cls, folder: Path, description: HeadDescription) -> "SklearnHead":
        """Read what `save` wrote; `description` is the content of ``head.json``.

        Raises
        ------
        CorruptError
            If a file is missing or damaged, or holds a type that this head is not made of.
        InputError
            If the class is not scikit-learn's and is not named as trusted.
        """
        name, path = description.head, folder / SKOPS
        if name not in KINDS and not is_path(name):
            raise CorruptError(f"{folder / 'head.json'} names an unknown head {name!r}; train again")
        if is_path(name):
            check_trusted(name.removeprefix(PREFIX), path)
        estimator = read_estimator(path, kind_of(name).for_task(description.task).estimator_type)
        try:
            head = cls(name, description.params, task=description.task)
            head.estimator = estimator
            fitted: Mapping[str, Any] = description.fitted
            if head.task == REGRESSION:
                head._take_targets(fitted, len(description.classes))
            elif fitted["temperature"] is not None:
                head.temperature = float(fitted["temperature"])
                check_temperature(head.temperature)
            head._classes = list(description.classes)
            head._report = dict(description.report)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"{folder / 'head.json'} is damaged ({error}); train again") from error
        return head

    def _take_targets(self, fitted: Mapping[str, Any], count: int) -> None:
        """Take over what only a head of numbers has."""
        mean, scale = (np.array(fitted[name], dtype=np.float64) for name in ("target_mean", "target_scale"))
        if not (mean.shape == scale.shape == (count,) and np.isfinite([mean, scale]).all()):
            raise ValueError(f"{mean.shape} target means and {count} targets")
        self._scaling = Scaling(mean=mean, scale=scale)
        if fitted.get("levels") is not None:
            self.levels = np.array(fitted["levels"], dtype=np.float64).reshape(count, 2)

    def _peak_bytes(self, n: int, d: int, counts: npt.NDArray[np.int64]) -> int:
        """Project the peak: the estimator's own, and where it is cross-validated the left-out scores."""
        n_classes = len(counts)
        # Parameters that are not given have the defaults of the estimator.
        grid = grid_of(self.form, self.params, np.zeros((1, d)))
        params = {**self._make(grid[0]).get_params(), **self.params}
        own = self.form.peak_bytes(
            FitSizes(n=n, d=d, n_classes=n_classes, pair_rows=int(np.sort(counts)[-2:].sum()), params=params)
        )
        if not self.is_selected:
            return own
        kept = min(n, CALIBRATION_ROWS)
        left = 4 * len(grid) * kept * n_classes
        n_scored = min(-(-n // self.cv) if isinstance(self.cv, int) else n, self._rows_scored(n_classes))
        # The scores of all rows in float64, beside a fit or scores that are made; or the calibration.
        making = 8 * n * n_classes + max(own, n_scored * self._row_bytes(n_classes))
        return left + max(making, 2 * 8 * kept * n_classes)

    def _row_bytes(self, n_classes: int) -> int:
        # Each pair of classes has a value, its negative and its sign; else two arrays are beside the scores.
        return 17 * n_classes * n_classes // 2 if self.form.is_scored_by_pairs else 3 * 8 * n_classes

    def _rows_scored(self, n_classes: int) -> int:
        """Return how many rows are scored at a time; pairs of many classes would take gigabytes."""
        budget = _PAIRS_BYTES if self.form.is_scored_by_pairs else SCORES_BYTES
        return max(1, budget // self._row_bytes(n_classes))

    def _make(self, params: Params) -> Any:
        return make_estimator(self.kind, self.form, params, seed=self.seed, class_weight=self.class_weight)

    def _fit_one(
        self,
        params: Params,
        values: Values,
        codes: npt.NDArray[np.number],
        said: list[str],
    ) -> Any:
        """Return an estimator fitted to rows (n, d); what scikit-learn warned of is added to `said`."""
        estimator = self._make(params)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                estimator.fit(values, codes)
            except InvalidParameterError:
                raise
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(f"head {self.name!r} cannot be fitted to these rows: {error}") from error
        said += [
            _UNCONVERGED if each.category is ConvergenceWarning else str(each.message) for each in caught
        ]
        return estimator

    def _left_out(
        self,
        params: Params,
        values: Values,
        rows: TrainingRows,
        said: list[str],
    ) -> npt.NDArray[np.float64]:
        scores = np.zeros((rows.n, rows.n_classes))
        # Few groups leave folds empty, and an empty fold has nothing to predict.
        for fold in np.unique(rows.folds[rows.is_validated]):
            left, inside = rows.folds == fold, rows.is_validated & (rows.folds != fold)
            estimator = self._fit_one(params, values[inside], rows.codes[inside], said)
            score = partial(scores_of, estimator, n_classes=rows.n_classes)
            try:
                scores[left] = self._in_steps(values[left], score, rows.n_classes)
            except InputError:
                raise
            except (TypeError, ValueError, OverflowError) as error:
                raise InputError(
                    f"head {self.name!r} with {dict(params)} cannot score the rows of a fold: {error}"
                ) from error
        return scores

    def _in_steps(
        self,
        values: npt.NDArray[np.number],
        function: Callable[[npt.NDArray[np.number]], npt.ArrayLike],
        n_classes: int,
    ) -> npt.NDArray[np.float64]:
        """Apply a function of rows (n, d) that gives (n, n_classes) to some rows at a time."""
        step = self._rows_scored(n_classes)
        if len(values) <= step:
            return np.asarray(function(values), dtype=np.float64)
        result = np.empty((len(values), n_classes))
        for start in range(0, len(values), step):
            result[start : start + step] = function(values[start : start + step])
        return result

    def _by_block(
        self, X: Features, function: Callable[[npt.NDArray[np.number]], npt.ArrayLike]
    ) -> npt.NDArray[np.float64]:
        if not is_blocks(X):
            rows = np.asarray(X)
            check_finite(rows)
            return self._in_steps(rows, function, len(self._classes))
        result = np.empty((X.shape[0], len(self._classes)))
        for where, values in X.iterate():
            check_finite(values, start=where.start)
            result[where] = self._in_steps(values, function, len(self._classes))
        return result


def _form_of(kind: HeadKind) -> SklearnForm:
    if not isinstance(kind.form, SklearnForm):
        raise TypeError(f"head {kind.name!r} is not made of a scikit-learn estimator")
    return kind.form


def gather(X: Features) -> Values:
    """Return all rows in one array (n, d)."""
    if not is_blocks(X):
        return np.asarray(X)
    values = np.empty(X.shape, dtype=X.dtype)
    for where, block in X.iterate():
        values[where] = block
    return values


def _tally(scores: npt.NDArray[np.float64], rows: TrainingRows) -> OutOfFold:
    correct = float(rows.validated_weights @ (scores.argmax(axis=1) == rows.codes))
    kept = scores[rows.calibration_rows()].astype(np.float32)
    return OutOfFold(correct=correct, squared_error=0.0, scores=kept)


def summary_of(said: Sequence[str]) -> list[str]:
    """Return what scikit-learn warned of in all fits, each warning once, and at most `_MOST_WARNINGS`."""
    notes = []
    unconverged = said.count(_UNCONVERGED)
    if unconverged:
        notes.append(f"{unconverged} fits stopped before they had converged; raise max_iter [TT405]")
    others = [message for message in dict.fromkeys(said) if message != _UNCONVERGED]
    notes += [f"scikit-learn: {' '.join(message.split())} [TT406]" for message in others[:_MOST_WARNINGS]]
    return notes


def _is_left_out(forest: Any, n: int) -> npt.NDArray[np.bool_]:
    """Tell the rows (n,) that some tree of a forest was not fitted to."""
    found = np.zeros(n, dtype=bool)
    for sample in forest.estimators_samples_:
        is_seen = np.zeros(n, dtype=bool)
        is_seen[sample] = True
        found |= ~is_seen
    return found
