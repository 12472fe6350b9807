"""`AnswerForm`: how the numbers that a run gives for a row become its answer, by the run's task."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.train.tasks.multilabel import joined_labels
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL
from toptune.train.tasks.regression import target_text

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerForm:
    """What the columns of a run's answers stand for.

    Attributes
    ----------
    task : str
        Name of the task.
    names : sequence of str
        Classes, labels or targets, in the order of the columns.
    thresholds : ndarray of float64, shape (n_labels,), or None
        Of several labels: the probability from which each label is taken to apply. None is 0.5 for all.
    is_ordinal : bool
        Of numbers: whether they are steps of a scale, to which answers are rounded.
    """

    task: str
    names: Sequence[str]
    thresholds: Values | None = None
    is_ordinal: bool = False

    def applies(self, probabilities: Values) -> npt.NDArray[np.bool_]:
        """Tell which labels apply (n, n_labels), by their probabilities."""
        applies: npt.NDArray[np.bool_] = probabilities >= (
            0.5 if self.thresholds is None else self.thresholds
        )
        return applies

    def texts(self, values: Values) -> list[str]:
        """Return the answers (n,) as one text each, in the form in which labels of rows are kept."""
        if self.task == CLASSIFICATION:
            return [self.names[code] for code in values.argmax(axis=1).tolist()]
        if self.task == MULTILABEL:
            return [
                joined_labels([self.names[at] for at in np.flatnonzero(row).tolist()])
                for row in self.applies(values)
            ]
        return [target_text(self.names, row) for row in values.tolist()]

    def confidence(self, values: Values) -> Values:
        """Return how sure the answers (n,) are: the probability of the class, or of the least sure label.

        Of numbers, which have no probability, NaN.
        """
        if self.task == CLASSIFICATION:
            sure: Values = values.max(axis=1)
        elif self.task == MULTILABEL:
            sure = np.where(self.applies(values), values, 1 - values).min(axis=1)
        else:
            sure = np.full(len(values), np.nan)
        return sure
