"""What the system refuses is told as what it is: which file, why, and what to do about it."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from toptune.errors import CorruptError, FormatVersionError, InputError, StoreError, StoreNotFoundError

# Flags for reading a file: no child inherits it, a pipe opens at once, and Windows changes no ends of lines.
READING = (
    os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
)

_ON_WRITING = {
    errno.ENOSPC: "free some space and run the same command again{kept}",
    errno.EDQUOT: "raise the quota or free some space and run the same command again",
    errno.EFBIG: "raise the limit on file sizes and run the same command again",
    errno.EACCES: "ask the owner for write permission, or {elsewhere}",
    errno.EPERM: "the file system may not support hard links; {elsewhere}",
    errno.ENOTSUP: "the file system does not support hard links; {elsewhere}",
    errno.EROFS: "the file system is read-only; {elsewhere}",
    errno.ENAMETOOLONG: "the file system allows no name of that length; {elsewhere}",
    errno.ENOTDIR: "a file stands where a folder is needed; {elsewhere}",
    errno.EISDIR: "a folder stands where a file is needed; {elsewhere}",
}
_ON_READING = {
    errno.EACCES: "ask the owner for read permission",
    errno.EPERM: "ask the owner for read permission",
    errno.EISDIR: "a folder stands where a file is needed; move the folder away and put the file back",
    errno.ENOTDIR: "a file stands where a folder is needed; check the path",
    errno.ENAMETOOLONG: "the file system allows no name of that length; check the path",
    errno.ENOENT: "somebody may have moved it; check the path",
}
_ON_BOTH = {
    errno.EIO: "check the disk, then run the same command again",
    errno.ESTALE: "the file server has replaced it; run the same command again, or mount the folder anew",
    errno.ENOTCONN: "the file server does not answer; mount the folder anew and run the same command again",
    errno.ETIMEDOUT: "the file server does not answer; run the same command again later",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n) and run the same command again",
    errno.ENFILE: "too many files are open on this machine: run the same command again later",
    errno.ELOOP: "its links lead in a circle; replace them by the file itself",
    errno.EBUSY: "another program holds it; run the same command again later",
    errno.ENOMEM: "the memory is full; stop other programs and run the same command again",
}
_OF_WRITERS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def is_refusal(error: object) -> bool:
    """Whether the system refused to read or write, which says nothing of what a file holds."""
    faults = (CorruptError, FormatVersionError, StoreNotFoundError)
    return isinstance(error, StoreError) and not isinstance(error, faults)


def refusal(error: BaseException) -> str | None:
    """Say what the system refuses to read and what to do, or None for what a library says of bytes it read.

    Libraries raise an ``OSError`` of both: without a number, or with that of an impossible place in the
    file, the bytes are at fault.
    """
    if isinstance(error, MemoryError):
        return _ON_BOTH[errno.ENOMEM]
    steps = _ON_BOTH | _ON_READING
    if not isinstance(error, OSError) or error.errno not in steps:
        return None
    return f"{_reason(error)}; {steps[error.errno]}"


def not_readable(path: Path, error: OSError) -> StoreError:
    """Make the error of a file or folder that the system refuses to read."""
    steps = _ON_BOTH | _ON_READING
    step = steps.get(error.errno or 0, "check its permissions and the disk")
    return StoreError(f"cannot read {path}: {_reason(error)}; {step}", path)


def not_writable(path: Path, error: OSError, *, elsewhere: str, kept: str) -> StoreError:
    """Make the error of a file or folder that the system refuses to write.

    Parameters
    ----------
    path : Path
        The file or folder that was asked for, whatever the temporary name of the file at fault.
    error : OSError
    elsewhere : str
        What else to do where this place cannot be written at all, such as ``give another --out``.
    kept : str
        What is there in spite of the failure.
    """
    steps = _ON_BOTH | _ON_WRITING
    step = steps.get(error.errno or 0, f"{kept}; run the same command again, or {elsewhere}")
    step = step.format(elsewhere=elsewhere, kept=f"; {kept}")
    return StoreError(f"cannot write {path}: {_reason(error)}; {step}", path)


# Asked once: the system's functions may have others in their place later, which count or fail.
_HOLDS_FOLDERS = hasattr(os, "O_DIRECTORY") and {os.open, os.link, os.rename} <= os.supports_dir_fd


def refuse_other_systems() -> None:
    """Raise an `InputError` where folders cannot be held open, as a store on a disk needs.

    What is written through a held folder belongs to the folder that was checked, whatever its name leads to
    by then. Windows holds no folders.
    """
    if not _HOLDS_FOLDERS:
        raise InputError(
            f"a feature store needs hard links and folders that are held open, which {sys.platform} does not "
            "offer to Python; run toptune in the Windows Subsystem for Linux, in a container, or on another "
            "machine",
            option="store",
        )


@contextlib.contextmanager
def explained_reading(path: Path) -> Iterator[None]:
    """Turn the system's refusals to read a file into the store's errors; a missing file stays one.

    Raises
    ------
    FileNotFoundError
        If there is no such file; only the caller knows what that means.
    StoreError
        If the system refuses for another reason, such as permissions.
    """
    try:
        yield
    except StoreError:
        raise
    # A path that leads through a file is a missing file too, so that callers handle one kind of error.
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except OSError as error:
        raise not_readable(path, error) from error


@contextlib.contextmanager
def explained_writing(
    path: Path,
    *,
    elsewhere: str = "use another --store",
    kept: str = "what is committed stays",
) -> Iterator[None]:
    """Turn the system's refusals to write below a path into the store's errors; see `not_writable`."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise not_writable(path, error, elsewhere=elsewhere, kept=kept) from error


def told(error: OSError) -> str:
    """Describe a refusal that no part of toptune has described, with the file if the system names one."""
    if error.errno is None:
        return str(error)
    path = f"{error.filename}: " if error.filename else ""
    if error.errno in _OF_WRITERS:
        step = _ON_WRITING[error.errno].format(elsewhere="write to another place", kept="")
    else:
        # Permission to read or to write: the system does not say which of the two was refused.
        step = (_ON_BOTH | _ON_READING).get(error.errno, "check the path and its permissions")
        step = step.replace("read permission", "permission")
    return f"{path}{_reason(error)}; {step}"


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
