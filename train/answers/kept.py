"""`Kept`: what a training leaves in a RUN folder for sets of labels and for novelty."""

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
from toptune.train.answers.things import LOGS
from toptune.train.numerics.calibration import softmax
from toptune.train.passes.training_rows import LeftOutScores

Rows = npt.NDArray[np.int64]


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


def kept_scores(
    scores: LeftOutScores | None,
    temperature: float | None,
    *,
    codes: Rows,
    rows: Rows,
    things: Sequence[str] | None = None,
    way: str = LOGS,
) -> LeftOut | None:
    """Return the left-out probabilities that follow from left-out scores.

    Parameters
    ----------
    scores : LeftOutScores, optional
    temperature : float, optional
        Probabilities are the softmax of scores divided by it.
    codes : ndarray of int64, shape (n,)
        Class of each training row.
    rows : ndarray of int64, shape (n,)
        Row of the manifest of each training row.
    things : sequence of str, length n, optional
        The thing that each training row shows.
    way : str
        How the rows of a thing become one answer.
    """
    if scores is None or temperature is None:
        return None
    probabilities = softmax(scores.scores.astype(np.float64), temperature)
    found = LeftOut.of(rows[scores.rows], codes[scores.rows], probabilities)
    if things is None:
        return found
    of_rows = [things[row] for row in scores.rows.tolist()]
    return found.with_things(of_rows, codes[scores.rows], probabilities, way=way)
