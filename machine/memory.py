"""The memory that work may take, this machine's or a given limit, and the refusal of work above it."""

import contextlib
import ctypes
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toptune.errors import InputError
from toptune.text import counted

if TYPE_CHECKING:  # limits are read without torch, whose import takes seconds
    import torch

# Limit where the system does not tell how much memory there is.
_FALLBACK_BYTES = 4 * 2**30
# Share of a CUDA device's free memory that work may take. The rest is for what no projection counts:
# workspaces of libraries, and gaps between tensors.
_DEVICE_SHARE = 0.85
# Numbers of bytes have 64 bits and a sign everywhere.
_ADDRESSED_BYTES = 2**63
# A limit that is too low is told with one that leaves at least so much for the work, in steps of as much.
_STEP_BYTES = 256 * 2**20
# ``GB`` counts in thousands and ``GiB`` in 1024s (IEC 80000-13).
_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS = _DECIMAL | {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def bytes_of(text: str | int) -> int:
    """Return the bytes of a number with a unit, such as ``2GiB``, ``500MB`` or ``1073741824``.

    Raises
    ------
    InputError
        If the text is no number of bytes, or the number is below 1 or not below 2**63.
    """
    value: float
    if isinstance(text, int):
        value = text
    else:
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([kmgt]i?|)b?\s*", text.lower())
        # Text that is no number becomes 0, which the check below refuses with the same words.
        value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if value < 1:
        raise InputError(
            f"memory limit {text!r} is no number of bytes from 1; give one such as 2GiB or 500MB"
        )
    if value >= _ADDRESSED_BYTES:
        raise InputError(
            f"memory limit {text!r} is more than systems can address; give less than 8EiB, "
            "such as 2GiB or 500MB"
        )
    return int(value)


def shown_bytes(n: float) -> str:
    """Write a number of bytes with the largest unit in which the number is at least 1.

    Examples
    --------
    >>> shown_bytes(1000), shown_bytes(3 * 2**19), shown_bytes(5 * 2**28)
    ('1000 bytes', '1.5 MiB', '1.25 GiB')
    """
    if n < 1024:
        return counted(int(n), "byte")
    for unit in ("KiB", "MiB"):
        n /= 1024
        if n < 1024:
            return f"{n:.1f} {unit}"
    return f"{n / 1024:.2f} GiB"


def memory_limit_bytes() -> int:
    """Return half of this machine's memory: the default limit of work that holds all its values at once."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return _FALLBACK_BYTES


def free_bytes(device: "torch.device") -> int:
    """Return what is free on a CUDA device, with what torch holds there for tensors to come."""
    import torch

    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


@dataclass(frozen=True, kw_only=True)
class MemoryLimits:
    """What work may take on the device that computes, and in main memory beside it.

    Attributes
    ----------
    device : str
        Name of a CUDA device; empty where main memory is where the work computes.
    bytes : int
        Memory that may be taken where the work computes.
    host_bytes : int
        Main memory that may be taken.
    """

    device: str
    bytes: int
    host_bytes: int

    @classmethod
    def on(cls, device: "torch.device", limit_bytes: int | None) -> "MemoryLimits":
        """Return the limits of work on a device.

        Parameters
        ----------
        device : torch.device
        limit_bytes : int, optional
            A limit on main memory and on the device's memory, each. By default half of this machine's memory,
            and 85 % of what is free on a CUDA device, which no limit raises.
        """
        host_bytes = memory_limit_bytes() if limit_bytes is None else limit_bytes
        if device.type != "cuda":
            return cls(device="", bytes=host_bytes, host_bytes=host_bytes)
        most = int(_DEVICE_SHARE * free_bytes(device))
        return cls(
            device=str(device),
            bytes=most if limit_bytes is None else min(limit_bytes, most),
            host_bytes=host_bytes,
        )

    @property
    def cuda_bytes(self) -> int | None:
        """Memory that may be taken on the CUDA device that computes; None where there is none."""
        return self.bytes if self.device else None

    def hold(self, needed_bytes: int, *, host_bytes: int) -> bool:
        """Return whether work fits, by its projected peak where it computes and the one in main memory."""
        return needed_bytes <= self.bytes and (not self.device or host_bytes <= self.host_bytes)

    def check(self, needed_bytes: int, *, host_bytes: int, what: str, instead: str) -> None:
        """Refuse work whose projected memory is above a limit.

        Parameters
        ----------
        needed_bytes : int
            Projected peak where the work computes.
        host_bytes : int
            Projected peak in main memory of work on a CUDA device; not looked at elsewhere.
        what, instead : str
            See `check_memory`.

        Raises
        ------
        InputError
            If more is needed than a limit; the message has both, and what to do `instead`.
        """
        check_memory(needed_bytes, limit_bytes=self.bytes, what=what, instead=instead, device=self.device)
        if self.device:
            check_memory(
                host_bytes, limit_bytes=self.host_bytes, what=f"{what} on {self.device}", instead=instead
            )


def taken_bytes() -> int:
    """Return the memory that this process takes now, imported libraries included; 0 where Linux is not."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def give_back_free_memory() -> None:
    """Give memory that this process has freed back to the system, where it can be given back.

    Arrow and the C library keep what was freed for allocations to come, which counts as taken meanwhile. Ids
    and labels of a million rows, once read, leave hundreds of MiB so.
    """
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        arrow.default_memory_pool().release_unused()
    if sys.platform == "linux":
        # C libraries other than glibc have no such function.
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


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
    give_back_free_memory()
    limit, taken = memory_limit_bytes() if limit_bytes is None else limit_bytes, taken_bytes()
    if limit <= taken:
        enough = (taken // _STEP_BYTES + 2) * _STEP_BYTES
        raise InputError(
            f"the memory limit is {shown_bytes(limit)}, and this process takes {shown_bytes(taken)} before "
            f"the work, its libraries included; give a higher --memory-limit, such as {enough // 2**20}MiB"
        )
    return limit - taken


def left_for_head(limit_bytes: int | None, device: str | None) -> int | None:
    """Return what a limit on the whole process leaves for a head on a device.

    Without a limit, a head on another device than the CPU has limits of its own, see `MemoryLimits`: None.

    Raises
    ------
    InputError
        As `left_bytes`.
    """
    is_there = limit_bytes is None and device not in (None, "cpu")
    return None if is_there else left_bytes(limit_bytes)


def check_memory(
    needed_bytes: int, *, limit_bytes: int | None, what: str, instead: str, device: str = ""
) -> None:
    """Refuse work whose projected memory is above the limit.

    Parameters
    ----------
    needed_bytes : int
    limit_bytes : int, optional
        The limit; by default half of this machine's memory.
    what : str
        The work, as the beginning of a sentence.
    instead : str
        What to do, as an imperative.
    device : str
        Name of the device whose memory it is; empty for main memory.

    Raises
    ------
    InputError
        If more is needed than the limit; the message has both, and what to do `instead`.
    """
    limit = memory_limit_bytes() if limit_bytes is None else limit_bytes
    if needed_bytes > limit:
        place = f" on {device}" if device else ""
        raise InputError(
            f"{what} needs about {shown_bytes(needed_bytes)} of memory, and "
            f"{shown_bytes(limit)} may be taken{place}; {instead}"
        )
