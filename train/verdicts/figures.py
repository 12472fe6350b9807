"""How well sets of labels, answers of things and classes of a tree hold on rows whose labels are known."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.train.answers.class_tree import ClassTree
from toptune.train.answers.conformal import label_sets
from toptune.train.answers.gathered import Gathered
from toptune.train.answers.options import AnswerOptions
from toptune.train.answers.thing_figures import thing_figures
from toptune.train.answers.things import FEATURES, Things
from toptune.train.figures.label_figures import LabelAnswers
from toptune.train.figures.number_figures import NumberAnswers
from toptune.train.figures.target_answers import target_answers
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.verdicts.verdicts import Verdicts

logger = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def set_figures(
    verdicts: Verdicts, holds: npt.NDArray[np.bool_] | Values, sizes: Rows, *, of_things: bool
) -> dict[str, Any]:
    """Measure sets of labels: how many hold the true one, and how large the sets are.

    Parameters
    ----------
    verdicts : Verdicts
    holds : ndarray of bool or float64, shape (n,)
        Whether each set holds the true class, or which share of the true labels it holds.
    sizes : ndarray of int64, shape (n,)
        Classes in each set.
    of_things : bool
        Whether the sets are of things.
    """
    asked = verdicts.options.coverage
    assert asked is not None, "coverage was asked for"
    n_left_out, n = verdicts.calibration(of_things=of_things).n_rows, len(holds)
    variance = asked * (1 - asked) if holds.dtype == np.bool_ else float(holds.var())
    # Both samples are drawn: the left-out rows, of which the threshold is a quantile, and those measured on.
    deviation = float(np.sqrt(variance * (1 / n + 1 / n_left_out)))
    return {
        "asked": asked,
        "coverage": float(holds.mean()),
        "standard_error": deviation,
        "mean_size": float(sizes.mean()),
        "n_empty": int((sizes == 0).sum()),
        "sizes": {str(size): count for size, count in sorted(Counter(sizes.tolist()).items())},
        "threshold": verdicts.threshold(of_things=of_things),
        "n_left_out": n_left_out,
    }


def share_figures(verdicts: Verdicts, answers: LabelAnswers, *, of_things: bool) -> dict[str, Any]:
    """Measure sets of several labels on rows to which some label applies; nothing if there is none.

    ``coverage`` is the share of its true labels that a set holds, on average, and ``contain_all`` the share
    of sets that hold all of them.
    """
    truth = answers.truth == 1
    has = truth.any(axis=1)
    if not has.any():
        logger.warning("no coverage of sets: no label applies to any image that is scored [TT515]")
        return {}
    members = label_sets(answers.probabilities, verdicts.threshold(of_things=of_things))[has]
    held = (members & truth[has]).sum(axis=1) / truth[has].sum(axis=1)
    found = set_figures(verdicts, held, members.sum(axis=1), of_things=of_things)
    return {"label_sets": found | {"contain_all": float((held == 1).mean()), "n_with_labels": int(has.sum())}}


def novelty_figures(novelty: Values, options: AnswerOptions) -> dict[str, Any]:
    """Say how new images (n,) are, and how many of them get no answer."""
    found: dict[str, Any] = {
        "mean": float(novelty.mean()),
        "share_above_0.99": float((novelty > 0.99).mean()),
    }
    if options.abstain_above is not None:
        found["abstain_above"] = options.abstain_above
        found["n_abstained"] = int((novelty > options.abstain_above).sum())
    return found


def interval_figures(verdicts: Verdicts, answers: NumberAnswers, *, of_things: bool) -> dict[str, Any]:
    """Measure intervals of numbers: by target, how many hold the true one, and their half width.

    A half width is None where the left-out rows are too few for the coverage: the interval has no end.
    """
    asked, errors = verdicts.options.coverage, verdicts.errors_of(of_things=of_things)
    assert asked is not None, "coverage was asked for"
    n, n_left_out, half = len(answers.truth), len(errors.errors), errors.half_widths(asked)
    holds = np.abs(answers.predicted - answers.truth) <= half
    return {
        "asked": asked,
        "standard_error": float(np.sqrt(asked * (1 - asked) * (1 / n + 1 / n_left_out))),
        "n_left_out": n_left_out,
        "targets": {
            name: {
                "coverage": float(holds[:, at].mean()),
                "half_width": float(half[at]) if np.isfinite(half[at]) else None,
            }
            for at, name in enumerate(answers.names)
        },
    }


def told_things(verdicts: Verdicts) -> bool:
    """Tell whether sets or intervals of things are measured, and say why they are not."""
    if verdicts.options.coverage is not None and not verdicts.covers_things:
        logger.warning(
            "no coverage of things: the run keeps no left-out answers of things from %s [TT515]",
            verdicts.answer_from,
        )
    return verdicts.covers_things


def answered(
    verdicts: Verdicts,
    things: Things,
    of_rows: Values,
    truth: Sequence[str],
    form: AnswerForm,
    *,
    of_means: Values | None,
) -> tuple[dict[str, Any], Values]:
    """Answer for things, and measure it.

    Parameters
    ----------
    verdicts : Verdicts
    things : Things
    of_rows : ndarray of float64, shape (n, k)
        What was said of each image, adjusted.
    truth : sequence of str, length n
        What each image teaches, as text.
    form : AnswerForm
        Of images.
    of_means : ndarray of float64, shape (n_things, k), optional
        What the run says of the means of features, where answers are made so.

    Returns
    -------
    figures : dict
    said : ndarray of float64, shape (n_things, k)

    Raises
    ------
    InputError
        For things whose images teach different things.
    """
    by = str(verdicts.answer_by)
    labels = things.labels(truth, by=by, task=verdicts.task)
    if verdicts.answer_from == FEATURES and of_means is not None:
        said = verdicts.adjusted(of_means)
    else:
        said = verdicts.answers_of(things, of_rows, form)
    way, form = verdicts.answer_from, verdicts.thing_form(form)
    return thing_figures(things, said, labels, form=form, by=by, way=way), said


def target_figures(
    verdicts: Verdicts,
    answers: LabelAnswers | NumberAnswers,
    truth: Sequence[str],
    form: AnswerForm,
    *,
    keys: Sequence[str] | None = None,
    novelty: Values | None = None,
    of_means: Values | None = None,
) -> dict[str, Any]:
    """Return what is added to the metrics of a run of several labels or of numbers.

    Parameters
    ----------
    verdicts : Verdicts
    answers : LabelAnswers or NumberAnswers
        Of images.
    truth : sequence of str, length n
        What each image teaches, as text.
    form : AnswerForm
    keys : sequence of str, length n, optional
        The thing that each image shows, where things are measured.
    novelty : ndarray of float64, shape (n,), optional
    of_means : ndarray of float64, shape (n_things, k), optional
        As of `answered`.
    """
    found: dict[str, Any] = {}
    if novelty is not None:
        found["novelty"] = novelty_figures(novelty, verdicts.options)
    if verdicts.errors is not None and isinstance(answers, NumberAnswers):
        found["prediction_intervals"] = interval_figures(verdicts, answers, of_things=False)
    if verdicts.left_out is not None and isinstance(answers, LabelAnswers):
        found |= share_figures(verdicts, answers, of_things=False)
    if keys is not None:
        things = Things.of(keys)
        values = answers.predicted if isinstance(answers, NumberAnswers) else answers.probabilities
        found["things"], said = answered(verdicts, things, values, truth, form, of_means=of_means)
        labels = things.labels(truth, by=str(verdicts.answer_by), task=verdicts.task)
        together = target_answers(said, labels, verdicts.thing_form(form))
        covers = told_things(verdicts)
        if covers and isinstance(together, NumberAnswers):
            found["things"]["prediction_intervals"] = interval_figures(verdicts, together, of_things=True)
        if covers and isinstance(together, LabelAnswers):
            found["things"] |= share_figures(verdicts, together, of_things=True)
    return found


@dataclass(kw_only=True)
class Measured:
    """Figures that add up while rows are scored, some rows at a time.

    Attributes
    ----------
    verdicts : Verdicts
    thing_of : mapping of int to str, optional
        The thing that each row of the manifest shows, where things are measured.
    """

    verdicts: Verdicts
    thing_of: Mapping[int, str] | None = None
    _holds: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    _sizes: list[Rows] = field(default_factory=list)
    _backed: list[tuple[str | None, int]] = field(default_factory=list)
    _right: list[npt.NDArray[np.bool_]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._gathered = Gathered(tree=self.verdicts.tree, thing_of=self.thing_of)

    def __call__(self, rows: Rows, codes: Rows, probabilities: Values) -> Values:
        """Take what was said of some rows of the manifest (n,), and return what it is after the prior."""
        verdicts, options = self.verdicts, self.verdicts.options
        adjusted = verdicts.adjusted(probabilities)
        if options.coverage is not None:
            members = label_sets(adjusted, verdicts.threshold())
            self._holds.append(members[np.arange(len(codes)), codes])
            self._sizes.append(members.sum(axis=1))
        if verdicts.tree is not None and options.back_off is not None:
            said = verdicts.tree.back_off(adjusted, options.back_off)
            self._backed += [(name, code) for (name, _), code in zip(said, codes.tolist(), strict=True)]
        self._right.append(adjusted.argmax(axis=1) == codes)
        return self._gathered(rows, codes, adjusted)

    def figures(self, *, novelty: Values | None = None, of_means: Values | None = None) -> dict[str, Any]:
        """Return the keys that are added to the metrics, as JSON values.

        Parameters
        ----------
        novelty : ndarray of float64, shape (n,), optional
            Of all rows that were seen, in their order.
        of_means : ndarray of float64, shape (n_things, n_classes), optional
            Probabilities of things by the means of their features, where answers are made so.
        """
        found: dict[str, Any] = {}
        verdicts = self.verdicts
        if verdicts.options.coverage is not None:
            holds, sizes = np.concatenate(self._holds), np.concatenate(self._sizes)
            found["label_sets"] = set_figures(verdicts, holds, sizes, of_things=False)
        if verdicts.tree is not None:
            found["levels"] = self._gathered.levels()
            if verdicts.options.back_off is not None:
                found["back_off"] = self._back_off(verdicts.tree, verdicts.options.back_off)
        if novelty is not None:
            found["novelty"] = self._novelty(novelty)
        if self.thing_of is not None:
            found["things"] = self._things(of_means)
        return found

    @property
    def things(self) -> Things:
        """The things of the rows that were seen."""
        return self._gathered.things

    def _things(self, of_means: Values | None) -> dict[str, Any]:
        verdicts, things = self.verdicts, self.things
        codes, of_rows = self._gathered.codes, self._gathered.probabilities
        form = AnswerForm(task=verdicts.task, names=verdicts.classes)
        truth = [verdicts.classes[code] for code in codes.tolist()]
        found, said = answered(verdicts, things, of_rows, truth, form, of_means=of_means)
        if told_things(verdicts):
            members = label_sets(said, verdicts.threshold(of_things=True))
            first = np.unique(things.codes, return_index=True)[1]
            holds = members[np.arange(len(said)), codes[first]]
            found["label_sets"] = set_figures(verdicts, holds, members.sum(axis=1), of_things=True)
        return found

    def _novelty(self, novelty: Values) -> dict[str, Any]:
        right, limit = np.concatenate(self._right), self.verdicts.options.abstain_above
        found = novelty_figures(novelty, self.verdicts.options)
        if limit is not None:
            answered = novelty <= limit
            found["accuracy_of_answered"] = float(right[answered].mean()) if answered.any() else None
        return found

    def _back_off(self, tree: ClassTree, least: float) -> dict[str, Any]:
        answered = [(name, tree.classes[code]) for name, code in self._backed if name is not None]
        right = [name in tree.way_up(truth) for name, truth in answered]
        depths = [tree.depths[name] for name, _ in answered]
        is_class = [name in tree.classes for name, _ in answered]
        return {
            "least": least,
            "accuracy": float(np.mean(right)) if right else None,
            "n_unanswered": len(self._backed) - len(answered),
            "mean_depth": float(np.mean(depths)) if depths else None,
            "share_of_classes": float(np.mean(is_class)) if right else None,
        }
