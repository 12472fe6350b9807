"""Patterns such as ``shards-{000000..000099}.tar`` or ``{train,val}-*.tar`` name several tar shards."""

import glob
import re
from pathlib import Path

from toptune.errors import InputError

# A few braces beside one another make billions of names, which would fill the memory.
MAX_NAMES = 1_000_000
SHOWN = 3
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_pattern(data: str) -> bool:
    """Return whether a text has braces or wildcards in it."""
    return bool(_BRACES.search(data)) or glob.has_magic(data)


def expand_pattern(data: str) -> list[Path]:
    """Return the files that a pattern names, sorted by name.

    Braces are expanded first. Every name that results must be a file, or match at least one file.

    Raises
    ------
    InputError
        If no file matches, or a file that braces name is missing.
    """
    names = _expand_braces(data)
    files: set[str] = set()
    missing = []
    for name in names:
        matches = glob.glob(name, recursive=True) if glob.has_magic(name) else [name]  # noqa: PTH207
        found = [match for match in matches if Path(match).is_file()]
        if not found:
            missing.append(name)
        files.update(found)
    if not files:
        raise InputError(f"no file matches {data!r}; check the pattern and the folder")
    if missing:
        raise InputError(
            f"{len(missing)} of {len(names)} shards of {data!r} are missing: {', '.join(missing[:SHOWN])}"
            f"{', ...' if len(missing) > SHOWN else ''}; put them there, or name a smaller range"
        )
    return [Path(name) for name in sorted(files)]


def _expand_braces(data: str) -> list[str]:
    names = [data]
    while any(_BRACES.search(name) for name in names):
        names = [each for name in names for each in _expand_first(name)]
        if len(names) > MAX_NAMES:
            raise InputError(f"{data!r} names more than {MAX_NAMES} shards; name fewer")
    return names


def _expand_first(name: str) -> list[str]:
    braces = _BRACES.search(name)
    if braces is None:
        return [name]
    inner = braces[1]
    bounds = _RANGE.fullmatch(inner)
    if bounds:
        first, last = int(bounds[1]), int(bounds[2])
        if abs(last - first) >= MAX_NAMES:
            raise InputError(f"{{{inner}}} names more than {MAX_NAMES} shards; name fewer")
        low, high = min(first, last), max(first, last)
        choices = [str(number).zfill(len(bounds[1])) for number in range(low, high + 1)]
    elif "," in inner:
        choices = inner.split(",")
    else:
        raise InputError(
            f"{{{inner}}} in a pattern is neither a range like {{000..099}} nor a list like {{a,b}}"
        )
    return [name[: braces.start()] + choice + name[braces.end() :] for choice in choices]
