"""What a manifest holds, in counts: classes or labels, splits, and images of which nothing is known."""

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from toptune.store.datasets.manifest import LABEL_SEPARATOR, LABELS_COLUMN, UNKNOWN_LABEL, Manifest
from toptune.text import counted

# Classes that are named with their sizes.
_SHOWN_CLASSES = 10
# So many whole numbers are rather ages or counts than the digits of an alphabet.
_MANY_NUMBERS = 50
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, kw_only=True)
class ManifestContents:
    """Counts of a manifest.

    Attributes
    ----------
    n_classes : int
        Different labels.
    splits : mapping of str to int
        Images of each split, by name; of none under ``""``.
    n_unlabelled : int
        Images of whose label nothing is known.
    largest : mapping of str to int
        The classes with the most images and how many these are; at most ten.
    smallest : mapping of str to int
        The class with the fewest images; empty where `largest` holds all classes.
    numbers : str
        A note where the labels look like numbers and not like names of classes; empty otherwise.
    is_several : bool
        Whether an image has several labels. Then `n_classes`, `largest` and `smallest` count labels, each
        image under each of its labels.
    n_without : int
        Images of which it is known that no label applies.
    """

    n_classes: int
    splits: Mapping[str, int]
    n_unlabelled: int
    largest: Mapping[str, int] = field(default_factory=dict)
    smallest: Mapping[str, int] = field(default_factory=dict)
    numbers: str = ""
    is_several: bool = False
    n_without: int = 0

    def __str__(self) -> str:
        parts = [f"{counted(self.n_classes, 'label' if self.is_several else 'class')}{self._sizes()}"]
        if self.is_several:
            parts.append(f"an image may have several, {self.n_without} have none")
        if set(self.splits) != {""}:
            names = (f"{name or 'no split'} {count}" for name, count in self.splits.items())
            parts.append(", ".join(names))
        if self.n_unlabelled:
            parts.append(f"{self.n_unlabelled} {'unknown' if self.is_several else 'without a label'}")
        return "; ".join([*parts, *filter(None, [self.numbers])])

    def _sizes(self) -> str:
        # Names of classes show at a glance whether the right folders, or the right column, were taken.
        largest, smallest = (
            ", ".join(f"{name} {count}" for name, count in sizes.items())
            for sizes in (self.largest, self.smallest)
        )
        if not largest:
            return ""
        return f" (the largest: {largest}; the smallest: {smallest})" if smallest else f" ({largest})"


def count_contents(manifest: Manifest) -> ManifestContents:
    """Count what a manifest holds, in Arrow's own buffers: a hundred million rows make no Python objects."""
    labels, table = manifest.table["label"], manifest.table
    is_unlabeled, members, several = pc.is_null(labels), _counts(labels), None
    if LABELS_COLUMN in manifest.extra_names:
        several = _counts(table[LABELS_COLUMN])
        is_unlabeled = pc.and_(is_unlabeled, pc.is_null(table[LABELS_COLUMN]))
    n_unlabeled = pc.sum(is_unlabeled).as_py() or 0
    is_several = several is not None and any(LABEL_SEPARATOR in text for text in several)
    if several is not None and is_several:
        n_unlabeled = table[LABELS_COLUMN].null_count + several.pop(UNKNOWN_LABEL, 0)
        members = Counter()
        for text, count in several.items():
            # A question mark before a label says that nobody knows whether the label applies.
            members.update(
                {label: count for label in text.split(LABEL_SEPARATOR) if not label.startswith(UNKNOWN_LABEL)}
            )
    n_without = members.pop("", 0) if is_several else 0
    counts = pc.value_counts(table["split"]).to_pylist()
    splits = {each["values"] or "": each["counts"] for each in counts}
    sizes = sorted(members.items(), key=lambda each: (-each[1], each[0]))
    return ManifestContents(
        n_classes=len(sizes),
        splits=dict(sorted(splits.items(), key=lambda item: (item[0] == "", item[0]))),
        n_unlabelled=n_unlabeled,
        largest=dict(sizes[:_SHOWN_CLASSES]),
        smallest=dict(sizes[max(_SHOWN_CLASSES, len(sizes) - 1) :]),
        # Cells of several labels are no numbers, whatever the labels are called.
        numbers="" if is_several else note_numbers([name for name, _ in sizes]),
        is_several=is_several,
        n_without=n_without,
    )


def _counts(texts: pa.ChunkedArray) -> Counter[str]:
    """Count the images of each text of a column."""
    return Counter(
        {each["values"]: each["counts"] for each in pc.value_counts(texts.drop_null()).to_pylist()}
    )


def note_numbers(classes: Sequence[str], *, column: str = "label") -> str:
    """Say that labels look like numbers, and what can be done about it; empty text for names of classes.

    Parameters
    ----------
    classes : sequence of str
    column : str
        Column of the data set that the labels are in, which the advice names.

    Examples
    --------
    >>> note_numbers(["0", "1", "9"]), note_numbers(["ant", "7.5"])
    ('', '')
    >>> note_numbers(["0.5", "2"])[:51]
    'labels look like numbers (0.5 to 2, 2 values): each'
    """
    # The form is checked first, because Python also reads "nan", "infinity" and "1_000" as numbers.
    if not classes or not all(map(_NUMBER.fullmatch, classes)):
        return ""
    values = sorted(map(float, classes))
    if len(classes) < _MANY_NUMBERS and all(value.is_integer() for value in values):
        return ""
    return (
        f"labels look like numbers ({values[0]:g} to {values[-1]:g}, {len(classes)} values): each value is a "
        "class of its own, and no class is near another; where they are measurements, train --task "
        f"regression --target {shlex.quote(column)} learns numbers"
    )
