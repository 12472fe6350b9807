"""Warnings of many trainings, gathered into a few lines, because there may be hundreds of warnings."""

import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from toptune.codes import code_of, with_code, without_code
from toptune.text import counted

# Number of warnings that are printed, and characters of a printed warning.
_LINES = 5
_WIDTH = 160
# A number that is not part of a word: the 4 of layer4 belongs to a name.
_NUMBER = re.compile(r"(?<!\w)[-+]?\d[\d,.]*(e[-+]?\d+)?(?!\w)")


@dataclass(frozen=True, kw_only=True)
class Note:
    """A warning that one or more trainings gave.

    Attributes
    ----------
    code : str or None
        Code under which the page on warnings explains it; None for warnings of runs before there were codes.
    text : str
        The warning of the first training; other trainings may have other numbers in the warning.
    methods : tuple of str
        Methods of the trainings that gave the warning.
    trainings : int
        How many trainings gave the warning.
    """

    code: str | None
    text: str
    methods: tuple[str, ...]
    trainings: int

    def line(self) -> str:
        """Return one line of at most about `_WIDTH` characters, with the code at its end."""
        text = textwrap.shorten(without_code(self.text), _WIDTH, placeholder=" ...")
        line = f"  {self.trainings} x {', '.join(self.methods)}: {text}"
        return with_code(line, self.code) if self.code else line


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Warnings of several trainings.

    Attributes
    ----------
    trainings, noted : int
        Number of all trainings, and of the trainings with a warning.
    codes : dict of str to int
        How many trainings had a warning of each code, the most frequent first.
    different : tuple of Note
        Different warnings, the most frequent first.
    """

    trainings: int
    noted: int
    codes: dict[str, int]
    different: tuple[Note, ...]

    def lines(self) -> list[str]:
        """Say the most frequent warnings in a few lines; no line without warnings."""
        if not self.different:
            return []
        shown = [note.line() for note in self.different[:_LINES]]
        left = len(self.different) - len(shown)
        return [
            f"notes of {self.noted} of {counted(self.trainings, 'training')}, whole in each one's run.json "
            "and in `toptune report`:",
            *shown,
            *([f"  and {counted(left, 'other')}"] if left else []),
            *(
                ["trainings by code: " + ", ".join(f"{code} {n}" for code, n in self.codes.items())]
                if self.codes
                else []
            ),
        ]


def gather_notes(trainings: Iterable[tuple[str, Sequence[str]]]) -> Notes:
    """Gather warnings; warnings that differ in numbers alone count as one.

    Parameters
    ----------
    trainings : iterable of tuple
        Method and warnings of each training.
    """
    counts: Counter[str] = Counter()
    texts: dict[str, str] = {}
    methods: dict[str, dict[str, None]] = defaultdict(dict)
    codes: Counter[str] = Counter()
    n = noted = 0
    for method, warnings in trainings:
        n, noted = n + 1, noted + bool(warnings)
        # The same warning has other numbers in every training; without them equal warnings have equal text.
        kinds = [_NUMBER.sub("#", text) for text in warnings]
        # A training that gives a warning several times counts once.
        counts.update(dict.fromkeys(kinds, 1))
        codes.update({code: 1 for kind in kinds if (code := code_of(kind))})
        for kind, text in zip(kinds, warnings, strict=True):
            texts.setdefault(kind, text)
            methods[kind][method] = None
    different = tuple(
        Note(code=code_of(kind), text=texts[kind], methods=tuple(methods[kind]), trainings=count)
        for kind, count in counts.most_common()
    )
    return Notes(trainings=n, noted=noted, codes=dict(codes.most_common()), different=different)
