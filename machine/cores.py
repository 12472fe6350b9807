"""The cores that this process may use, and how many threads read images on them."""

import os
from pathlib import Path

# Reading and decoding an image holds the interpreter for 0.1 to 0.2 ms, and one thread at a time can do that:
# further threads would only wait for each other.
MOST_READERS = 32
# More threads than a user may ask for would not start everywhere: a system gives a process thousands at most.
MOST_THREADS = 1024


def usable_cores(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Count the cores that this process may use: by its affinity, and by the quota of its control group.

    Parameters
    ----------
    groups : Path
        Where the control groups are mounted.
    own : Path
        File that names the control group of this process.

    Returns
    -------
    int
        At least 1. Batch systems set the affinity, containers the quota; a quota of 1.5 cores counts as 2.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *_quotas(groups, own)]))


def reading_threads() -> int:
    """Return how many threads read and decode images unless the user says otherwise."""
    return min(MOST_READERS, usable_cores())


def _quotas(groups: Path, own: Path) -> list[int]:
    """Return the quotas, in cores, of this process's control group and of the groups around it."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for line in lines:
        # Version 2 has one line, "0::/path"; version 1 a line for each controller, "4:cpu,cpuacct:/path".
        controllers, _, path = line.partition(":")[2].partition(":")
        is_second = not controllers
        if not (is_second or "cpu" in controllers.split(",")):
            continue
        root = groups if is_second else groups / "cpu"
        group = root / path.lstrip("/")
        # A container may see its own group as the root of all, whatever the path says.
        for folder in (group, *group.parents):
            if folder == root or root in folder.parents:
                found += _quota(folder, is_second=is_second)
    return found


def _quota(folder: Path, *, is_second: bool) -> list[int]:
    try:
        if is_second:
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        # "max" in version 2 and -1 in version 1 mean that there is no quota.
        return [-(-int(quota) // int(period))] if int(quota) > 0 else []
    except (OSError, ValueError, ZeroDivisionError):
        return []
