"""Predictions and metrics of a run on rows whose labels are known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.feature_view import StoredFeatures
from toptune.text import counted, named
from toptune.train.answers.class_tree import ClassTree
from toptune.train.answers.things import Things
from toptune.train.figures.metrics import Answers, ClassTables, codes_of, figures_of
from toptune.train.figures.tables import Tables
from toptune.train.figures.target_answers import target_answers, target_figures
from toptune.train.runs.beside import Beside
from toptune.train.runs.run import Run
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import CLASSIFICATION

Rows = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]
# What looks at the classes and probabilities of some rows, and returns the probabilities that are scored.
Look: TypeAlias = Callable[[Rows, Rows, Probabilities], Probabilities]

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
        True and predicted classes, or what else the task answers; see `Task`.
    confidence : ndarray of float64, shape (n,)
        Probability of the predicted class; see `AnswerForm.confidence`.
    tables : Tables
        Confusion matrix and figures of each class, or what another task has.
    metrics : mapping
        What `figures_of`, or `label_figures`, makes of the predictions.
    """

    rows: npt.NDArray[np.int64]
    labels: Sequence[str]
    predicted: Sequence[str]
    confidence: npt.NDArray[np.float64]
    tables: Tables
    metrics: dict[str, Any]


def score(
    run: Run,
    cache: StoredFeatures,
    rows: npt.NDArray[np.int64],
    labels: Mapping[int, str] | None = None,
    *,
    tree: ClassTree | None = None,
) -> Scored:
    """Score a run on labeled rows of stored features, and the things that they show.

    Parameters
    ----------
    run : Run
    cache : StoredFeatures
    rows : ndarray of int64, shape (n,)
        Row numbers of the manifest of `cache`.
    labels : mapping of int to str, optional
        True class of each row; by default the manifest's labels. A run that is scored again passes the labels
        that trained the run, which the manifest may have changed since.
    tree : ClassTree, optional
        Of the classes, whose levels are measured.

    Raises
    ------
    InputError
        If the run does not know the class of a row.
    """
    names = [array.name for array in run.arrays]

    def answer(some: Rows) -> list[Probabilities]:
        return [run.predict_blocks(cache.blocks(names, some))[1]]

    beside = Beside.of(run.record, run.form, cache.manifest, rows, tree)
    look = None if beside is None else beside.gathered
    (scored,) = score_together(
        answer, rows, forms=[run.form], manifest=cache.manifest, labels=labels, looks=[look]
    )

    def of_means(things: Things) -> Probabilities:
        return run.predict_blocks(things.means_of(cache.blocks(names, rows)))[1]

    return scored if beside is None else beside.added_to(scored, of_means)


def score_together(
    answer: Callable[[Rows], Sequence[Probabilities]],
    rows: Rows,
    *,
    forms: Sequence[AnswerForm],
    manifest: Manifest,
    labels: Mapping[int, str] | None = None,
    looks: Sequence[Look | None] = (),
) -> list[Scored]:
    """Score classifiers, one of each form, on the same labeled rows.

    Parameters
    ----------
    answer : callable (rows) -> sequence of ndarray, shape (b, n_classes)
        Probabilities of some rows by each classifier.
    rows : ndarray of int64, shape (n,)
        Row numbers of the manifest.
    forms : sequence of AnswerForm
        How the answers of each classifier are read. All have the same task and classes.
    manifest : Manifest
    labels : mapping of int to str, optional
        As of `score`.
    looks : sequence of callable (rows, codes, probabilities) -> probabilities, or None
        Each sees what a classifier says of some rows (b,) of the classes (b,), and returns what is scored;
        only where a row is of one class. Classifiers behind the last have none.

    Returns
    -------
    list of Scored
        One for each classifier.

    Raises
    ------
    InputError
        If the class of a row is none of the classes.
    """
    classes, task = forms[0].names, task_of(forms[0].task)
    of_rows = manifest.labels if labels is None else labels
    truth = [str(of_rows[row]) for row in rows.tolist()]
    # A class that the head cannot predict would count every row as wrong.
    strange = sorted(set(task.names(truth)) - set(classes))
    if strange:
        what = "class" if task.name == CLASSIFICATION else "label"
        raise InputError(
            f"{counted(len(strange), what)} of the rows to test that the run does not know: "
            f"{named(strange)}; train with rows of them or leave them out of the test split"
        )
    if task.name != CLASSIFICATION:
        return _score_targets(answer, rows, truth=truth, forms=forms)
    codes = codes_of(truth, classes)
    # So many rows are predicted at a time that the probabilities of all classes fit.
    step = max(_LEAST_ROWS, _PROBABILITY_BYTES // (8 * len(classes)))
    parts: list[list[Answers]] = [[] for _ in forms]
    watching = [*looks, *[None] * (len(forms) - len(looks))]
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        for of_one, probabilities, look in zip(parts, answer(rows[some]), watching, strict=True):
            seen = probabilities if look is None else look(rows[some], codes[some], probabilities)
            of_one.append(Answers.of(codes[some], seen))
    return [_scored(Answers.joined(of_one), rows, truth=truth, classes=classes) for of_one in parts]


def _scored(answers: Answers, rows: Rows, *, truth: Sequence[str], classes: Sequence[str]) -> Scored:
    tables = ClassTables.of(answers, classes)
    return Scored(
        rows=rows,
        labels=truth,
        predicted=[classes[code] for code in answers.guesses.tolist()],
        confidence=answers.confidence,
        tables=tables,
        metrics=dict(figures_of(answers, tables)),
    )


def _score_targets(
    answer: Callable[[Rows], Sequence[Probabilities]],
    rows: Rows,
    *,
    truth: Sequence[str],
    forms: Sequence[AnswerForm],
) -> list[Scored]:
    """Do what `score_together` does, for a task whose figures need all answers at once."""
    names = forms[0].names
    step = max(_LEAST_ROWS, _PROBABILITY_BYTES // (8 * len(names)))
    values = [np.empty((len(rows), len(names))) for _ in forms]
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        for of_one, found in zip(values, answer(rows[some]), strict=True):
            of_one[some] = found
    return [scored_targets(each, rows, truth=truth, form=form)
            for each, form in zip(values, forms, strict=True)]  # fmt: skip


def scored_targets(values: Probabilities, rows: Rows, *, truth: Sequence[str], form: AnswerForm) -> Scored:
    """Score answers (n, k) of rows for a task other than classification.

    Parameters
    ----------
    values : ndarray of float64, shape (n, k)
    rows : ndarray of int64, shape (n,)
        Row numbers of the manifest.
    truth : sequence of str, length n
        What the rows teach, as text; see `Task`.
    form : AnswerForm
    """
    tables = target_answers(values, truth, form)
    return Scored(
        rows=rows,
        labels=truth,
        predicted=form.texts(values),
        confidence=form.confidence(values),
        tables=tables,
        metrics=target_figures(tables),
    )
