"""`ReportedHead`: the part of a head that all heads have in common: report, table and predicted names."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.train.estimators.arguments import Features, Labels
from toptune.train.estimators.fit_report import LeftOutFigures
from toptune.train.passes.training_rows import LeftOutScores
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.names import CLASSIFICATION


class ReportedHead(ABC):
    """A head that keeps its report, which holds the table of everything that was compared."""

    name: str
    task: str = CLASSIFICATION
    # From which probability each label applies, of a head that gives several.
    thresholds: npt.NDArray[np.float64] | None = None
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
        return AnswerForm(task=self.task, names=self.classes, thresholds=self.thresholds)
