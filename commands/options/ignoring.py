"""``--ignore TT012``: notes and warnings of a code are left out of what is printed, and counted at the end.

What is written to files stays whole: ``run.json`` and the report have every note.
"""

import logging
import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import click

from toptune.codes import REFUSALS, WARNINGS, code_of
from toptune.text import counted

# Attribute of a log record of which the first handler has decided.
_IS_IGNORED = "toptune_is_ignored"


class Ignored(logging.Filter):
    """The codes that were given to ``--ignore``, and how often each was met.

    As a filter of logging handlers, it stops warnings of these codes.

    Attributes
    ----------
    codes : set of str
        Codes that are left out of what is printed.
    met : Counter of str
        How often a note or warning of each code was left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.codes: set[str] = set()
        self.met: Counter[str] = Counter()

    def takes(self, text: str) -> bool:
        """Whether a text ends with an ignored code; if so, count it."""
        code = code_of(text)
        if code is None or code not in self.codes:
            return False
        self.met[code] += 1
        return True

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a record pass unless its message is ignored; several handlers count a record once."""
        if not self.codes:
            return True
        known = vars(record)
        if _IS_IGNORED not in known:
            known[_IS_IGNORED] = self.takes(record.getMessage())
        return not known[_IS_IGNORED]

    def lines(self, text: str) -> str:
        """Return a text without the lines that are ignored."""
        if not self.codes:
            return text
        return "\n".join(line for line in text.split("\n") if not self.takes(line))

    def values(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return JSON values without the texts and objects in lists that are ignored."""
        return {name: self._value(value) for name, value in payload.items()} if self.codes else {**payload}

    def _value(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: self._value(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._value(each) for each in value if not self._is_note(each)]
        return value

    def _is_note(self, value: Any) -> bool:
        if isinstance(value, str):
            return self.takes(value)
        code = value.get("code") if isinstance(value, Mapping) else None
        return isinstance(code, str) and self.takes(f"[{code}]")

    def sentence(self) -> str:
        """Say how many notes were ignored; an empty text if there were none."""
        if not self.met:
            return ""
        told = ", ".join(f"{code} {times} x" for code, times in sorted(self.met.items()))
        return f"{counted(self.met.total(), 'note')} ignored: {told}"


def _ignore(ctx: click.Context, option: click.Parameter, given: Collection[str]) -> None:
    """Add the codes that were given to those of the command line, after they were checked."""
    ignored = ctx.ensure_object(Ignored)
    for code in (each.strip() for value in given for each in value.split(",")):
        if code in REFUSALS:
            raise click.BadParameter(
                f"{code} is a refusal ({REFUSALS[code]}): toptune cannot go on, so that nothing can "
                "be ignored; notes and warnings can",
                ctx=ctx,
                param=option,
            )
        if code not in WARNINGS:
            raise click.BadParameter(f"{code!r} is no code{_nearest(code)}", ctx=ctx, param=option)
        ignored.codes.add(code)


def _nearest(text: str) -> str:
    """Say which code a text may mean: the one with the nearest number."""
    number = re.fullmatch(r"\D*(\d+)", text)
    if number is None:
        return "; a code is such as TT012, and stands at the end of the note"
    near = min(WARNINGS, key=lambda code: abs(int(code[2:]) - int(number[1])))
    return f"; the nearest is {near}: {WARNINGS[near]}"


def ignore_option() -> click.Option:
    """Return the option ``--ignore``, which every command has."""
    return click.Option(
        ["--ignore"],
        multiple=True,
        metavar="CODE",
        expose_value=False,
        is_eager=True,
        callback=_ignore,
        help="Leave notes and warnings of this code, such as TT012, out of what is printed; they are counted "
        "at the end. Several codes with commas between them.",
    )


def ignored_now() -> Ignored:
    """Return what the running command ignores."""
    context = click.get_current_context(silent=True)
    found = context.find_object(Ignored) if context else None
    return found or Ignored()
