"""`Remark`: what of DATA was left out, or looks like something else than it was taken for."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any

from toptune.codes import with_code
from toptune.extract.images.folder_listing import is_litter
from toptune.text import counted

logger = logging.getLogger(__name__)

# A remark names this many of the things that it counts.
SHOWN = 3
# Why images of a data set without any labels are remarked on.
UNLABELED = "without a label, which are all of them"
# The reason of what is no regular file.
SPECIAL = "of a special kind: pipe, socket or device"


@dataclass(frozen=True, kw_only=True)
class Remark:
    """One kind of thing in DATA that a source did not take, or took in a way that may surprise.

    Attributes
    ----------
    noun : str
        What is counted, in the singular.
    reason : str
        Which of them, or why.
    code : str
        Code under which the page on warnings explains this kind; see `toptune.codes`.
    count : int
        How many there are.
    examples : tuple of str
        A few of them, by name.
    has_more : bool
        Whether there are more than the examples.
    advice : str
        What to do about them; may be empty.
    is_left_out : bool
        Whether the things are not in the data set; otherwise they are, and look like something else.
    is_litter : bool
        Whether they are what operating systems leave behind, which is counted and not worth a line.
    """

    noun: str
    reason: str
    code: str
    count: int
    examples: tuple[str, ...]
    has_more: bool = False
    advice: str = ""
    is_left_out: bool = True
    is_litter: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return every field as JSON values."""
        return asdict(self) | {"examples": list(self.examples)}

    @property
    def sentence(self) -> str:
        """What a refusal tells of the remark, which has no code there."""
        more = ", ..." if self.has_more else ""
        named = f" ({', '.join(self.examples)}{more})" if self.examples else ""
        return (
            f"{'left out' if self.is_left_out else 'note'}: {counted(self.count, self.noun)} {self.reason}"
            f"{named}" + (f"; {self.advice}" if self.advice else "")
        )

    def __str__(self) -> str:
        return with_code(self.sentence, self.code)


class Remarks:
    """Remarks that are collected while a source is opened: things of one kind become one remark."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Remark] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._others: dict[str, tuple[int, str]] = {}

    def add(
        self,
        noun: str,
        reason: str,
        example: str | None,
        *,
        code: str,
        count: int = 1,
        advice: str = "",
        is_left_out: bool = True,
        is_litter: bool = False,
    ) -> None:
        """Count `count` more of one kind; the first few examples and the first advice stay."""
        kind = noun, reason
        self._counts[kind] += count
        known = self._found.get(kind)
        # There may be millions of one kind; after the first few only their number changes.
        if known is not None and (example is None or known.has_more):
            return
        named = (*(known.examples if known else ()), *(() if example is None else (example,)))
        self._found[kind] = Remark(
            noun=noun,
            reason=reason,
            code=code,
            count=0,
            examples=named[:SHOWN],
            has_more=len(named) > SHOWN,
            advice=advice if known is None else known.advice,
            is_left_out=is_left_out,
            is_litter=is_litter,
        )

    def add_hidden(self, name: str) -> None:
        """Count a hidden file or folder."""
        litter = is_litter(PurePath(name).name)
        why = "that systems and tools write" if litter else "with a dot in front"
        self.add("hidden name", why, name, code="TT002", is_litter=litter)

    def add_other_file(self, name: str, suffix: str | None = None) -> None:
        """Count a file whose name does not say image; they become one remark with their suffixes."""
        suffix = suffix or PurePath(name).suffix.lower() or "no suffix"
        count, first = self._others.get(suffix, (0, name))
        self._others[suffix] = (count + 1, first)

    def __iter__(self) -> Iterator[Remark]:
        for kind, remark in self._found.items():
            yield replace(remark, count=self._counts[kind])
        if self._others:
            kinds = sorted(self._others.items(), key=lambda kind: (-kind[1][0], kind[0]))
            count = sum(n for n, _ in self._others.values())
            named = [f"{n} {suffix} such as {first}" for suffix, (n, first) in kinds]
            yield Remark(
                noun="file",
                reason="whose names are not those of images",
                code="TT001",
                count=count,
                examples=tuple(named[:SHOWN]),
                has_more=len(named) > SHOWN,
            )


def remarks_of(source: object) -> tuple[Remark, ...]:
    """Return the remarks of a source; sources from elsewhere need not have any."""
    return tuple(getattr(source, "remarks", ()))


class _Once(logging.Filter):
    """Lets each message pass once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self._seen
        self._seen.add(message)
        return is_new


@contextmanager
def each_said_once() -> Iterator[None]:
    """Say each remark once, however often its data set is opened: a study opens it for every backbone."""
    once = _Once()
    logger.addFilter(once)
    try:
        yield
    finally:
        logger.removeFilter(once)


def say_remarks(remarks: Iterable[Remark], name: str) -> None:
    """Warn of each remark on a line of its own, with the name of the data set; litter is not worth one."""
    for remark in remarks:
        if not remark.is_litter:
            logger.warning("%s: %s", name, remark)
