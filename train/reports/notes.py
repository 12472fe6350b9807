"""What many trainings warned of, gathered: few lines for what may be hundreds of warnings."""

import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from toptune.text import counted

# Lines that are printed, and how long a warning is in them.
_LINES = 5
_WIDTH = 160
# By itself: the 4 of layer4 is a name.
_NUMBER = re.compile(r"(?<!\w)[-+]?\d[\d,.]*(e[-+]?\d+)?(?!\w)")


@dataclass(frozen=True, kw_only=True)
class Note:
    """A warning.

    Attributes
    ----------
    text : str
        As the first training has it; others may have other numbers in it.
    methods : tuple of str
        Of the trainings that have it.
    trainings : int
    """

    text: str
    methods: tuple[str, ...]
    trainings: int


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Warnings of several trainings.

    Attributes
    ----------
    trainings, noted : int
        All, and those with a warning.
    different : tuple of Note
        The most frequent first.
    """

    trainings: int
    noted: int
    different: tuple[Note, ...]

    def lines(self) -> list[str]:
        """Say the most frequent in a few lines; none where nothing was noted."""
        if not self.different:
            return []
        shown = [
            f"  {note.trainings} x {', '.join(note.methods)}: "
            + textwrap.shorten(note.text, _WIDTH, placeholder=" ...")
            for note in self.different[:_LINES]
        ]
        left = len(self.different) - len(shown)
        return [
            f"notes of {self.noted} of {counted(self.trainings, 'training')}, whole in each one's run.json "
            "and in `toptune report`:",
            *shown,
            *([f"  and {counted(left, 'other')}"] if left else []),
        ]


def gather_notes(trainings: Iterable[tuple[str, Sequence[str]]]) -> Notes:
    """Gather warnings, those that differ in numbers alone as one.

    Parameters
    ----------
    trainings : iterable of tuple
        Of each its method and its warnings.
    """
    counts: Counter[str] = Counter()
    texts: dict[str, str] = {}
    methods: dict[str, dict[str, None]] = defaultdict(dict)
    n = noted = 0
    for method, warnings in trainings:
        n, noted = n + 1, noted + bool(warnings)
        kinds = [_NUMBER.sub("#", text) for text in warnings]
        counts.update(dict.fromkeys(kinds, 1))
        for kind, text in zip(kinds, warnings, strict=True):
            texts.setdefault(kind, text)
            methods[kind][method] = None
    different = tuple(
        Note(text=texts[kind], methods=tuple(methods[kind]), trainings=count)
        for kind, count in counts.most_common()
    )
    return Notes(trainings=n, noted=noted, different=different)
