"""`Kept`: what a training leaves in a RUN folder for sets of labels and for novelty; `Said`: what it was."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toptune.train.answers.class_tree import ClassTree
from toptune.train.answers.files import ADVICE
from toptune.train.answers.intervals import LeftOutErrors
from toptune.train.answers.left_out import LeftOut
from toptune.train.answers.novelty import Novelty
from toptune.train.answers.things import FEATURES, LOGS, Things
from toptune.train.numerics.thresholds import FIXED, ThresholdRule, choose_thresholds
from toptune.train.tasks.names import MULTILABEL, REGRESSION

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """Left-out probabilities and novelty; None of what a training could not tell.

    Attributes
    ----------
    left_out : LeftOut, LeftOutErrors or None
        Of classes or of numbers; None for a head that left out no rows.
    novelty : Novelty or None
        None of a run of several heads, whose heads have one each.
    tree : ClassTree or None
        None of a run without a tree of its classes.
    """

    left_out: LeftOut | LeftOutErrors | None = None
    novelty: Novelty | None = None
    tree: ClassTree | None = None

    def write(self, folder: Path) -> None:
        """Write the files of what there is."""
        for each in (self.left_out, self.novelty, self.tree):
            if each is not None:
                each.write(folder)

    @classmethod
    def read(cls, folder: Path, *, n_columns: int, targets: Sequence[str] | None = None) -> "Kept":
        """Read what there is, in a run of numbers for its targets.

        Errors are those of `LeftOut.read`, `LeftOutErrors.read` and `Novelty.read`.
        """
        said = (
            LeftOut.read(folder, advice=ADVICE)
            if targets is None
            else LeftOutErrors.read(folder, targets, advice=ADVICE)
        )
        return cls(
            left_out=said,
            novelty=Novelty.read(folder, n_columns=n_columns, advice=ADVICE),
        )

    def changed(self, labeled: Rows, pictured: Rows) -> "Kept":
        """Return what stays after an update, which reads changed images alone.

        Parameters
        ----------
        labeled, pictured : ndarray of int64, shape (n_before,)
            For each row of the manifest before, its row of the new manifest; -1 where the image, or in
            `labeled` its label, is not the one that trained.
        """
        return Kept(
            left_out=self.left_out and self.left_out.changed(labeled),
            tree=self.tree,
            novelty=self.novelty and self.novelty.changed(pictured),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Said:
    """What fits said of training rows that they had left out, of all rows or of a sample.

    Attributes
    ----------
    task : str
    names : sequence of str
        Classes, labels or targets.
    values : ndarray of float64, shape (n, k)
        Probabilities, or numbers.
    truth : ndarray of int64, shape (n,), or of float64, shape (n, k)
        Class of each row, or its targets.
    rows : ndarray of int64, shape (n,)
        Rows of the manifest.
    things : sequence of str, length n, optional
        The thing that each row shows. Rows of one thing share a fold, so that all of it was said by fits
        without any of them.
    way : str
        How the rows of a thing become one answer. From means of features nothing was left out, so that
        nothing is said of things then.
    is_ordinal : bool
        Whether numbers are steps of a scale, to which answers of things are rounded.
    """

    task: str
    names: Sequence[str]
    values: Values
    truth: npt.NDArray[np.int64] | Values
    rows: Rows
    things: Sequence[str] | None = None
    way: str = LOGS
    is_ordinal: bool = False

    def kept(self) -> LeftOut | LeftOutErrors | None:
        """Return what a run keeps of it; None where no label applies to any row."""
        of_things = self._of_things()
        things = None if of_things is None else self.things
        if self.task == REGRESSION:
            return LeftOutErrors(
                rows=self.rows,
                errors=np.abs(self.values - self.truth),
                names=tuple(self.names),
                things=things,
                thing_errors=None if of_things is None else np.abs(of_things - self.truth),
            )
        # Pairs of a row and what is true of it: its class, or each label that applies.
        if self.task == MULTILABEL:
            of_rows, codes = np.nonzero(self.truth == 1)
        else:
            of_rows, codes = np.arange(len(self.rows)), self.truth.astype(np.int64)
        at = of_rows, codes
        if not len(of_rows):
            return None
        return LeftOut(
            rows=self.rows[of_rows],
            likelihood=self.values[at],
            things=None if things is None else [things[row] for row in of_rows.tolist()],
            thing_likelihood=None if of_things is None else of_things[at],
        )

    def thing_thresholds(self, rule: ThresholdRule) -> dict[str, float] | None:
        """Choose from which probability each label of a thing applies; None where nothing tells it."""
        if self.task != MULTILABEL or self.things is None:
            return None
        if rule.how == FIXED:
            return dict.fromkeys(self.names, rule.value)
        of_things = self._of_things()
        if of_things is None:
            return None
        # Rows of a thing have the same labels and the same answer, of which one counts.
        first = np.unique(np.array(self.things), return_index=True)[1]
        found = choose_thresholds(of_things[first], self.truth[first].astype(np.float64), rule)
        return dict(zip(self.names, found.tolist(), strict=True))

    def _of_things(self) -> Values | None:
        """Return for each row (n, k) what the rows of its thing say together."""
        if self.things is None or self.way == FEATURES:
            return None
        numbered = Things.of(self.things)
        said = numbered.answers(self.values, task=self.task, way=self.way, is_ordinal=self.is_ordinal)
        return said[numbered.codes]
