"""Files that another user may not read or write, with the system's own permissions."""

import contextlib
import email.policy  # noqa: F401  (another user may not read Python's own folder: loaded by its owner)
import os
import stat
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def another_user() -> Iterator[None]:
    """Give up root's rights, to which no permission applies; any other user is left as it is."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextlib.contextmanager
def mode_of(path: Path, mode: int) -> Iterator[None]:
    before = stat.S_IMODE(path.stat().st_mode)
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


def give_away(folder: Path) -> None:
    """Make everything in a folder the other user's, who may then write it and take permissions away."""
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
