"""`Verdicts`: a run that was asked for sets of labels, novelty, a prior or a tree, and what it answers."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.text import counted
from toptune.train.answers.class_tree import ClassTree
from toptune.train.answers.conformal import label_sets, rank_of, share_threshold_of, threshold_of
from toptune.train.answers.files import ADVICE, CLASS_TREE, LEFT_OUT
from toptune.train.answers.intervals import LeftOutErrors
from toptune.train.answers.left_out import LeftOut
from toptune.train.answers.options import AnswerOptions
from toptune.train.answers.prior import read_prior, trained_prior, with_prior
from toptune.train.answers.thing_figures import thing_form
from toptune.train.answers.things import FEATURES, Things
from toptune.train.heads.kinds import KINDS, is_cross_validated
from toptune.train.rows.options import check_way, ways_of
from toptune.train.runs.record import RunRecord
from toptune.train.tasks.answer_form import AnswerForm
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION, MULTILABEL, REGRESSION

Values = npt.NDArray[np.float64]
_Said = TypeVar("_Said", LeftOut, LeftOutErrors)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was asked besides a label, of one image or thing; None of what was not asked.

    Attributes
    ----------
    label_set : tuple of str, optional
        Labels that hold the true one with the coverage that was asked for, the most probable first.
    novelty : float, optional
        Share of training images that are nearer to the others than this image is.
    abstained : bool, optional
        Whether no label is given because of the novelty.
    back_off : tuple of (str or None, float or None), optional
        The deepest class that is sure enough, and its probability.
    n_images : int, optional
        Images of a thing.
    intervals : mapping of str to (float or None, float or None), optional
        Ends of the interval of each target; None of an interval without an end.
    """

    label_set: tuple[str, ...] | None = None
    novelty: float | None = None
    abstained: bool | None = None
    back_off: tuple[str | None, float | None] | None = None
    n_images: int | None = None
    intervals: Mapping[str, tuple[float | None, float | None]] | None = None

    def to_dict(self) -> dict[str, object]:
        """Give what was asked, as JSON values."""
        values: dict[str, object] = {
            "n_images": self.n_images,
            "label_set": None if self.label_set is None else list(self.label_set),
            "novelty": self.novelty,
            "abstained": self.abstained,
        }
        found = {name: value for name, value in values.items() if value is not None}
        if self.back_off is not None:
            found |= {"back_off": self.back_off[0], "back_off_confidence": self.back_off[1]}
        for name, (low, high) in (self.intervals or {}).items():
            found |= {f"{name}_low": low, f"{name}_high": high}
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdicts:
    """What a run was asked, with all that the answers need of its folder.

    Attributes
    ----------
    classes : tuple of str
    options : AnswerOptions
    task : str
        What the run has learned.
    left_out : LeftOut or None
        Where sets of labels were asked for.
    errors : LeftOutErrors or None
        Where intervals of numbers were asked for.
    prior : tuple of (ndarray, ndarray), optional
        Frequencies of the classes where the run was trained and where it is used.
    tree : ClassTree or None
    answer_by : str, optional
        Column or pattern that tells the things, as it was asked for or as the run was trained.
    answer_from : str
        How images of a thing become one answer.
    calibrated_from : str or None
        How those of the training did, whose left-out answers make sets of labels of things.
    thing_thresholds : mapping of str to float, optional
        Of several labels: from which probability of a thing each label applies, by those left-out answers.
    """

    classes: tuple[str, ...]
    options: AnswerOptions
    task: str = CLASSIFICATION
    left_out: LeftOut | None = None
    errors: LeftOutErrors | None = None
    prior: tuple[Values, Values] | None = None
    tree: ClassTree | None = None
    answer_by: str | None = None
    answer_from: str = ways_of(CLASSIFICATION)[0]
    calibrated_from: str | None = None
    thing_thresholds: Mapping[str, float] | None = None

    @classmethod
    def of(cls, record: RunRecord, folder: Path, options: AnswerOptions) -> "Verdicts":
        """Read what the answers need.

        Parameters
        ----------
        record : RunRecord
        folder : Path
            The RUN folder.
        options : AnswerOptions

        Raises
        ------
        InputError
            If the run cannot answer what was asked, with the command that makes one that can; for files of
            frequencies and of parents as they raise it.
        """
        classes = tuple(record.classes)
        _refuse_other_tasks(record, folder, options)
        record.check_files(folder, record.file_names & {LEFT_OUT, CLASS_TREE})
        left_out, errors, prior = None, None, None
        if options.coverage is not None:
            if task_in(record) == REGRESSION:
                errors = LeftOutErrors.read(folder, classes, advice=ADVICE)
            else:
                left_out = LeftOut.read(folder, advice=ADVICE)
            if left_out is None and errors is None:
                raise InputError(_without_left_out(record, folder), option="coverage")
        if options.prior is not None:
            weight = record.options.get("class_weight")
            prior = trained_prior(record.classes, class_weight=weight), read_prior(options.prior, classes)
        task = task_in(record)
        trained_from = str(record.options.get("answer_from") or ways_of(task)[0])
        trained_by = record.options.get("answer_by")
        return cls(
            classes=classes,
            options=options,
            task=task,
            left_out=left_out,
            errors=errors,
            prior=prior,
            tree=_tree(folder, classes, options),
            answer_by=options.answer_by or (None if trained_by is None else str(trained_by)),
            answer_from=options.answer_from or trained_from,
            calibrated_from=trained_from if trained_by else None,
            thing_thresholds=record.thing_thresholds,
        )

    def adjusted(self, probabilities: Values) -> Values:
        """Return probabilities (n, n_classes) for the class frequencies that were given."""
        if self.prior is None:
            return probabilities
        trained, given = self.prior
        return with_prior(probabilities, trained=trained, given=given)

    def threshold(self, *, of_things: bool = False) -> float:
        """Return the probability from which on a class is in a set.

        Raises
        ------
        InputError
            For things, if the run was not trained with things or with another way of answering.
        """
        assert self.left_out is not None, "coverage was asked for"
        assert self.options.coverage is not None, "coverage was asked for"
        left_out = self.calibration(of_things=of_things)
        if self.task == MULTILABEL:
            return share_threshold_of(left_out.rows, left_out.likelihood, self.options.coverage)
        return threshold_of(left_out.likelihood, self.options.coverage)

    def calibration(self, *, of_things: bool) -> LeftOut:
        """Return the left-out probabilities of what is true; errors are those of `threshold`."""
        assert self.left_out is not None, "coverage was asked for"
        return self._of_things(self.left_out.of_things) if of_things else self.left_out

    def errors_of(self, *, of_things: bool) -> LeftOutErrors:
        """Return the left-out errors of numbers; errors are those of `threshold`."""
        assert self.errors is not None, "coverage was asked for"
        return self._of_things(self.errors.of_things) if of_things else self.errors

    def _of_things(self, said: _Said | None) -> _Said:
        """Return what left-out rows said of things, if it was said in the way that is asked for."""
        if said is not None and self.calibrated_from == self.answer_from:
            return said
        what = "intervals" if self.task == REGRESSION else "sets of labels"
        if self.answer_from == FEATURES:
            raise InputError(
                f"{what} of things need left-out answers of things, which means of features do not have: no "
                f"fit left them out; answer from {ways_of(self.task)[0]}, or leave one of --coverage and "
                "--answer-by out",
                option="coverage",
            )
        how = "without things"
        if self.calibrated_from == self.answer_from:
            how = "before such answers were kept"
        elif self.calibrated_from is not None:
            how = f"with answers from {self.calibrated_from}"
        raise InputError(
            f"{what} of things need left-out answers of things, and the run was trained {how}; train it with "
            f"--answer-by COLUMN --answer-from {self.answer_from}, or leave one of --coverage and "
            "--answer-by out",
            option="coverage",
        )

    def check_things(self) -> None:
        """Refuse a coverage of things that no left-out answers calibrate; errors are those of `threshold`."""
        if self.errors is not None:
            self.errors_of(of_things=True)
        elif self.left_out is not None:
            self.calibration(of_things=True)

    @property
    def covers_things(self) -> bool:
        """Whether sets or intervals of things are asked for and told, or refused because they cannot be.

        The things of the run itself, which were not asked for, are answered without where there are none.
        """
        said = self.left_out if self.errors is None else self.errors
        if said is None:
            return False
        is_own = self.options.answer_by is None and self.options.answer_from is None
        return said.of_things is not None or not is_own

    @property
    def has_thing_thresholds(self) -> bool:
        """Whether thresholds were chosen for things that are answered as they are now."""
        return self.thing_thresholds is not None and self.calibrated_from == self.answer_from

    def thing_form(self, form: AnswerForm) -> AnswerForm:
        """Return how probabilities of things become answers: by the thresholds of labels of things."""
        return thing_form(form, self.thing_thresholds if self.has_thing_thresholds else None)

    def answers_of(self, things: Things, values: Values, form: AnswerForm) -> Values:
        """Return one answer a thing (n_things, k) from what was said of its images (n, k), adjusted."""
        return things.answers(values, task=self.task, way=self.answer_from, is_ordinal=form.is_ordinal)

    def notes(self, *, of_things: bool = False) -> Iterator[str]:
        """Say what a reader of the answers should know."""
        covered = of_things and self.covers_things
        noun = "left-out thing" if covered else "left-out image"
        labels = "labels" if self.task == MULTILABEL else "classes"
        if self.task == MULTILABEL and of_things and not self.has_thing_thresholds:
            yield (
                "each label of a thing applies from the threshold that was chosen for images, because the "
                f"training left out no answers of things from {self.answer_from}"
            )
        if self.errors is not None and self.options.coverage is not None:
            n = len(self.errors_of(of_things=covered).errors)
            if rank_of(n, self.options.coverage) > n:
                yield (
                    f"no interval has an end: {counted(n, noun)} of the training reach a "
                    f"coverage of {n / (n + 1):.4g}, and {self.options.coverage:g} was asked for"
                )
        elif self.options.coverage is not None:
            n = self.calibration(of_things=covered).n_rows
            if rank_of(n, self.options.coverage) > n:
                yield (
                    f"every set of labels holds all {labels}: {counted(n, noun)} of the training "
                    f"reach a coverage of {n / (n + 1):.4g}, and {self.options.coverage:g} was asked for"
                )

    def of_rows(
        self,
        probabilities: Values,
        *,
        novelty: Values | None = None,
        counts: Sequence[int] | None = None,
    ) -> list[Verdict]:
        """Answer for images, or for things if the numbers of their images are given.

        Parameters
        ----------
        probabilities : ndarray of float64, shape (n, k)
            Adjusted; of a regression, the numbers.
        novelty : ndarray of float64, shape (n,), optional
        counts : sequence of int, optional
            Images of each thing.
        """
        found = self._by_novelty(len(probabilities), novelty)
        if self.errors is not None:
            found = self._with_intervals(found, probabilities, of_things=counts is not None)
        elif self.options.coverage is not None:
            threshold = self.threshold(of_things=counts is not None)
            members = label_sets(probabilities, threshold)
            order = np.argsort(-probabilities, axis=1, kind="stable")
            found = [
                replace(each, label_set=tuple(self.classes[code] for code in codes if holds[code]))
                for each, codes, holds in zip(found, order.tolist(), members.tolist(), strict=True)
            ]
        if self.options.back_off is not None and self.tree is not None:
            deepest = self.tree.back_off(probabilities, self.options.back_off)
            found = [replace(each, back_off=pair) for each, pair in zip(found, deepest, strict=True)]
        if counts is not None:
            found = [replace(each, n_images=count) for each, count in zip(found, counts, strict=True)]
        return found

    def _by_novelty(self, n: int, novelty: Values | None) -> list[Verdict]:
        """Answer by the novelty (n,) alone, if it was asked for."""
        if novelty is None:
            return [Verdict()] * n
        limit = self.options.abstain_above
        return [
            Verdict(novelty=value, abstained=None if limit is None else value > limit)
            for value in novelty.tolist()
        ]

    def _with_intervals(self, found: list[Verdict], values: Values, *, of_things: bool) -> list[Verdict]:
        """Add intervals around numbers (n, n_targets) to what was found."""
        errors, coverage = self.errors_of(of_things=of_things), self.options.coverage
        assert coverage is not None, "coverage was asked for"
        half = errors.half_widths(coverage)
        ends = [
            {
                name: (float(value - width), float(value + width)) if np.isfinite(width) else (None, None)
                for name, value, width in zip(errors.names, row, half, strict=True)
            }
            for row in values
        ]
        return [replace(each, intervals=of_row) for each, of_row in zip(found, ends, strict=True)]


def task_in(record: RunRecord) -> str:
    """Return the name of the task of a run; older runs have one class an image."""
    task = record.options.get("task")
    return CLASSIFICATION if task in (None, AUTO_TASK) else str(task)


def is_answered_by_things(record: RunRecord) -> bool:
    """Tell whether a run gives one answer for all images of a thing."""
    return bool(record.options.get("answer_by"))


def is_measured(record: RunRecord, folder: Path, options: AnswerOptions) -> bool:
    """Tell whether more is measured than labels: what was asked, and things or a tree of the run."""
    return options.is_asked or bool(record.options.get("answer_by")) or (folder / CLASS_TREE).is_file()


def train_command(record: RunRecord) -> str:
    """Return the command that trains a run like this one anew, but for the options that `run.json` lists."""
    words = ["toptune", "train", "--store", str(record.store), "--dataset", record.dataset]
    words += [word for model in record.models for word in ("--model", model)]
    head = record.options.get("head")
    words += ["--head", head] if isinstance(head, str) and " + " not in head else []
    return f"{shlex.join(words)} --out NEW"


def _without_left_out(record: RunRecord, folder: Path) -> str:
    """Say why a run has no left-out rows, and what makes one that has."""
    if record.is_finetuned:
        return (
            f"{folder} is a fine-tuned network, which leaves out no folds, so that sets of labels cannot be "
            "calibrated; train a head on a frozen backbone (toptune extract, toptune train)"
        )
    if record.folds is None and not record.is_fused:
        why = "was fitted without left-out rows (no folds), which sets of labels need"
        head = record.options.get("head")
        if head in KINDS and not is_cross_validated(str(head)):
            return f"run {folder} {why}; train another head than {head}, or several models together"
        return f"run {folder} {why}; train it with folds: {train_command(record)} --cv 5"
    why = "keeps no left-out rows, as runs did not before sets of labels"
    return f"run {folder} {why}; train it again: {train_command(record)}"


def _refuse_other_tasks(record: RunRecord, folder: Path, options: AnswerOptions) -> None:
    """Refuse what is told of one class an image only."""
    task = task_in(record)
    if options.answer_from is not None:
        check_way(options.answer_from, task)
    if task == CLASSIFICATION:
        return
    told = {"novelty", "abstain_above", "answer_by", "answer_from", "coverage"}
    asked = [name for name, value in vars(options).items() if value and name not in told]
    if asked:
        raise InputError(
            f"{folder} is a run of --task {task}, and {asked[0]} is told of runs with one class an image; "
            f"train with --task {CLASSIFICATION} on a column that has one, or leave "
            f"--{asked[0].replace('_', '-')} out",
            option=asked[0],
        )


def _tree(folder: Path, classes: Sequence[str], options: AnswerOptions) -> ClassTree | None:
    if options.class_tree is not None:
        return ClassTree.of_file(options.class_tree, classes)
    tree = ClassTree.read(folder, classes, advice=ADVICE)
    if tree is None and options.back_off is not None:
        raise InputError(
            f"back_off needs a tree of the classes, and {folder} was trained without one; give the file of "
            "parents with --class-tree, or train with --class-tree",
            option="back_off",
        )
    return tree
