"""`Multilabel`: several labels may apply to a row, or none, and some may be unknown.

The text of a row names the labels that apply, with ``|`` between them. A name with ``?`` before it is
of a label of which is not known whether it applies, and ``?`` alone says so of all labels. Empty text: no
label applies.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from toptune.errors import InputError
from toptune.options import choices
from toptune.store.datasets.manifest import LABEL_SEPARATOR, LABELS_COLUMN, UNKNOWN_LABEL, Manifest
from toptune.text import counted, named
from toptune.train.numerics.thresholds import FEWEST
from toptune.train.tasks.names import MULTILABEL
from toptune.train.tasks.task import AnyMatrix, Strata, TargetMatrix, Task, Wanted

# What cells of a column of 0 and 1 may hold, in lower case.
_YES, _NO = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no", ""})
_SHOWN = 5
# Values of a matrix of labels whose strata are found at a time.
_STRATA_VALUES = 2**18


class Multilabel(Task):
    """Several labels may apply to a row; the targets are 0 and 1, and NaN where a label is unknown."""

    name = MULTILABEL
    figures = (
        "mean_average_precision", "mean_average_precision_micro", "f1_micro", "f1_macro", "subset_accuracy",
    )  # fmt: skip
    loss = "left-out log-loss, the mean over the known labels"

    def labeled(self, manifest: Manifest, wanted: Wanted) -> Manifest:
        columns = [] if wanted.label_column is None else wanted.label_column.split(",")
        if len(columns) > 1:
            texts = _of_indicators(manifest, [name.strip() for name in columns])
        else:
            texts = _of_names(manifest, columns[0] if columns else None)
        return manifest.with_label_column(texts)

    def names(self, texts: Sequence[str]) -> list[str]:
        return sorted(_counts(texts))

    def targets(self, texts: Sequence[str], names: Sequence[str]) -> TargetMatrix:
        position = {name: code for code, name in enumerate(names)}
        values = np.zeros((len(texts), len(names)))
        for row, text in enumerate(texts):
            for label in split_labels(text):
                is_unknown = label.startswith(UNKNOWN_LABEL)
                code = position.get(label.removeprefix(UNKNOWN_LABEL))
                if code is not None:
                    values[row, code] = np.nan if is_unknown else 1.0
        return TargetMatrix(values=values, names=tuple(names))

    def members(self, texts: Sequence[str]) -> Mapping[str, int]:
        return dict(sorted(_counts(texts).items()))

    def strata(self, values: AnyMatrix) -> tuple[Strata, Strata]:
        n, k = values.shape
        # There may be far more labels of rows than rows: they are numbered in 32 bits, some rows at a time.
        found, step = [], max(1, _STRATA_VALUES // (k + 1))
        for start in range(0, n, step):
            there = values[start : start + step] == 1
            # Rows to which no label applies are a stratum of their own.
            rows, codes = np.nonzero(np.column_stack([there, ~there.any(axis=1)]))
            found.append(np.stack([rows + start, codes]).astype(np.int32))
        members = np.concatenate(found, axis=1)
        return members[0], members[1]

    def check(self, texts: Sequence[str]) -> None:
        counts = _counts(texts)
        if len(counts) < 2:
            there = f"one label only, {next(iter(counts))!r}" if counts else "no label"
            raise InputError(
                f"the training rows have {there}; --task {MULTILABEL} needs at least 2 labels that apply to "
                "some image",
                option="task",
            )
        always = sorted(
            label for label, count in counts.items()
            if count + sum(_is_unknown_in(text, label) for text in texts) == len(texts)
        ) if max(counts.values()) else []  # fmt: skip
        if always:
            raise InputError(
                f"{counted(len(always), 'label')} that every one of the {len(texts)} training rows has: "
                f"{named(always, most=_SHOWN)}; there is nothing to learn of such a label: leave it out "
                "of the data set's labels, or add images without it",
                option="task",
            )

    def notes(self, texts: Sequence[str]) -> list[str]:
        n_bare = sum(not text for text in texts)
        labels = [label for text in texts for label in split_labels(text)]
        unknown = Counter(
            label.removeprefix(UNKNOWN_LABEL) for label in labels if label.startswith(UNKNOWN_LABEL)
        )
        notes = []
        if n_bare:
            notes.append(f"no label applies to {counted(n_bare, 'training image')} [TT315]")
        few = [(label, count) for label, count in _counts(texts).items() if count < FEWEST]
        if few:
            notes.append(
                f"fewer than {FEWEST} training images of {counted(len(few), 'label')} "
                f"({named(sorted(few), most=_SHOWN)}): too few to choose a threshold by, which is 0.5 unless "
                "--threshold is another number [TT319]"
            )
        if unknown:
            shown = named([(label, count) for label, count in unknown.most_common()], most=_SHOWN)
            notes.append(
                f"unknown: {sum(unknown.values())} of {len(texts) * len(_counts(texts))} labels of training "
                f"images ({shown}); each is left out of the loss of its label [TT316]"
            )
        return notes


def split_labels(text: str) -> list[str]:
    """Return the labels that a text of a row names, unknown ones with ``?`` before them."""
    return text.split(LABEL_SEPARATOR) if text else []


def joined_labels(labels: Sequence[str]) -> str:
    """Return the text of a row to which these labels apply; of no label, empty text."""
    return LABEL_SEPARATOR.join(sorted(labels, key=lambda label: (label.removeprefix(UNKNOWN_LABEL), label)))


def has_several(manifest: Manifest) -> bool:
    """Tell whether a data set has a column ``labels``, and a row in it has several."""
    if LABELS_COLUMN not in manifest.extra_names:
        return False
    return any(LABEL_SEPARATOR in text for text in set(manifest.column(LABELS_COLUMN)) if text)


def are_marks(words: Sequence[str]) -> bool:
    """Tell whether words are what cells of a column of 0 and 1 hold, of which there is one at least."""
    return bool(words) and {word.strip().lower() for word in words} <= _YES | _NO


def _counts(texts: Sequence[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for text, count in Counter(texts).items():
        for label in split_labels(text):
            if not label.startswith(UNKNOWN_LABEL):
                found[label] += count
    return found


def _is_unknown_in(text: str, label: str) -> bool:
    return f"{UNKNOWN_LABEL}{label}" in split_labels(text)


def _of_names(manifest: Manifest, column: str | None) -> list[str | None]:
    """Return the texts of rows of a column that names the labels of each row."""
    if column is None and LABELS_COLUMN not in manifest.extra_names:
        raise InputError(
            f"--task {MULTILABEL}, and the data set keeps one label an image: it has no column "
            f"{LABELS_COLUMN!r}. Leave --task out, name a column with 'a|b' in its cells or columns of 0 and "
            "1 with --label-column, or extract with --update from a manifest that has a column "
            f"{LABELS_COLUMN!r}",
            option="task",
        )
    found = manifest.column(column or LABELS_COLUMN)
    known: dict[str, str | None] = {}
    texts = [None if text is None else known.setdefault(text, _canonical(text)) for text in found]
    if column is not None and not any(text and LABEL_SEPARATOR in text for text in texts):
        raise InputError(
            f"--task {MULTILABEL}, and no cell of column {column!r} has several labels (with "
            f"{LABEL_SEPARATOR!r} between them); leave --task out, or name columns of 0 and 1, with commas "
            "between them",
            option="task",
        )
    if column is None and not has_several(manifest):
        raise InputError(
            f"--task {MULTILABEL}, and no image of the data set has several labels; leave --task out",
            option="task",
        )
    return texts


def _canonical(text: str) -> str | None:
    """Return the labels of a cell, sorted and each once; None for a cell that says that none is known."""
    labels = {label.strip() for label in text.split(LABEL_SEPARATOR)} - {""}
    if UNKNOWN_LABEL in labels:
        return None
    return joined_labels([label for label in labels if label.removeprefix(UNKNOWN_LABEL) == label
                          or label.removeprefix(UNKNOWN_LABEL) not in labels])  # fmt: skip


def _of_indicators(manifest: Manifest, columns: Sequence[str]) -> list[str | None]:
    """Return the texts of rows of which several columns say, by 0 and 1, which labels apply."""
    for name in columns:
        if name not in manifest.extra_names:
            raise InputError(
                f"the data set has no column {name!r}; {choices(name, manifest.extra_names)}",
                option="label_column",
            )
        if LABEL_SEPARATOR in name or name.startswith(UNKNOWN_LABEL):
            raise InputError(
                f"column {name!r} cannot be a label, because {LABEL_SEPARATOR!r} and a leading "
                f"{UNKNOWN_LABEL!r} have a meaning of their own; rename it in the manifest",
                option="label_column",
            )
    twice = next((name for name in columns if list(columns).count(name) > 1), None)
    if twice is not None:
        raise InputError(f"column {twice!r} is given twice; name each label once", option="label_column")
    marks = [
        [_mark(cell, name, row, manifest) for row, cell in enumerate(manifest.cells(name))]
        for name in columns
    ]
    texts: list[str | None] = []
    for row in zip(*marks, strict=True):
        if all(mark == UNKNOWN_LABEL for mark in row):
            texts.append(None)
            continue
        cells = zip(columns, row, strict=True)
        texts.append(
            joined_labels([name if mark == "1" else f"{UNKNOWN_LABEL}{name}" for name, mark in cells if mark])
        )
    return texts


def _mark(cell: str | None, column: str, row: int, manifest: Manifest) -> str:
    """Return what a cell of a column of 0 and 1 says: ``1``, empty text or ``?``."""
    if cell is None or cell == UNKNOWN_LABEL:
        return UNKNOWN_LABEL
    word = cell.strip().lower()
    if word in _YES:
        return "1"
    if word in _NO:
        return ""
    raise InputError(
        f"column {column!r} has {cell!r} in row {row} ({manifest.image_id(row)!r}); as one of several label "
        f"columns it must hold 0, 1, nothing (the label does not apply) or {UNKNOWN_LABEL} (unknown)",
        option="label_column",
    )
