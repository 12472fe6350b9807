"""`choose_rows`: the rows that train and test, checked before any head sees them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.datasets.contents import note_numbers
from toptune.store.datasets.manifest import LABEL_SEPARATOR, UNKNOWN_LABEL, Manifest
from toptune.text import counted, named
from toptune.train.rows.copies import Digests, note_copies
from toptune.train.rows.few_shot import draw_training_rows
from toptune.train.rows.folds import Folds, draw_folds, draw_strata_folds
from toptune.train.rows.groups import check_things, group_keys, row_keys
from toptune.train.rows.options import RowOptions
from toptune.train.rows.splits import NAMED, Split, advice_on_several_labels, split_manifest
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.multilabel import are_marks
from toptune.train.tasks.names import CLASSIFICATION
from toptune.train.tasks.task import TargetMatrix, Task

RowNumbers = npt.NDArray[np.int64]

_SHOWN = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenRows:
    """The rows of a data set that train and that test.

    Attributes
    ----------
    manifest : Manifest
        Ids, labels and splits of all rows of the data set.
    options : RowOptions
        What was asked for.
    split : Split
        The rows, without those that were left out.
    classes : dict of str to int
        Training rows of each class, by name.
    groups : sequence of str
        Key of every row of the manifest, by which rows share a fold: the group, or without groups the id.
    n_skipped : int
        Rows that were left out because their features are not finite.
    cv : int, "leave-one-group-out" or None
        Folds of the cross-validation; None for a head that is fitted without folds.
    folds : Folds
        Fold of each training row; the heads deal out the same rows by the same rule.
    copies : tuple of str
        A note where test images have the same bytes as training images.
    """

    manifest: Manifest
    options: RowOptions
    split: Split
    classes: dict[str, int]
    groups: Sequence[str]
    n_skipped: int
    cv: int | str | None
    folds: Folds
    copies: tuple[str, ...] = ()

    @property
    def train_labels(self) -> list[str]:
        """Class of each training row."""
        return [str(self.manifest.labels[row]) for row in self.split.train]

    @property
    def task(self) -> Task:
        """What the head learns of these rows."""
        return task_of(self.options.task)

    @property
    def train_targets(self) -> "list[str] | TargetMatrix":
        """What a head is fitted to: the class of each training row, or the targets of other tasks."""
        texts = self.train_labels
        return texts if self.task.name == CLASSIFICATION else self.task.targets(texts, list(self.classes))

    @property
    def train_groups(self) -> list[str]:
        """Key of each training row; rows of equal keys share a fold."""
        return [self.groups[row] for row in self.split.train]

    @property
    def train_things(self) -> list[str] | None:
        """The thing that each training row shows; None where rows are answered one by one."""
        if self.options.answer_by is None:
            return None
        keys = group_keys(self.manifest, self.options.answer_by, option="answer_by")
        return [keys[row] for row in self.split.train.tolist()]

    def check_tested(self) -> "ChosenRows":
        """Return these rows if every class that tests has training rows too.

        Raises
        ------
        InputError
            For classes that no head could predict, so that every row of them would count as wrong.
        """
        tested = self.task.names([str(self.manifest.labels[row]) for row in self.split.test.tolist()])
        if strange := sorted(set(tested) - set(self.classes)):
            what = "class" if self.task.name == CLASSIFICATION else "label"
            raise InputError(
                f"{counted(len(strange), what)} of the test rows without a training row: "
                f"{named(strange)}; train with rows of them or leave them out of the test split"
            )
        return self

    @property
    def notes(self) -> list[str]:
        """Rows that neither train nor test, groups on both sides, and classes that are numbers, in words."""
        split, notes = self.split, [*self.copies, *self._decided()]
        if split.n_unlabelled:
            notes.append(f"not used: {counted(split.n_unlabelled, 'image')} without {self._lacking} [TT301]")
            unlabeled = [row for row, label in enumerate(self.manifest.labels) if label is None]
            several = advice_on_several_labels(self.manifest, np.array(unlabeled, dtype=np.int64))
            if several and self.task.name == CLASSIFICATION:
                notes.append(f"{several} [TT302]")
        if split.n_unused:
            notes.append(
                f"not used: {counted(split.n_unused, 'labeled image')} in no split that was asked for [TT303]"
            )
        notes += self._unused_options()
        if (grouped_by := self.options.grouped_by) is not None:
            train, test = ({self.groups[row] for row in rows} for rows in (split.train, split.test))
            notes.append(f"groups by {grouped_by!r}: {len(train)} train, {len(test)} test [TT305]")
        if self.task.name == CLASSIFICATION:
            numbers = note_numbers(list(self.classes), column=self.options.label_column or "label")
            told = [f"{numbers} [TT306]"] if numbers else []
            return [*notes, *told, *self._barred(), *self._questions()]
        return [*notes, *self.task.notes(self.train_labels)]

    def _barred(self) -> Iterator[str]:
        """Say that names of classes look like several labels."""
        barred = [name for name in self.classes if LABEL_SEPARATOR in name]
        if barred:
            column = self.options.label_column or "label"
            yield (
                f"{counted(len(barred), 'class')} of {len(self.classes)} with {LABEL_SEPARATOR!r} in the "
                f"name ({named(barred, most=_SHOWN)}), each of which is one class; where the parts are "
                f"labels, several of an image, train with --task multilabel --label-column {column} [TT318]"
            )

    def _questions(self) -> Iterator[str]:
        """Say that one column of 0, 1 and ? is three classes here, where several would be labels."""
        others = [name for name in self.classes if name != UNKNOWN_LABEL]
        if len(others) < len(self.classes) and are_marks(others):
            column = self.options.label_column or "label"
            yield (
                f"label {UNKNOWN_LABEL!r} of {counted(self.classes[UNKNOWN_LABEL], 'training image')} is a "
                f"class of its own beside {named(others, most=_SHOWN)}, because column {column!r} alone is "
                f"one class an image; where {UNKNOWN_LABEL} means that nobody knows, empty these cells in "
                "the manifest and extract with --update, or name several columns of 0 and 1 with --task "
                "multilabel --label-column A,B [TT320]"
            )

    @property
    def _lacking(self) -> str:
        """What an image that is not used does not have."""
        if self.options.target is not None:
            return f"a number in {self.options.target}"
        return "a label" if self.task.name == CLASSIFICATION else "known labels"

    def _decided(self) -> Iterator[str]:
        """Say how many images the decisions of a person concern."""
        decisions = self.options.decisions
        files = decisions.files
        if (file := files.get("exclude")) is not None:
            used = self.split.n_excluded
            others = f", {used} of which would train or test" if used < file.n_images else ""
            yield f"{counted(file.n_images, 'image')} excluded by {file.file}{others} [TT307]"
        if (file := files.get("relabel_with")) is not None:
            yield f"{counted(file.n_images, 'image')} relabeled by {file.file} [TT307]"
        if (file := files.get("keep_together")) is not None:
            groups = counted(len(decisions.groups), "group")
            yield f"{counted(file.n_images, 'image')} kept together in {groups} by {file.file} [TT307]"
        yield from decisions.notes

    def _unused_options(self) -> Iterator[str]:
        """Say which options of the split had no effect on this data set."""
        options, default = self.options, RowOptions()
        if options.test_fraction != default.test_fraction and self.split.rule.startswith(NAMED):
            yield (
                "test_fraction is not used: the data set names its test rows; --resplit draws others [TT304]"
            )
        if options.resplit and not any(self.manifest.splits):
            yield "resplit is not used: the data set has no split of its own, and one is drawn anyhow [TT304]"
        if options.val != default.val and (options.resplit or "val" not in self.manifest.splits):
            why = "the split is drawn anew" if options.resplit else "the data set has no split val"
            yield f"val {options.val!r} is not used: {why} [TT304]"

    def without(self, bad_rows: RowNumbers) -> "ChosenRows":
        """Leave out more rows, and check anew what is left.

        Parameters
        ----------
        bad_rows : ndarray of int64
            Rows of the manifest whose features are not finite.

        Raises
        ------
        InputError
            If there are such rows and the options do not allow to leave rows out, or too few rows are left.
        """
        split, n_skipped = leave_out(
            self.split, bad_rows, self.manifest, allow=self.options.allow_failed, reasons={}
        )
        if n_skipped == 0:
            return self
        classes, folds = _dealt(self.manifest, split, self.groups, cv=self.cv, task=self.task)
        return replace(self, split=split, classes=classes, folds=folds, n_skipped=self.n_skipped + n_skipped)


def choose_rows(
    manifest: Manifest,
    options: RowOptions,
    *,
    cv: int | str | None,
    failed: Mapping[int, str] | None = None,
    needs_test: bool = True,
    digests: Digests | None = None,
) -> ChosenRows:
    """Choose the rows that train and the rows that test.

    The same manifest and options give the same rows to every head and layer, here and in fine-tuning.

    Parameters
    ----------
    manifest : Manifest
        Rows with ids, labels and perhaps splits; labels that were decided are in it.
    options : RowOptions
        Split, sample, and whether failed rows may be left out.
    cv : int, "leave-one-group-out" or None
        Folds of the cross-validation; None for a head that is fitted without folds.
    failed : mapping of int to str, optional
        Rows whose image could not be used, with the reason.
    needs_test : bool
        Whether test rows are read. If not, none are returned, and failed ones among them do no harm.
    digests : tuple of ndarray, optional
        Digests of the images, and which are known, by which copies across the split are told.

    Raises
    ------
    InputError
        For a manifest that cannot be split as asked for (see `split_manifest`), a sample larger than the
        training rows, failed rows that may not be left out, fewer than two classes, or fewer than two
        classes with rows in more than one fold.
    """
    decisions = options.decisions.check(manifest)
    if options.answer_by is not None:
        check_things(
            manifest,
            options.answer_by,
            group_by=options.group_by,
            task=options.task,
            excluded=decisions.excluded,
        )
    split = split_manifest(
        manifest,
        seed=options.seed,
        test_fraction=options.test_fraction,
        val=options.val,
        group_by=options.grouped_by,
        resplit=options.resplit,
        decisions=decisions,
        task=options.task,
    )
    copies = [] if digests is None else note_copies(digests, split)
    if not needs_test:
        split = replace(split, test=split.test[:0])
    reasons = failed or {}
    bad_rows = np.array(sorted(reasons), dtype=np.int64)
    # Failed rows go before the sample is drawn, so that a sample has the size that was asked for.
    split, n_skipped = leave_out(split, bad_rows, manifest, allow=options.allow_failed, reasons=reasons)
    split = draw_training_rows(
        split, manifest, shots=options.shots, train_size=options.train_size, seed=options.seed,
        task=options.task,
    )  # fmt: skip
    keys = row_keys(manifest, group_by=options.grouped_by, together=decisions.groups)
    groups = manifest.ids if keys is None else keys
    # Folds are dealt out before any feature is read, so that too few rows of the classes are refused at once.
    classes, folds = _dealt(manifest, split, groups, cv=cv, task=task_of(options.task))
    return ChosenRows(
        manifest=manifest,
        options=options,
        split=split,
        classes=classes,
        groups=groups,
        n_skipped=n_skipped,
        cv=cv,
        folds=folds,
        copies=tuple(copies),
    )


def leave_out(
    split: Split,
    bad_rows: npt.NDArray[np.int64],
    manifest: Manifest,
    *,
    allow: bool,
    reasons: Mapping[int, str],
) -> tuple[Split, int]:
    """Leave rows out of a split, or refuse and name the rows.

    Parameters
    ----------
    split : Split
        Training and test rows.
    bad_rows : ndarray of int64
        Rows to leave out; rows that neither train nor test do no harm.
    manifest : Manifest
        Ids of the rows, for the message.
    allow : bool
        Leave rows out; otherwise refuse.
    reasons : mapping of int to str
        Why a row is bad, where a reason is known.

    Returns
    -------
    Split
        The split without the bad rows.
    int
        Rows that were left out.
    """
    if len(bad_rows) == 0:
        return split, 0
    used = np.intersect1d(bad_rows, np.concatenate([split.train, split.test]))
    if len(used) and not allow:
        ids = [(manifest.ids[row], reasons[row]) if row in reasons else manifest.ids[row]
               for row in used.tolist()]  # fmt: skip
        raise InputError(
            f"{len(used)} of the images to train and test on have features that are not finite: "
            f"{named(ids, most=_SHOWN)}; leave them out with --skip-failed (allow_failed=True), or repair "
            "them and extract again with --update"
        )
    kept = replace(split, train=np.setdiff1d(split.train, used), test=np.setdiff1d(split.test, used))
    return kept, len(used)


def note_untested(is_known: npt.NDArray[np.bool_]) -> list[str]:
    """Say how many test images (n,) are of classes that were not trained on; no note if there are none."""
    n_unknown = int((~is_known).sum())
    if not n_unknown:
        return []
    return [f"not tested: {counted(n_unknown, 'image')} of classes without training [TT313]"]


def _dealt(
    manifest: Manifest, split: Split, groups: Sequence[str], *, cv: int | str | None, task: Task
) -> tuple[dict[str, int], Folds]:
    """Count the training rows of each class and deal the rows out over folds.

    Refuses training rows that no head could learn from.
    """
    rows, labels = split.train.tolist(), manifest.labels
    if task.name != CLASSIFICATION:
        return _dealt_strata(
            [str(labels[row]) for row in rows], [groups[row] for row in rows], cv=cv, task=task
        )
    classes, codes, counts = np.unique(
        [str(labels[row]) for row in rows], return_inverse=True, return_counts=True
    )
    if len(classes) == 0:
        raise InputError(
            "no training rows are left; check the labels, the split, --test-fraction and failed images"
        )
    if len(classes) < 2:
        raise InputError(
            f"the training rows have one class only, {str(classes[0])!r}; a classifier needs at least 2"
        )
    members = {str(name): int(count) for name, count in zip(classes, counts, strict=True)}
    return members, draw_folds(codes.astype(np.int64), classes, cv=cv, groups=[groups[row] for row in rows])


def _dealt_strata(
    texts: Sequence[str], groups: Sequence[str], *, cv: int | str | None, task: Task
) -> tuple[dict[str, int], Folds]:
    """Do what `_dealt` does, for a task other than classification."""
    if not texts:
        raise InputError(
            "no training rows are left; check the labels, the split, --test-fraction and failed images"
        )
    task.check(texts)
    members = dict(task.members(texts))
    rows, codes = task.strata(task.targets(texts, list(members)).values)
    return members, draw_strata_folds(rows, codes, n=len(texts), cv=cv, groups=groups)


def rows_digest(split: Split, manifest: Manifest) -> str:
    """Return the SHA-256 over ids, labels and roles; equal splits have equal digests."""
    digest, ids, labels = hashlib.sha256(), manifest.ids, manifest.labels
    for role, rows in (("train", split.train), ("test", split.test)):
        lines = [f"{role}\0{ids[row]}\0{labels[row]}\n" for row in rows.tolist()]
        digest.update("".join(lines).encode())
    return digest.hexdigest()
