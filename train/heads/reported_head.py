"""`ReportedHead`: the part of a head that all heads have in common: report, table and predicted names."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.train.estimators.arguments import Features, Labels
from toptune.train.estimators.fit_report import LeftOutFigures
from toptune.train.passes.training_rows import LeftOutScores
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.names import CLASSIFICATION
from toptune.train.tasks.task import TargetMatrix


class ReportedHead(ABC):
    """A head that keeps its report, which holds the table of everything that was compared."""

    name: str
    task: str = CLASSIFICATION
    # From which probability each label applies, of a head that gives several.
    thresholds: npt.NDArray[np.float64] | None = None
    # The lowest and the highest step of each target, of a head whose numbers are steps of a scale.
    levels: npt.NDArray[np.float64] | None = None
    _report: dict[str, Any]
    # Set by a fit; a head that was loaded has none, because prediction needs none.
    _left_out_scores: LeftOutScores | None = None

    @property
    @abstractmethod
    def classes(self) -> list[str]:
        """Names of the classes, in the order of scores and probabilities."""

    @abstractmethod
    def predict_proba(self, X: Features) -> npt.NDArray[np.float64]:
        """Return probabilities (n, n_classes) of rows (n, d); each row sums to 1."""

    @property
    def report(self) -> dict[str, Any]:
        # The table has a file of its own in a run, ``selection.csv``.
        return {key: value for key, value in self._report.items() if key != "table"}

    @property
    def left_out(self) -> LeftOutFigures | None:
        figures = self._report["left_out"]
        return None if figures is None else LeftOutFigures(**figures)

    @property
    def left_out_scores(self) -> LeftOutScores | None:
        return self._left_out_scores

    @property
    def table(self) -> list[dict[str, Any]]:
        return list(self._report.get("table", []))

    @property
    def columns(self) -> npt.NDArray[np.int64] | None:
        """None, because these heads use every input column."""
        return None

    def predict(self, X: Features) -> Labels:
        """Return the answers (n,): the classes of highest probability, or the labels that apply."""
        labels: Labels = np.array(self.answer_form.texts(self.predict_proba(X)))
        return labels

    @property
    def answer_form(self) -> AnswerForm:
        """How probabilities become answers."""
        return AnswerForm(
            task=self.task, names=self.classes, thresholds=self.thresholds, is_ordinal=self.levels is not None
        )

    def rounded(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return numbers (n, n_targets) as answers: of a scale, the nearest step that training rows had."""
        if self.levels is None:
            return values
        # Zero is added because a little below 0 is rounded to -0.0, which would be printed so.
        return np.clip(np.rint(values), self.levels[:, 0], self.levels[:, 1]) + 0.0

    def _take_levels(self, y: TargetMatrix) -> None:
        """Take the steps of the scales from training rows.

        Raises
        ------
        InputError
            If a target is no whole number.
        """
        for name, values in zip(y.names, y.values.T, strict=True):
            broken = np.flatnonzero(values != np.rint(values))
            if len(broken):
                raise InputError(
                    f"target {name!r} is {values[broken[0]]:g} in a training row, and {len(broken)} of "
                    f"{len(values)} are no whole numbers; leave --ordinal out, or number the steps of the "
                    "scale",
                    option="ordinal",
                )
        self.levels = np.stack([y.values.min(axis=0), y.values.max(axis=0)], axis=1)
