"""Answers of several labels, or of numbers, beside the truth that texts of rows hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.train.figures.label_figures import LabelAnswers, label_figures
from toptune.train.figures.number_figures import NumberAnswers, number_figures
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import REGRESSION

Values = npt.NDArray[np.float64]


def target_answers(values: Values, truth: Sequence[str], form: AnswerForm) -> LabelAnswers | NumberAnswers:
    """Put answers (n, k) of a task other than classification beside what the rows (n,) teach, as text."""
    targets = task_of(form.task).targets(truth, form.names).values
    if form.task == REGRESSION:
        return NumberAnswers(truth=targets, predicted=values, names=form.names, is_ordinal=form.is_ordinal)
    thresholds = np.full(len(form.names), 0.5) if form.thresholds is None else form.thresholds
    return LabelAnswers(truth=targets, probabilities=values, thresholds=thresholds, names=form.names)


def target_figures(answers: LabelAnswers | NumberAnswers) -> dict[str, Any]:
    """Compute the figures of such answers, as `label_figures` or `number_figures` does."""
    return number_figures(answers) if isinstance(answers, NumberAnswers) else label_figures(answers)
