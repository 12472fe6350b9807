"""`ReportedHead`: the part of a head that all heads have in common: report, table and predicted names."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.train.estimators.arguments import Features, Labels
from toptune.train.estimators.fit_report import LeftOutFigures
from toptune.train.passes.training_rows import LeftOutScores


class ReportedHead(ABC):
    """A head that keeps its report, which holds the table of everything that was compared."""

    name: str
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
        """Return the names (n,) of the classes of highest probability."""
        labels: Labels = np.array(self.classes)[self.predict_proba(X).argmax(axis=1)]
        return labels
