"""Labels of several an image, and numbers, that left-out predictions contradict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.workflows.inspection.images import MOST_Z, modified_z
from toptune.workflows.inspection.labels import confident_labels

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """A label or a number of a row that is probably wrong.

    Attributes
    ----------
    row, column : int
        The row, and the label or target.
    score : float
        1 less the left-out probability of what is stated of the label, or the modified z-score of a residual.
    suggestion : str
        ``with LABEL``, ``without LABEL``, or ``TARGET=NUMBER``.
    told : str
        What was found, in a few words.
    """

    row: int
    column: int
    score: float
    suggestion: str
    told: str


def doubtful_labels(
    probabilities: npt.NDArray[np.floating], values: Matrix, names: Sequence[str]
) -> list[Doubt]:
    """Find labels that contradict predictions, each label by itself.

    Whether a label applies is a problem of two classes, to which `confident_labels` is put.

    Parameters
    ----------
    probabilities : ndarray, shape (n, k)
        Left-out probability that a label applies; NaN where no fit left the row out.
    values : ndarray of float64, shape (n, k)
        1 where a label applies, 0 where it does not, NaN where nobody knows.
    names : sequence of str
        The k labels.

    Examples
    --------
    >>> likely = np.array([[0.9], [0.8], [0.1], [0.2], [0.9]])
    >>> applies = np.array([[1.0], [1.0], [0.0], [0.0], [0.0]])
    >>> [(each.row, each.suggestion) for each in doubtful_labels(likely, applies, ["dog"])]
    [(4, 'with dog')]
    """
    found = []
    for column, name in enumerate(names):
        known = np.flatnonzero(np.isfinite(values[:, column]) & np.isfinite(probabilities[:, column]))
        applies = values[known, column].astype(np.int64)
        if len(set(applies.tolist())) < 2:
            continue
        likely = probabilities[known, column].astype(np.float32)
        checked = confident_labels(np.stack([1 - likely, likely], axis=1), applies)
        for at in np.flatnonzero(checked.is_issue).tolist():
            word = "without" if applies[at] else "with"
            found.append(
                Doubt(
                    row=int(known[at]),
                    column=column,
                    score=float(1 - checked.self_confidence[at]),
                    suggestion=f"{word} {name}",
                    told=f"rather {word} {name}, which is {likely[at]:.3f} likely",
                )
            )
    return found


def doubtful_numbers(predicted: Matrix, values: Matrix, names: Sequence[str]) -> list[Doubt]:
    """Find numbers that are far from predictions, measured by the residuals of the other rows.

    Parameters
    ----------
    predicted, values : ndarray of float64, shape (n, k)
        Left-out predictions, NaN where no fit left the row out, and the stated numbers.
    names : sequence of str
        The k targets.
    """
    found = []
    for column, name in enumerate(names):
        known = np.flatnonzero(np.isfinite(predicted[:, column]))
        residuals = values[known, column] - predicted[known, column]
        if not len(known) or not residuals.any():
            continue
        # Each side has its own scale, because residuals of counts and prices are lopsided.
        scores = np.maximum(modified_z(residuals, least=0.0), modified_z(-residuals, least=0.0))
        for at in np.flatnonzero(scores > MOST_Z).tolist():
            row = int(known[at])
            likely = f"{name}={predicted[row, column]:.6g}"
            found.append(
                Doubt(
                    row=row,
                    column=column,
                    score=float(scores[at]),
                    suggestion=likely,
                    told=f"{name}={values[row, column]:.6g}, rather {likely}: {scores[at]:.1f} deviations",
                )
            )
    return found
