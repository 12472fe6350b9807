"""Figures of merit of answers for things, beside those of images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.train.answers.things import Things
from toptune.train.figures.metrics import Answers, ClassTables, codes_of, figures_of
from toptune.train.figures.target_answers import target_answers, target_figures
from toptune.train.numerics.thresholds import EVEN
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.names import CLASSIFICATION

Values = npt.NDArray[np.float64]
# Figures of a level or of things that the whole has as well.
_NAMES = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "expected_calibration_error")
# Figures of the whole that things have no part in, or that would be too many.
_LEFT = ("per_label", "n_test")


def thing_figures(
    things: Things, said: Values, truth: Sequence[str], *, form: AnswerForm, by: str, way: str
) -> dict[str, Any]:
    """Return how things are answered, and how well.

    Parameters
    ----------
    things : Things
    said : ndarray of float64, shape (n_things, k)
        What is said of each thing.
    truth : sequence of str, length n_things
        What each thing teaches, as text; see `Things.labels`.
    form : AnswerForm
    by, way : str
        What tells the things, and how their images became one answer.
    """
    how = {
        "answer_by": by,
        "answer_from": way,
        "n_things": len(things.names),
        "mean_images": float(things.counts.mean()),
    }
    if form.task == CLASSIFICATION:
        return how | plain_figures([Answers.of(codes_of(truth, form.names), said)], form.names)
    found = target_figures(target_answers(said, truth, form))
    return how | {name: value for name, value in found.items() if name not in _LEFT}


def thing_form(form: AnswerForm, thresholds: Mapping[str, float] | None) -> AnswerForm:
    """Return how probabilities of things become answers, by thresholds of their labels, if there are any."""
    if thresholds is None:
        return form
    return replace(form, thresholds=np.array([thresholds.get(name, EVEN) for name in form.names]))


def plain_figures(parts: Sequence[Answers], names: Sequence[str]) -> dict[str, Any]:
    """Return the figures of answers without those of each class."""
    answers = Answers.joined(parts)
    figures = figures_of(answers, ClassTables.of(answers, names))
    return {name: figures.get(name) for name in _NAMES}
