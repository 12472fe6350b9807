"""`RowOptions`: which rows of a data set train and which test."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, TypedDict

from toptune.errors import InputError
from toptune.options import check_choice, check_count
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION, MULTILABEL, REGRESSION, TASK_NAMES

if TYPE_CHECKING:  # these import numpy, which the help of a command does not need
    from toptune.store.datasets.manifest import Manifest
    from toptune.train.rows.decisions import Decisions
    from toptune.train.tasks.task import Wanted

Relabel: TypeAlias = "Callable[[Manifest], Manifest]"

# numpy's and scikit-learn's generators take 32 bits.
MOST_SEED = 2**32 - 1
MOST_SEEDS = 10_000
VAL = ("train", "test", "drop")
# How the images of one thing become one answer.
ANSWERS_FROM = ("log-probabilities", "features", "maximum", "numbers")
_LOGS, _FEATURES, _MAXIMUM, _NUMBERS = ANSWERS_FROM
# The options that name files of decisions.
OF_DECISIONS = ("exclude", "relabel_with", "keep_together")


def ways_of(task: str) -> tuple[str, ...]:
    """Return how the images of a thing may become one answer of a task; the first is the default."""
    return (_NUMBERS, _FEATURES) if task == REGRESSION else (_LOGS, _FEATURES, _MAXIMUM)


def check_way(way: str, task: str) -> None:
    """Refuse a way of answering for things that a task does not know, with InputError."""
    known = ways_of(task)
    if way not in known:
        why = (
            "numbers have no probabilities, and the largest of them is not the likeliest"
            if task == REGRESSION
            else "only --task regression has numbers"
        )
        raise InputError(
            f"answer_from is {way!r} with --task {task}: {why}; leave --answer-from out, which is the mean "
            f"of the images' {known[0]}, or give one of {', '.join(known)}",
            option="answer_from",
        )


class LabelReading(TypedDict):
    """The arguments of `toptune.store.FeatureStore.features` that say which labels count."""

    label_column: str | None
    relabel: "Relabel | None"


class RowArguments(TypedDict, total=False):
    """The keywords of `RowOptions`."""

    seed: int
    test_fraction: float
    resplit: bool
    val: str
    group_by: str | None
    label_column: str | None
    task: str
    target: str | None
    drop_missing: bool
    shots: int | None
    train_size: int | None
    allow_failed: bool
    exclude: str | None
    relabel_with: str | None
    keep_together: str | None
    answer_by: str | None
    answer_from: str | None


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """Which rows train and which test; the same values give the same rows.

    Attributes
    ----------
    seed : int
        Seed of the split and of the sample. The same seed also draws centers and seeds scikit-learn's
        estimators.
    test_fraction : float
        Share of each class that is held out where the manifest names no test rows.
    resplit : bool
        Draw a new split even where the manifest names one.
    val : {"train", "test", "drop"}
        What the rows of a split ``val`` do.
    group_by : str, optional
        Column, or pattern on the id, whose groups stay on one side of the split and in one fold.
    label_column : str, optional
        Further column of the data set whose values are the labels, in place of its own labels. Of several
        labels an image: such a column, or several columns of 0 and 1 with commas between them.
    task : {"auto", "classification", "multilabel", "regression"}
        What the head learns; with ``auto`` the data set says.
    target : str, optional
        Numeric columns of the data set, with commas between them, of a regression.
    drop_missing : bool
        Leave out images without a number in such a column, or with an infinite one, instead of refusing them.
    shots, train_size : int, optional
        Train on a sample of the training rows only: so many rows of each class, or so many in all; see
        `toptune.train.rows.few_shot.draw_training_rows`.
    allow_failed : bool
        Leave out rows that are not finite (images that failed) instead of refusing them.
    exclude, relabel_with, keep_together : path, optional
        Files of decisions: images that are left out, images that have another label, and groups of copies
        that stay on one side of the split and in one fold; see `Decisions.read`.
    answer_by : str, optional
        Column, or pattern on the id, of the thing that several images show; the run gives one answer a thing.
        Images of a thing stay together as those of a group do.
    answer_from : {"log-probabilities", "features", "maximum", "numbers"}, optional
        How the images of a thing become one answer; by default the first, or of a regression the last.
    """

    seed: int = 0
    test_fraction: float = 0.2
    resplit: bool = False
    val: str = "train"
    group_by: str | None = None
    label_column: str | None = None
    task: str = AUTO_TASK
    target: str | None = None
    drop_missing: bool = False
    shots: int | None = None
    train_size: int | None = None
    allow_failed: bool = False
    exclude: str | None = None
    relabel_with: str | None = None
    keep_together: str | None = None
    answer_by: str | None = None
    answer_from: str | None = None

    def __post_init__(self) -> None:
        for name in OF_DECISIONS:
            # Paths become text, which a run can record.
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, os.fspath(path))
        check_choice(self.val, VAL, option="val")
        check_choice(self.task, TASK_NAMES, option="task")
        if self.answer_from is not None:
            check_choice(self.answer_from, ANSWERS_FROM, option="answer_from")
            if self.answer_by is None:
                raise InputError(
                    f"answer_from is {self.answer_from!r} without answer_by; give the column of the things "
                    "with --answer-by, or leave --answer-from out",
                    option="answer_from",
                )
            if self.target is not None or self.task != AUTO_TASK:
                check_way(self.answer_from, REGRESSION if self.target is not None else self.task)
        if self.task == AUTO_TASK and self.target is not None:
            object.__setattr__(self, "task", REGRESSION)
        elif self.task == AUTO_TASK and self.label_column is not None:
            from toptune.store.datasets.manifest import LABELS_COLUMN

            if "," in self.label_column or self.label_column == LABELS_COLUMN:
                object.__setattr__(self, "task", MULTILABEL)
        check_count(self.seed, option="seed", least=0, most=MOST_SEED)
        if not 0 < self.test_fraction < 1:
            raise InputError(f"test_fraction is {self.test_fraction}; it must lie between 0 and 1")
        if self.shots is not None and self.train_size is not None:
            raise InputError(f"shots is {self.shots} and train_size {self.train_size}; give one of them")
        if self.shots is not None and self.shots < 1:
            raise InputError(f"shots is {self.shots}; give at least 1 image of each class")

    @property
    def grouped_by(self) -> str | None:
        """Column or pattern whose groups stay on one side of the split and in one fold."""
        return self.answer_by if self.group_by is None else self.group_by

    @property
    def answers_from(self) -> str:
        """How the images of a thing become one answer."""
        return self.answer_from or ways_of(self.task)[0]

    @property
    def wanted(self) -> "Wanted":
        """The columns that say what the head is to learn."""
        from toptune.train.tasks.task import Wanted

        return Wanted(label_column=self.label_column, target=self.target, drop_missing=self.drop_missing)

    def reading(self, relabel: "Relabel | None") -> LabelReading:
        """Return how the labels of a data set are read, for `FeatureStore.features`.

        Parameters
        ----------
        relabel : callable, optional
            What a person's decisions make of the labels.
        """
        if self.task in (AUTO_TASK, CLASSIFICATION):
            return LabelReading(label_column=self.label_column, relabel=relabel)
        from toptune.train.tasks.choice import task_of

        task, wanted = task_of(self.task), self.wanted

        def labeled(manifest: "Manifest") -> "Manifest":
            found = task.labeled(manifest, wanted)
            return found if relabel is None else relabel(found)

        return LabelReading(label_column=None, relabel=labeled)

    @cached_property
    def decisions(self) -> "Decisions":
        """What the files of decisions hold, which are read once.

        Raises
        ------
        InputError
            As `Decisions.read`.
        """
        from toptune.train.rows.decisions import Decisions

        return Decisions.read(
            exclude=self.exclude, relabel_with=self.relabel_with, keep_together=self.keep_together
        )
