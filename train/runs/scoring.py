"""Predictions and metrics of a run on rows whose labels are known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.feature_view import StoredFeatures
from toptune.text import counted, named
from toptune.train.runs.metrics import Answers, ClassTables, Figures, codes_of, figures_of
from toptune.train.runs.run import Run

Rows = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]

# Memory of the probabilities of the rows that are scored at a time. Ten thousand test rows of ten thousand
# classes would take 800 MB at once, and three times as much while they are made.
_PROBABILITY_BYTES, _LEAST_ROWS = 32 * 2**20, 256


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
    tables : ClassTables
        Confusion matrix and figures of each class.
    metrics : Figures
        What `figures_of` makes of the predictions.
    """

    rows: npt.NDArray[np.int64]
    labels: Sequence[str]
    predicted: Sequence[str]
    confidence: npt.NDArray[np.float64]
    tables: ClassTables
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
    names = [array.name for array in run.arrays]

    def answer(some: Rows) -> list[Probabilities]:
        return [run.predict_blocks(cache.blocks(names, some))[1]]

    (scored,) = score_together(answer, rows, classes=run.classes, manifest=cache.manifest, labels=labels)
    return scored


def score_together(
    answer: Callable[[Rows], Sequence[Probabilities]],
    rows: Rows,
    *,
    classes: Sequence[str],
    manifest: Manifest,
    labels: Mapping[int, str] | None = None,
    count: int = 1,
) -> list[Scored]:
    """Score classifiers, `count` of them, on the same labeled rows.

    Parameters
    ----------
    answer : callable (rows) -> sequence of ndarray, shape (b, n_classes)
        Probabilities of some rows by each classifier.
    rows : ndarray of int64, shape (n,)
        Row numbers of the manifest.
    classes : sequence of str
        Classes of all classifiers, in the order of the probabilities.
    manifest : Manifest
    labels : mapping of int to str, optional
        As of `score`.

    Returns
    -------
    list of Scored
        One for each classifier.

    Raises
    ------
    InputError
        If the class of a row is none of `classes`.
    """
    of_rows = manifest.labels if labels is None else labels
    truth = [str(of_rows[row]) for row in rows.tolist()]
    # A class that the head cannot predict would count every row as wrong.
    strange = sorted(set(truth) - set(classes))
    if strange:
        raise InputError(
            f"{counted(len(strange), 'class')} of the rows to test that the run does not know: "
            f"{named(strange)}; train with rows of them or leave them out of the test split"
        )
    codes = codes_of(truth, classes)
    # So many rows are predicted at a time that the probabilities of all classes fit.
    step = max(_LEAST_ROWS, _PROBABILITY_BYTES // (8 * len(classes)))
    parts: list[list[Answers]] = [[] for _ in range(count)]
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        for of_one, probabilities in zip(parts, answer(rows[some]), strict=True):
            of_one.append(Answers.of(codes[some], probabilities))
    return [_scored(Answers.joined(of_one), rows, truth=truth, classes=classes) for of_one in parts]


def _scored(answers: Answers, rows: Rows, *, truth: Sequence[str], classes: Sequence[str]) -> Scored:
    tables = ClassTables.of(answers, classes)
    return Scored(
        rows=rows,
        labels=truth,
        predicted=[classes[code] for code in answers.guesses.tolist()],
        confidence=answers.confidence,
        tables=tables,
        metrics=figures_of(answers, tables),
    )
