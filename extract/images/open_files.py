"""`OpenFiles`: several threads read images at offsets in large files, of which few are open at a time."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toptune.errors import InputError, UnreadableImageError

# A process may usually have 1,024 files open; the store and the libraries need the rest.
MAX_OPEN = 128


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
        If the file does not exist or may not be looked at.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return KnownFile(str(path), found.st_size, found.st_mtime_ns)


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
            handle = _Handle(os.open(known.path, os.O_RDONLY))
        except OSError as error:
            raise InputError(
                f"{known.path} was there before and cannot be opened now: {error.strerror}; put it back and "
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
