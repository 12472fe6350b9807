"""Predictions and metrics of a run on rows whose labels are known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.features.feature_view import StoredFeatures
from toptune.text import counted, named
from toptune.train.runs.metrics import Figures, compute_metrics
from toptune.train.runs.run import Run


@dataclass(frozen=True)
class Scored:
    """What a run said of rows whose labels are known.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Row numbers of the manifest.
    labels, predicted : sequence of str, length n
        True and predicted classes.
    confidence : ndarray of float64, shape (n,)
        Probability of the predicted class.
    metrics : Figures
        What `compute_metrics` makes of the predictions.
    """

    rows: npt.NDArray[np.int64]
    labels: Sequence[str]
    predicted: Sequence[str]
    confidence: npt.NDArray[np.float64]
    metrics: Figures


def score(
    run: Run, cache: StoredFeatures, rows: npt.NDArray[np.int64], labels: Mapping[int, str] | None = None
) -> Scored:
    """Score a run on labeled rows of stored features.

    Parameters
    ----------
    run : Run
    cache : StoredFeatures
    rows : ndarray of int64, shape (n,)
        Row numbers of the manifest of `cache`.
    labels : mapping of int to str, optional
        True class of each row; by default the manifest's labels. A run that is scored again passes the labels
        that trained the run, which the manifest may have changed since.

    Raises
    ------
    InputError
        If the run does not know the class of a row.
    """
    of_rows = cache.manifest.labels if labels is None else labels
    truth = [str(of_rows[row]) for row in rows.tolist()]
    # A class that the head cannot predict would count every row as wrong.
    strange = sorted(set(truth) - set(run.classes))
    if strange:
        raise InputError(
            f"{counted(len(strange), 'class')} of the rows to test that the run does not know: "
            f"{named(strange)}; train with rows of them or leave them out of the test split"
        )
    names = [array.name for array in run.arrays]
    predicted, probabilities = (
        # Blocks of no rows have nothing to iterate over, and a run without test rows is a run all the same.
        run.predict_blocks(cache.blocks(names, rows)) if truth else ((), np.zeros((0, len(run.classes))))
    )
    guesses = [str(each) for each in predicted]
    return Scored(
        rows=rows,
        labels=truth,
        predicted=guesses,
        confidence=probabilities.max(axis=1),
        metrics=compute_metrics(truth, guesses, probabilities, run.classes),
    )
