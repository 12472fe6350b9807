"""What every head does alike with its report, its classes and its probabilities."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store.features.blocks import Blocks


class ReportedHead(ABC):
    """A head that keeps its report, with the table of what was compared in it."""

    name: str
    _report: dict[str, Any]

    @property
    @abstractmethod
    def classes(self) -> list[str]:
        """Names of the classes, in the order of scores and probabilities."""

    @abstractmethod
    def predict_proba(self, X: npt.NDArray[Any] | Blocks) -> npt.NDArray[np.float64]:
        """Probabilities (n, n_classes), rows summing to 1."""

    @property
    def report(self) -> dict[str, Any]:
        return {key: value for key, value in self._report.items() if key != "table"}

    @property
    def table(self) -> list[dict[str, Any]]:
        return list(self._report.get("table", []))

    @property
    def columns(self) -> npt.NDArray[np.int64] | None:
        """None: it uses all its inputs."""
        return None

    def predict(self, X: npt.NDArray[Any] | Blocks) -> npt.NDArray[Any]:
        """Names (n,) of the classes of highest probability."""
        labels: npt.NDArray[Any] = np.array(self.classes)[self.predict_proba(X).argmax(axis=1)]
        return labels
