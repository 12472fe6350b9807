"""Forests of several labels a row: `LabelForests` grows them, and `LabelForestHead` is the head over them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.utils._param_validation import InvalidParameterError

from toptune.errors import CorruptError, InputError
from toptune.machine.memory import check_memory
from toptune.machine.plans import plan_logger
from toptune.store.features.blocks import ArrayBlocks
from toptune.store.files.json_values import json_ready
from toptune.text import counted, named
from toptune.train.estimators.arguments import Features, Params, Values
from toptune.train.estimators.settings_comparison import Comparison, compare, score_left_out
from toptune.train.heads.files import SKOPS, HeadDescription, write_description
from toptune.train.heads.kinds import KINDS
from toptune.train.heads.problem_size import FitSizes
from toptune.train.heads.sklearn_heads import SklearnHead, gather, summary_of
from toptune.train.heads.skops_files import read_estimators, write_estimator
from toptune.train.numerics.calibration import CALIBRATION_ROWS
from toptune.train.numerics.sigmoids import Sigmoids
from toptune.train.numerics.thresholds import ThresholdRule, choose_thresholds
from toptune.train.passes.targets import Targets
from toptune.train.passes.training_rows import LeftOutScores, TrainingRows
from toptune.train.rows.block_reading import check_finite
from toptune.train.rows.folds import draw_strata_folds
from toptune.train.solvers.one_pass import SIGMOIDS
from toptune.train.tasks.multilabel import Multilabel
from toptune.train.tasks.names import MULTILABEL
from toptune.train.tasks.task import Matrix, TargetMatrix


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelForests:
    """Random forests that together give the lead of the votes for each label.

    Labels that are known of the same rows share a forest, whose trees split for all of these labels; a row of
    which a label is unknown has no part in the forest of the label. Where everything is known, there is one
    forest.

    Attributes
    ----------
    forests : sequence of RandomForestClassifier
    places : ndarray of int64, shape (n_labels,)
        Forest of each label; -1 for a label of which no row is known.
    """

    forests: Sequence[Any]
    places: npt.NDArray[np.int64]

    @classmethod
    def grown(cls, targets: Matrix, fit: Callable[[npt.NDArray[np.bool_], Matrix], Any]) -> "LabelForests":
        """Grow the forests for targets (n, n_labels) of 0, 1 and NaN.

        `fit` fits a forest to the rows of a mask (n,) and their targets (m, k).
        """
        places = places_of(targets)
        forests = []
        for place in range(places.max() + 1):
            mine = targets[:, places == place]
            known = np.isfinite(mine[:, 0])
            forests.append(fit(known, mine[known]))
        return cls(forests=forests, places=places)

    def scores(self, values: npt.NDArray[np.number]) -> Matrix:
        """Return the share of votes for each label less one half (b, n_labels), of rows (b, d).

        A label of which no row was known has 0.
        """
        found = np.zeros((len(values), len(self.places)))
        for place, forest in enumerate(self.forests):
            found[:, self.places == place] = _shares(forest, values) - 0.5
        return found

    def check(self) -> None:
        """Refuse forests of other labels than `places` says, with ValueError."""
        for place, forest in enumerate(self.forests):
            n_labels = int((self.places == place).sum())
            if forest.n_outputs_ != n_labels:
                raise ValueError(f"forest {place} has {forest.n_outputs_} labels in place of {n_labels}")
        if not set(self.places.tolist()) <= {*range(len(self.forests))}:
            raise ValueError(f"{len(self.forests)} forests, and labels of others")


def places_of(targets: Matrix) -> npt.NDArray[np.int64]:
    """Return which forest each label (n_labels,) has: labels known of the same rows have one in common."""
    forests: dict[bytes, int] = {}
    known = np.isfinite(targets)
    return np.array(
        [forests.setdefault(rows.tobytes(), len(forests)) if rows.any() else -1 for rows in known.T],
        dtype=np.int64,
    )


def _shares(forest: Any, values: npt.NDArray[np.number]) -> Matrix:
    found, classes = forest.predict_proba(values), forest.classes_
    if forest.n_outputs_ == 1:
        found, classes = [found], [classes]
    # A label that no row of a fold's fit has, or that every row has, has one class there.
    shares = [
        each[:, of_label == 1].sum(axis=1) for each, of_label in zip(found, classes, strict=True)
    ]  # fmt: skip
    return np.stack(shares, axis=1)


class LabelForestHead(SklearnHead):
    """`Head` over forests of several labels; scores are shares of votes less one half.

    The scores that left-out rows have, by the folds that every head has, calibrate each label with a sigmoid
    and choose its threshold. Votes of trees that were not grown on a row would leave the row out too, but not
    the other rows of its group.
    """

    estimator: LabelForests

    def __init__(
        self,
        name: str,
        params: Params,
        *,
        seed: int = 0,
        cv: int | str | None = 5,
        memory_limit_bytes: int | None = None,
        threshold: str | float = "f1",
    ) -> None:
        super().__init__(
            name, params, seed=seed, cv=cv, memory_limit_bytes=memory_limit_bytes, task=MULTILABEL
        )
        self.rule = ThresholdRule.of(threshold)
        self.sigmoids: Sigmoids | None = None

    def fit(
        self, X: Features, y: npt.ArrayLike | TargetMatrix, *, groups: Sequence[str] | None = None
    ) -> Self:
        start = time.perf_counter()
        if not isinstance(y, TargetMatrix):
            raise InputError(f"head {self.name!r} of several labels takes a matrix of targets, not one label")
        nowhere = np.flatnonzero(np.isnan(y.values).all(axis=0))
        unknown = [y.names[at] for at in nowhere.tolist()]
        if unknown:
            raise InputError(
                f"of {counted(len(unknown), 'label')} nothing is known in any of the {len(y)} rows: "
                f"{named(unknown, most=5)}; leave such labels out"
            )
        peak_bytes = self._labels_bytes(X.shape, y.values)
        values = gather(X)
        check_finite(values)
        said: list[str] = []
        try:
            rows, notes = self._rows_of(values, y.values, groups)
            compared = self._compared(rows, values, said)
            self.estimator = self._grown(values, y.values, said)
        except InvalidParameterError as error:
            raise InputError(f"head {self.name!r}: {error}; give another value in params") from error
        self._classes, self.sigmoids = list(y.names), compared.sigmoids
        self.temperature = compared.temperature
        left = LeftOutScores(rows=rows.calibration_rows(), scores=compared.scores)
        self._left_out_scores = left
        probabilities = self.probabilities_of(left.scores)
        self.thresholds = choose_thresholds(probabilities, y.values[left.rows], self.rule)
        report = compared.report(
            rows,
            solver=f"{self.form.description}, {counted(len(self.estimator.forests), 'forest')} for "
            f"{counted(len(y.names), 'label')}",
            calibration=SIGMOIDS,
            peak_bytes=peak_bytes,
            seconds={"total": time.perf_counter() - start},
            notes=[*notes, *summary_of(said)],
        )
        self._report = json_ready(report.to_dict())
        return self

    def _rows_of(
        self, values: Values, targets: Matrix, groups: Sequence[str] | None
    ) -> tuple[TrainingRows, Sequence[str]]:
        n, k = targets.shape
        strata = Multilabel().strata(targets)
        folds = draw_strata_folds(*strata, n=n, cv=self.cv, seed=self.seed, groups=groups)
        rows = TrainingRows(
            blocks=ArrayBlocks(values),
            codes=np.zeros(n, dtype=np.int64),
            weights=np.ones(n),
            folds=folds.places,
            n_classes=k,
            n_folds=folds.count,
            targets=Targets(values=targets, are_labels=True),
        )
        return rows, folds.notes

    def _compared(self, rows: TrainingRows, values: Values, said: list[str]) -> Comparison:
        """Score every row by forests that were grown without its fold, and calibrate the scores."""
        targets = np.asarray(rows.known_targets(slice(None)))
        scores = np.zeros(targets.shape)
        # Few groups leave folds empty, and an empty fold has nothing to predict.
        for fold in np.unique(rows.folds):
            left = rows.folds == fold
            forests = self._grown(values[~left], targets[~left], said)
            scores[left] = self._in_steps(values[left], forests.scores, rows.n_classes)
        found = score_left_out([(slice(0, rows.n), [scores])], rows, n_settings=1)
        return compare([self.params], found, rows)

    def _grown(self, values: Values, targets: Matrix, said: list[str]) -> LabelForests:
        def fit(known: npt.NDArray[np.bool_], of_labels: Matrix) -> Any:
            marks = of_labels.astype(np.int64)
            marks = marks[:, 0] if marks.shape[1] == 1 else marks
            return self._fit_one(self.params, values[known], marks, said)

        return LabelForests.grown(targets, fit)

    def _labels_bytes(self, shape: tuple[int, ...], targets: Matrix) -> int:
        """Project the peak of a fit to targets (n, k), and refuse one that is above the limit."""
        (n, d), k = shape, targets.shape[1]
        params = {**self._make(self.params).get_params(), **self.params}
        sizes = np.bincount(places_of(targets))
        # A leaf of a forest keeps two shares of each of its labels.
        grown = [
            self.form.peak_bytes(FitSizes(n=n, d=d, n_classes=2 * int(size), pair_rows=n, params=params))
            for size in sizes
        ]
        rows_bytes = 12 * n * d
        # Targets as given, of a fold, and as a forest has them; left-out scores; and those kept.
        around = 6 * 8 * n * k + 4 * min(n, CALIBRATION_ROWS) * k
        peak_bytes: int = sum(grown) - (len(grown) - 1) * rows_bytes + around
        plan_logger.debug("%s: about %d MiB", self.name, peak_bytes // 2**20)
        check_memory(
            peak_bytes,
            limit_bytes=self.memory_limit_bytes,
            what=f"head {self.name!r} on {n} rows of {d} features and {k} labels",
            instead="head 'falkon' streams its rows and does not; or grow smaller trees with "
            "min_samples_leaf or max_depth in params",
        )
        return peak_bytes

    def decision_function(self, X: Features) -> npt.NDArray[np.float64]:
        """Return the shares of votes less one half (n, n_labels) of rows (n, d)."""
        return self._by_block(X, self.estimator.scores)

    def probabilities_of(self, scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        assert self.sigmoids is not None, "a fitted head of several labels has sigmoids"
        return self.sigmoids.probabilities(scores)

    def predict_proba(self, X: Features) -> npt.NDArray[np.float64]:
        return self.probabilities_of(self.decision_function(X))

    def save(self, folder: Path, *, keep_sums: bool = True) -> None:  # noqa: ARG002
        """Write ``head.skops`` and ``head.json``."""
        assert self.sigmoids is not None, "a fitted head has sigmoids"
        assert self.thresholds is not None, "a fitted head has thresholds"
        write_estimator(folder / SKOPS, list(self.estimator.forests))
        description = {
            "head": self.name,
            "task": self.task,
            "classes": self._classes,
            "params": self.params,
            "fitted": {
                "temperature": self.temperature,
                "forests": self.estimator.places.tolist(),
                "slopes": self.sigmoids.slopes.tolist(),
                "offsets": self.sigmoids.offsets.tolist(),
                "thresholds": self.thresholds.tolist(),
            },
            "report": self._report,
        }
        write_description(folder, json_ready(description))

    @classmethod
    def load(cls, folder: Path, description: HeadDescription) -> "LabelForestHead":
        """Read what `save` wrote; `description` is the content of ``head.json``.

        Raises
        ------
        CorruptError
            If a file is missing or damaged, or holds a type that a forest is not made of.
        """
        name, where = description.head, folder / "head.json"
        kind = KINDS.get(name)
        if kind is None or not kind.knows(MULTILABEL):
            raise CorruptError(f"{where} names head {name!r}, which knows no several labels; train again")
        forests = read_estimators(folder / SKOPS, kind.estimator_type)
        try:
            head = cls(name, description.params)
            head._take_labels(forests, description.fitted, len(description.classes))
            head._classes, head._report = list(description.classes), dict(description.report)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise CorruptError(f"{where} is damaged ({error}); train again") from error
        return head

    def _take_labels(self, forests: Sequence[Any], fitted: Mapping[str, Any], count: int) -> None:
        slopes, offsets, thresholds = (
            np.array(fitted[name], dtype=np.float64) for name in ("slopes", "offsets", "thresholds")
        )
        places = np.array(fitted["forests"], dtype=np.int64)
        shapes = {slopes.shape, offsets.shape, thresholds.shape, places.shape}
        if shapes != {(count,)} or not np.isfinite([slopes, offsets, thresholds]).all():
            raise ValueError(f"{len(slopes)} slopes, {len(thresholds)} thresholds and {count} labels")
        self.estimator = LabelForests(forests=forests, places=places)
        self.estimator.check()
        self.sigmoids = Sigmoids(slopes=slopes, offsets=offsets, log_loss=float("nan"))
        self.temperature, self.thresholds = 1.0, thresholds
