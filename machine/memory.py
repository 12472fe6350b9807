"""The memory that work may take, this machine's or a given limit, and the refusal of work above it."""

import os
import re
from pathlib import Path

from toptune.errors import InputError

# Limit where the system does not tell how much memory there is.
_FALLBACK_BYTES = 4 * 2**30
# ``GB`` counts in thousands and ``GiB`` in 1024s (IEC 80000-13).
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS = _DECIMAL | {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def bytes_of(text: str | int) -> int:
    """Return the bytes of a number with a unit, such as ``2GiB``, ``500MB`` or ``1073741824``.

    Raises
    ------
    InputError
        If the text is no number of bytes, or the number is not above 0.
    """
    if isinstance(text, int):
        value = float(text)
    else:
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([kmgt]i?|)b?\s*", text.lower())
        # Text that is no number becomes 0, which the check below refuses with the same words.
        value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if value < 1:
        raise InputError(f"memory limit {text!r} is no number of bytes; give one such as 2GiB or 500MB")
    return int(value)


def memory_limit_bytes() -> int:
    """Return half of this machine's memory: the default limit of work that holds all its values at once."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return _FALLBACK_BYTES


def taken_bytes() -> int:
    """Return the memory that this process takes now, imported libraries included; 0 where Linux is not."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def left_bytes(limit_bytes: int | None) -> int:
    """Return what a limit on the whole process leaves for work that begins now.

    Parameters
    ----------
    limit_bytes : int, optional
        The limit; by default half of this machine's memory.

    Raises
    ------
    InputError
        If the process, with the libraries that it has imported, takes as much already.
    """
    limit, taken = memory_limit_bytes() if limit_bytes is None else limit_bytes, taken_bytes()
    if limit <= taken:
        raise InputError(
            f"the memory limit is {limit / 2**20:.0f} MiB, and this process takes {taken / 2**20:.0f} MiB "
            "before the work, its libraries included; give a higher --memory-limit"
        )
    return limit - taken


def check_memory(needed_bytes: int, *, limit_bytes: int | None, what: str, instead: str) -> None:
    """Refuse work whose projected memory is above the limit.

    Raises
    ------
    InputError
        If more is needed than the limit; the message has both, and what to do `instead`.
    """
    limit = memory_limit_bytes() if limit_bytes is None else limit_bytes
    if needed_bytes > limit:
        raise InputError(
            f"{what} needs about {needed_bytes / 2**30:.2f} GiB of memory, and "
            f"{limit / 2**30:.2f} GiB may be taken; {instead}"
        )
