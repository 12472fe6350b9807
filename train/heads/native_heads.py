"""Heads on toptune's own estimators: saved as safetensors and JSON."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError
from toptune.store.files.json_values import json_ready
from toptune.train.estimators.arguments import Features, Params
from toptune.train.heads.files import HeadDescription, read_arrays, write_arrays, write_description
from toptune.train.heads.kind import HeadKind, NativeForm
from toptune.train.heads.kinds import kind_of
from toptune.train.heads.reported_head import ReportedHead
from toptune.train.numerics.calibration import softmax
from toptune.train.numerics.sigmoids import Sigmoids
from toptune.train.numerics.thresholds import ThresholdRule, choose_thresholds
from toptune.train.rows.folds import FoldsReducedWarning
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL, REGRESSION
from toptune.train.tasks.task import TargetMatrix

# What a head of several labels has beside the arrays of its form.
_OF_LABELS = ("slopes", "offsets", "thresholds")


class OwnHead(ReportedHead):
    """`Head` over one of toptune's own classifiers."""

    def __init__(
        self,
        name: str,
        params: Params,
        *,
        seed: int = 0,
        cv: int | str | None = 5,
        class_weight: str | None = None,
        device: str | None = None,
        memory_limit_bytes: int | None = None,
        dask: str | None = None,
        task: str = CLASSIFICATION,
        threshold: str | float = "f1",
        ordinal: bool = False,
    ) -> None:
        self.name = name
        self.ordinal = ordinal
        self.task = task
        self.rule = ThresholdRule.of(threshold)
        self.kind = kind_of(name).for_task(task)
        self.form = _form_of(self.kind)
        self.params = dict(params)
        options: dict[str, object] = {
            "cv": cv,
            "random_state": seed,
            "memory_limit_bytes": memory_limit_bytes,
        }
        options |= {"class_weight": class_weight} if self.kind.takes_class_weight else {}
        options |= {"device": device} if self.form.takes_device else {}
        options |= {} if dask is None else {"dask": dask}
        self.estimator: Any = self.kind.estimator_type(**self.params, **options)
        self._report: dict[str, Any] = {}
        # The names of several labels stay here, because the estimator knows columns only.
        self._names: tuple[str, ...] = ()

    @property
    def classes(self) -> list[str]:
        return list(self._names) or [str(name) for name in self.estimator.classes_]

    @property
    def temperature(self) -> float | None:
        return None if self.task == REGRESSION else float(self.estimator.temperature_)

    @property
    def columns(self) -> npt.NDArray[np.int64] | None:
        columns: npt.NDArray[np.int64] | None = getattr(self.estimator, "columns_", None)
        return None if columns is None or len(columns) == self.estimator.n_features_in_ else columns

    def on_columns(self) -> "OwnHead":
        return self if self.columns is None else self.with_estimator(self.estimator.on_kept(), self._report)

    def fit(
        self, X: Features, y: npt.ArrayLike | TargetMatrix, *, groups: Sequence[str] | None = None
    ) -> Self:
        targets = y.values if isinstance(y, TargetMatrix) else np.asarray(y)
        if self.ordinal and isinstance(y, TargetMatrix):
            self._take_levels(y)
        with warnings.catch_warnings():
            # The report says the same, and a run prints it as a note.
            warnings.simplefilter("ignore", FoldsReducedWarning)
            self.estimator.fit(X, targets, groups=groups)
        self._report = json_ready(self.estimator.report_.to_dict())
        self._left_out_scores = self.estimator.left_out_scores_
        if isinstance(y, TargetMatrix):
            self._names = y.names
            if self.task == MULTILABEL:
                self.thresholds = self._chosen_thresholds(targets)
        return self

    def _chosen_thresholds(self, targets: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Choose the threshold of each label by left-out rows; without any, 0.5."""
        left, rule = self._left_out_scores, self.rule
        if left is None:
            even = rule if rule.how == "fixed" else ThresholdRule("fixed")
            return choose_thresholds(targets[:0], targets[:0], even)
        probabilities = np.asarray(self.estimator.sigmoids_.probabilities(left.scores), np.float64)
        return choose_thresholds(probabilities, targets[left.rows], rule)

    def with_estimator(self, estimator: object, report: Mapping[str, object]) -> "OwnHead":
        """Return the head of the same name and parameters over another fitted estimator."""
        head = OwnHead(self.name, self.params, task=self.task)
        head.estimator = estimator
        head._names, head.thresholds, head.levels = self._names, self.thresholds, self.levels
        head._report = json_ready(dict(report))
        return head

    def probabilities_of(self, scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        if self.thresholds is not None:
            return np.asarray(self.estimator.sigmoids_.probabilities(scores), np.float64)
        assert self.temperature is not None, "a head of classes has a temperature"
        return softmax(scores, self.temperature)

    def for_labels(self, names: Sequence[str], thresholds: npt.NDArray[np.float64]) -> "OwnHead":
        """Return this head with other names and thresholds of its labels."""
        head = self.with_estimator(self.estimator, self._report)
        head._names, head.thresholds = tuple(names), thresholds
        return head

    def decision_function(self, X: Features) -> npt.NDArray[np.float64]:
        scores: npt.NDArray[np.float64] = self.estimator.scores(X)
        return scores

    def predict_proba(self, X: Features) -> npt.NDArray[np.float64]:
        if self.task == REGRESSION:
            return self.rounded(self.decision_function(X))
        probabilities: npt.NDArray[np.float64] = self.estimator.predict_proba(X)
        return probabilities

    def save(self, folder: Path, *, keep_sums: bool = True) -> None:
        """Write ``head.safetensors``, ``head.json`` and, if a fit keeps its sums, ``sums.safetensors``."""
        estimator = self.estimator
        arrays = {name: getattr(estimator, f"{name}_") for name in self.form.arrays}
        # Which rows are centers is needed when rows of a run are removed, not for prediction.
        if getattr(estimator, "center_indices_", None) is not None:
            arrays["center_indices"] = estimator.center_indices_
        if self.thresholds is not None:
            sigmoids = estimator.sigmoids_
            arrays |= {"slopes": sigmoids.slopes, "offsets": sigmoids.offsets, "thresholds": self.thresholds}
        arrays |= {} if self.levels is None else {"levels": self.levels}
        write_arrays(folder, arrays)
        if keep_sums and getattr(estimator, "sums_", None) is not None:
            estimator.sums_.save(folder)
        fitted = {name: getattr(estimator, f"{name}_") for name in self.form.values}
        fitted |= {name: getattr(estimator, name) for name in self.form.settings}
        fitted |= {"temperature": self.temperature, "n_features": estimator.n_features_in_}
        description = {
            "head": self.name,
            "task": self.task,
            "classes": self.classes,
            "params": self.params,
            "fitted": fitted,
            "report": self._report,
        }
        write_description(folder, json_ready(description))

    @classmethod
    def load(cls, folder: Path, description: HeadDescription, *, device: str | None = None) -> "OwnHead":
        """Read what `save` wrote; `description` is the content of ``head.json``."""
        name = description.head
        is_multilabel, is_regression = (description.task == each for each in (MULTILABEL, REGRESSION))
        arrays = read_arrays(
            folder,
            (
                *_form_of(kind_of(name).for_task(description.task)).arrays,
                *(_OF_LABELS if is_multilabel else ()),
            ),
        )
        try:
            fitted: Mapping[str, Any] = description.fitted
            head = cls(name, description.params, device=device, task=description.task)
            estimator = head.estimator
            for key, values in arrays.items():
                setattr(estimator, f"{key}_", values)
            for key in head.form.values:
                setattr(estimator, f"{key}_", fitted[key])
            # Prediction needs no sums; an update reads them from their own file.
            estimator.sums_ = None
            if is_regression:
                head._take_targets(arrays, description.classes)
            else:
                estimator.classes_ = np.array(description.classes)
                estimator.temperature_ = float(fitted["temperature"])
                check_temperature(estimator.temperature_)
            estimator.n_features_in_ = int(fitted["n_features"])
            for key in head.form.settings:
                setattr(estimator, key, fitted[key])
            if is_multilabel:
                head._take_labels(arrays, description.classes)
            _check_values(fitted)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CorruptError(f"{folder / 'head.json'} is damaged ({error}); train again") from error
        # Files of two runs that were mixed up would predict wrong names without an error.
        _check_shapes(folder, arrays, n_classes=len(description.classes))
        head._report = dict(description.report)
        return head

    def _take_targets(self, arrays: Mapping[str, npt.NDArray[np.generic]], names: Sequence[str]) -> None:
        """Take over what only a head of numbers has."""
        if len(arrays["target_mean"]) != len(names):
            raise ValueError(f"{len(arrays['target_mean'])} target means and {len(names)} targets")
        self._names, self.estimator.n_targets_ = tuple(names), len(names)
        if "levels" in arrays:
            self.levels = np.asarray(arrays["levels"], np.float64)

    def _take_labels(self, arrays: Mapping[str, npt.NDArray[np.generic]], names: Sequence[str]) -> None:
        """Take over what only a head of several labels has."""
        slopes, offsets, thresholds = (np.asarray(arrays[name], np.float64) for name in _OF_LABELS)
        if not len(slopes) == len(offsets) == len(thresholds) == len(names):
            raise ValueError(f"{len(slopes)} slopes, {len(thresholds)} thresholds and {len(names)} labels")
        self._names, self.thresholds = tuple(names), thresholds
        self.estimator.sigmoids_ = Sigmoids(slopes=slopes, offsets=offsets, log_loss=np.nan)
        self.estimator.classes_ = np.arange(len(names))


def check_temperature(temperature: float) -> None:
    """Refuse a temperature by which no scores can be divided."""
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature is {temperature}, which must be above 0 and finite")


def _check_values(fitted: Mapping[str, Any]) -> None:
    """Refuse fitted numbers that no fit gives: not finite, below 0, or no width of a kernel."""
    for name, value in fitted.items():
        if isinstance(value, int | float) and not 0 <= value < np.inf:
            raise ValueError(f"{name} is {value}, which must not be below 0, and finite")
    if fitted.get("sigma") == 0:
        raise ValueError("sigma is 0, which must be above 0")


def _form_of(kind: HeadKind) -> NativeForm:
    if not isinstance(kind.form, NativeForm):
        raise TypeError(f"head {kind.name!r} is not made of an estimator of toptune's own")
    return kind.form


def _check_shapes(folder: Path, arrays: Mapping[str, npt.NDArray[np.generic]], *, n_classes: int) -> None:
    """Refuse arrays that belong to other classes than ``head.json`` names."""
    found = None
    if "codes" in arrays:
        codes = arrays["codes"]
        found = codes.shape[1] if codes.ndim == 2 else int(codes.max()) + 1
    elif of_classes := [arrays[name] for name in ("intercept", "means") if name in arrays]:
        found = len(of_classes[0])
    if found not in (None, n_classes):
        raise CorruptError(f"{folder} holds {found} scores for {n_classes} classes; train again")
