"""Files are opened without waiting; `OpenFiles` reads images at offsets in large files, few of them open."""

import io
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toptune.errors import InputError, UnreadableImageError
from toptune.store.files.system_errors import READING

# A process may usually have 1,024 files open; the store and the libraries need the rest.
MAX_OPEN = 128


# What a path may lead to, beside files and folders.
_OTHERS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True)
class KnownFile:
    """A file with the size and time that it had when it was first looked at."""

    path: str
    bytes: int
    modified_ns: int


def look_at(path: Path) -> KnownFile:
    """Return a file with its size and time.

    Raises
    ------
    InputError
        If the file does not exist, may not be looked at, or is no regular file.
    """
    try:
        found = path.stat()
        refuse_other(found.st_mode)
    except UnreadableImageError as error:
        raise InputError(f"{path} {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return KnownFile(str(path), found.st_size, found.st_mtime_ns)


def refuse_other(mode: int) -> None:
    """Refuse what is no regular file, by the mode that `stat` gives.

    Raises
    ------
    UnreadableImageError
        The message, which says what it is, has no path.
    """
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _OTHERS if is_kind(mode)), "something else")
        raise UnreadableImageError(f"is {kind}, no regular file")


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a regular file for reading, links followed, and return the descriptor; never wait for a writer.

    Raises
    ------
    UnreadableImageError
        If the path leads to a pipe, a socket, a device or a folder.
    OSError
        If the file cannot be opened.
    """
    # Opening a device may do something already, so that the mode is looked at before. A file that is replaced
    # by a pipe in between does no harm: the descriptor does not wait, and its own mode is looked at after.
    refuse_other(os.stat(path).st_mode)  # noqa: PTH116  (also for millions of images)
    descriptor = os.open(path, READING)
    try:
        refuse_other(os.fstat(descriptor).st_mode)
    except UnreadableImageError:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Return the bytes of a regular file with an image.

    Raises
    ------
    UnreadableImageError
        If the file cannot be read, is no regular file or is larger than the limit. The message has no path:
        paths differ between machines, and the row names the image.
    """
    try:
        with os.fdopen(open_regular(path), "rb", buffering=0) as file:
            n_bytes = os.fstat(file.fileno()).st_size
            # Files of the kernel say that they are empty, and may wait or never end: they are taken at their
            # word. The limit holds for the bytes that are read: the size may have changed since.
            data = b"" if n_bytes == 0 else _read_up_to(file, min(n_bytes, max_bytes) + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, UnreadableImageError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreadableImageError(f"cannot be read: {reason or type(error).__name__}") from error
    if len(data) > max_bytes:
        raise UnreadableImageError(f"the file is larger than {max_bytes} bytes; is it an image?")
    return data


def _read_up_to(file: io.RawIOBase, n_bytes: int) -> bytes:
    parts = []
    while n_bytes and (part := file.read(n_bytes)):
        parts.append(part)
        n_bytes -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class OpenFiles:
    """Reads parts of files, after a check that each file is the file that was indexed.

    Parameters
    ----------
    files : sequence of KnownFile
        The files; `read` takes the position of a file in this sequence.
    """

    def __init__(self, files: Sequence[KnownFile]) -> None:
        self.files = list(files)
        self._handles: OrderedDict[int, _Handle] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, number: int, offset: int, n_bytes: int) -> bytes:
        """Return bytes of one file.

        Raises
        ------
        InputError
            If the file is gone or has been replaced: all images in the file would be wrong, not only this
            one.
        UnreadableImageError
            If the disk fails, or the file ends before the image does.
        """
        handle = self._handle(number)
        try:
            # `pread` takes the offset with each call, so that threads share a descriptor without a lock.
            data = os.pread(handle.descriptor, n_bytes, offset)
            while len(data) < n_bytes:
                more = os.pread(handle.descriptor, n_bytes - len(data), offset + len(data))
                if not more:
                    name = Path(self.files[number].path).name
                    raise UnreadableImageError(f"{name} ends before the image does")
                data += more
        except OSError as error:
            raise UnreadableImageError(f"cannot be read: {error.strerror or type(error).__name__}") from error
        return data

    def _handle(self, number: int) -> "_Handle":
        with self._lock:
            handle = self._handles.pop(number, None) or self._open(number)
            self._handles[number] = handle
            while len(self._handles) > MAX_OPEN:
                self._handles.popitem(last=False)
        return handle

    def _open(self, number: int) -> "_Handle":
        known = self.files[number]
        try:
            handle = _Handle(open_regular(known.path))
        except (OSError, UnreadableImageError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"it {error}"
            raise InputError(
                f"{known.path} was there before and cannot be opened now: {reason}; put it back and "
                "give the same command again"
            ) from error
        # Offsets in a file that was written anew would point to other bytes.
        found = os.fstat(handle.descriptor)
        if (found.st_size, found.st_mtime_ns) != (known.bytes, known.modified_ns):
            raise InputError(
                f"{known.path} was changed while it was read; give the command again once it is complete"
            )
        return handle


class _Handle:
    """A file descriptor that is closed when the last thread that reads from it is done."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)
