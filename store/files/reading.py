"""Read a file, whole or in parts, with the store's errors."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from toptune.errors import CorruptError, StoreError
from toptune.store.files.s3_path import ObjectPath

_MAX_BUFFERS = 1024  # of one system call, IOV_MAX


def read_file(path: Path) -> bytes:
    """Return a file's content.

    Raises
    ------
    FileNotFoundError
        If there is none: what that means, only the caller knows.
    StoreError
        If the system refuses for another reason, such as permissions.
    """
    try:
        return path.read_bytes()
    except StoreError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except OSError as error:
        raise _refused(path, error) from error


def list_folder(folder: Path) -> list[Path]:
    """List what is in a folder, sorted by name; nothing if it is gone, perhaps since a moment ago.

    Raises
    ------
    StoreError
        If the system refuses.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except StoreError:
        raise
    except OSError as error:
        raise _refused(folder, error) from error


def read_scattered(
    path: Path, buffers: Sequence[memoryview], *, offset: int | Sequence[int], file_bytes: int
) -> None:
    """Fill buffers from a file.

    Parameters
    ----------
    path : Path
    buffers : sequence of memoryview
        Writable, of bytes.
    offset : int or sequence of int
        Where the buffers' bytes follow each other in the file, or where each one begins.
    file_bytes : int
        Size that the file must have.

    Raises
    ------
    FileNotFoundError
        If there is none.
    CorruptError
        If the file has another size.
    StoreError
        If the system refuses for another reason.
    """
    if isinstance(path, ObjectPath):
        _read_object(path, buffers, offset=offset, file_bytes=file_bytes)
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except OSError as error:
        raise _refused(path, error) from error
    try:
        found = os.fstat(descriptor).st_size
        if found != file_bytes:
            raise CorruptError(f"{found} bytes where {file_bytes} were written")
        if isinstance(offset, int):
            for start in range(0, len(buffers), _MAX_BUFFERS):
                offset = _fill(descriptor, buffers[start : start + _MAX_BUFFERS], offset)
        else:
            for buffer, place in zip(buffers, offset, strict=True):
                _fill(descriptor, [buffer], place)
    except CorruptError:
        raise
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        os.close(descriptor)


def _read_object(
    path: ObjectPath, buffers: Sequence[memoryview], *, offset: int | Sequence[int], file_bytes: int
) -> None:
    found = path.stat().st_size
    if found != file_bytes:
        raise CorruptError(f"{found} bytes where {file_bytes} were written")
    starts = list(itertools.accumulate((len(buffer) for buffer in buffers[:-1]), initial=0))
    if isinstance(offset, int):
        data = path.read_range(offset, sum(map(len, buffers)))
        pieces = [data[start : start + len(buffer)] for start, buffer in zip(starts, buffers, strict=True)]
    else:
        pieces = path.read_ranges(offset, [len(buffer) for buffer in buffers])
    for buffer, piece in zip(buffers, pieces, strict=True):
        buffer[:] = piece


def _fill(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
    """Read until the buffers are full; the system may give less at a time. Return where that ends."""
    left = [buffer for buffer in buffers if len(buffer)]
    while left:
        n_bytes = os.preadv(descriptor, left, offset)
        if n_bytes == 0:
            raise CorruptError("the file became shorter while it was read")
        offset += n_bytes
        while left and n_bytes >= len(left[0]):
            n_bytes -= len(left.pop(0))
        if n_bytes:
            left[0] = left[0][n_bytes:]
    return offset


def _refused(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot read {path}: {error.strerror or error}; check its permissions and the disk", path
    )


def walk_files(top: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield ``(parts, size)`` of the files below `top`: their path within it, and bytes.

    Links are not followed; files that vanish meanwhile are passed over.
    """
    if isinstance(top, ObjectPath):
        for path, status in top.objects():
            yield path.relative_to(top).parts, status.st_size
        return
    for folder, _, names in os.walk(top):
        parts = Path(folder).relative_to(top).parts
        for name in names:
            try:
                size = os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118  (many files: strings)
            except FileNotFoundError:
                continue  # a temporary file of a writer at work
            yield (*parts, name), size
