"""Read a file or list a folder, with the store's errors."""

import contextlib
import errno
import hashlib
import io
import logging
import os
import stat
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from toptune.errors import CorruptError, StoreError
from toptune.store.files.names import is_stray, is_temporary
from toptune.store.files.s3_path import ObjectPath
from toptune.store.files.system_errors import READING, explained_reading, not_readable

logger = logging.getLogger(__name__)
# Up to the first limit any size is believed; beyond it a file must not unpack to more than `MAX_RATIO` times
# its size. Weights, sums and tables of rows rarely shrink to a tenth.
MAX_UNPACKED_BYTES = 256 << 20
MAX_RATIO = 64

# Far more than such a file has, and little enough to read: a name may be taken by something else of any size.
# The sizes of units are in the ledger, and the digests of Parquet files in records: see `read_matching`.
MAX_RECORD_BYTES = 64 << 20
MAX_LEDGER_BYTES = 256 << 20
_LIMITS = {".json": MAX_RECORD_BYTES, ".jsonl": MAX_LEDGER_BYTES}
# Above this size a file is read once for its digest before it is taken into memory.
_MATCHED_BYTES = 64 << 20


def read_file(path: Path, *, max_bytes: int | None = None) -> bytes:
    """Return a file's content, after its size was asked.

    Parameters
    ----------
    path : Path
    max_bytes : int, optional
        Size that the file cannot have unless it is something else; by default that of a record where `path`
        has the name of one.

    Raises
    ------
    FileNotFoundError
        If there is no such file; only the caller knows what that means.
    CorruptError
        If it is no regular file, too large, or a link that leads out of the store.
    StoreError
        If the system refuses for another reason, such as permissions.
    """
    if not isinstance(path, ObjectPath):
        return read_regular(path, str(path), max_bytes=max_bytes)
    limit = max_bytes or _LIMITS.get(path.suffix)
    data = path.read_at_most(limit)
    if data is None:
        raise _too_large(path, path.stat().st_size, limit)
    return data


def read_matching(path: Path, sha256: str) -> bytes | None:
    """Return the content of a file that has this digest, or None; errors are those of `read_file`.

    A large file that does not have it is never taken into memory.
    """
    size = regular_size(path)
    if size is not None and size > _MATCHED_BYTES and file_digest(path) != sha256:
        return None
    data = read_file(path)
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def read_regular(path: Path, at: str, *, dir_fd: int | None = None, max_bytes: int | None = None) -> bytes:
    """Return the content of a file of this machine; `at` counts from `dir_fd`, and errors name `path`."""
    with _opened(path, at, dir_fd=dir_fd) as file:
        limit = max_bytes or _LIMITS.get(path.suffix)
        if limit and (size := os.fstat(file.fileno()).st_size) > limit:
            raise _too_large(path, size, limit)
        return file.read()


@contextlib.contextmanager
def _opened(path: Path, at: str, *, dir_fd: int | None = None) -> Iterator[io.BufferedReader]:
    """Open a regular file, see `open_regular`; what the system refuses while it is read is told by `path`."""
    descriptor = open_regular(path, at, dir_fd=dir_fd)
    try:
        with explained_reading(path), open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def open_regular(path: Path, at: str, *, dir_fd: int | None = None) -> int:
    """Open a regular file for reading and return its descriptor.

    A pipe, a device or a socket in a store is nobody's data: opening a pipe would wait for its writer without
    end. A link may lead to another file of the store.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CorruptError
        If it is something else, or a link leads out of the store.
    StoreError
        If the system refuses.
    """
    # O_NONBLOCK lets a pipe open at once, and means nothing for a regular file.
    flags = READING
    try:
        try:
            descriptor = os.open(at, flags | getattr(os, "O_NOFOLLOW", 0), dir_fd=dir_fd)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            refuse_link_out(path)
            descriptor = os.open(at, flags, dir_fd=dir_fd)
    # A path that leads through a file is a missing file too, so that callers handle one kind of error.
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except StoreError:
        raise
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise not_regular(path) from error  # This is what opening a socket says.
        raise not_readable(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise not_regular(path)
    return descriptor


def read_linked(path: Path, *, max_bytes: int | None = None) -> bytes:
    """Return the content of a file outside of any store, which may be a link to anywhere; see `read_file`."""
    with opened_linked(path) as file:
        if max_bytes and (size := os.fstat(file.fileno()).st_size) > max_bytes:
            raise CorruptError(f"{path} has {size} bytes, {max_bytes} at most; give another file", path)
        return file.read()


def refuse_other_kinds(path: Path) -> None:
    """Raise a `CorruptError` if a path outside of any store leads to a pipe, a socket or a device.

    A reader of a library would wait for the writer of a pipe without end.
    """
    with opened_linked(path):
        pass


def linked_file_digest(path: Path) -> str:
    """Return the SHA-256 of a file outside of any store, read piece by piece; errors as of `read_file`."""
    with opened_linked(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def opened_linked(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file outside of any store, which may be a link to anywhere; errors as of `read_file`."""
    with explained_reading(path):
        # O_NONBLOCK lets a pipe open at once, instead of waiting for its writer without end.
        descriptor = os.open(path, READING)
        with os.fdopen(descriptor, "rb") as file:
            kind = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
                raise CorruptError(f"{path} is no regular file; put the file itself back", path)
            yield file


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; errors are those of `read_file`, and little of the file is held."""
    if isinstance(path, ObjectPath):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    with _opened(path, str(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_unpacked(
    n_bytes: int, file_bytes: int, *, what: str = "it", believed: int = MAX_UNPACKED_BYTES
) -> None:
    """Refuse content that unpacks to far more than its file suggests, before it is unpacked.

    Parameters
    ----------
    n_bytes : int
        Bytes of the content in memory.
    file_bytes : int
        Bytes of the file.
    what : str
        What unpacks, for the message.
    believed : int
        Bytes up to which any content is believed; 256 MiB, for what is held in memory whole.

    Raises
    ------
    ValueError
        If `n_bytes` is above `believed` and above 64 times `file_bytes`.
    """
    if n_bytes > believed and n_bytes > MAX_RATIO * file_bytes:
        raise ValueError(
            f"{what} unpacks to {n_bytes} bytes, more than {believed} and more than {MAX_RATIO} times the "
            f"{file_bytes} of the file"
        )


def check_zip(file: io.BufferedIOBase, file_bytes: int) -> None:
    """Refuse a zip archive that unpacks to far more than its size, archives of arrays inside it included.

    Parameters
    ----------
    file : binary file
        The archive; anything else passes, because its own reader says what it is.
    file_bytes : int
        Size of the archive.

    Raises
    ------
    ValueError
        See `check_unpacked`.
    """
    if zipfile.is_zipfile(file):
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            # All members count, because several may share the same bytes of the file.
            check_unpacked(sum(member.file_size for member in archive.infolist()), file_bytes)
            for member in archive.infolist():
                if member.filename.endswith((".npz", ".zip")):
                    inner = io.BytesIO(archive.read(member))
                    check_zip(inner, file_bytes)


def _too_large(path: Path, size: int, limit: int | None) -> CorruptError:
    return CorruptError(
        f"{path} has {size} bytes where such a file has {limit} at most; run store repair, or restore it "
        "from a copy",
        path,
    )


def not_regular(path: Path) -> CorruptError:
    """Make the error of a folder, pipe, socket or device where a file of the store should be."""
    return CorruptError(f"{path} is no regular file; move it away, then run store repair", path)


def refuse_link_out(path: Path) -> None:
    """Raise a `CorruptError` if a file is a link that leads out of the store in which it lies."""
    root = next((folder for folder in path.parents if (folder / "toptune.json").exists()), path.parent)
    real_root, real = os.path.realpath(root), os.path.realpath(path)
    if not real.startswith(real_root.rstrip(os.sep) + os.sep):
        raise CorruptError(
            f"{path} leads out of the store to {real} through a symbolic link; replace the link by the file "
            "itself, or run store repair",
            path,
        )


def regular_size(path: Path) -> int | None:
    """Return the size of a file of the store in bytes; None if there is no regular file within the store.

    Raises
    ------
    StoreError
        If the system does not say, because of permissions or the disk.
    """
    try:
        found = path.lstat()
        if not isinstance(path, ObjectPath) and stat.S_ISLNK(found.st_mode):
            refuse_link_out(path)
            found = path.stat()
    except (FileNotFoundError, NotADirectoryError, CorruptError):
        return None
    except StoreError:
        raise
    except OSError as error:
        raise not_readable(path, error) from error
    # Objects in a bucket have no mode, because they are all alike.
    return found.st_size if stat.S_ISREG(getattr(found, "st_mode", stat.S_IFREG)) else None


def may_exist(path: Path) -> bool:
    """Whether a file is there, or lies in a folder that is closed to this user; reading it says so."""
    try:
        return path.exists()
    except StoreError:
        raise
    except PermissionError:
        return True


@lru_cache(maxsize=4096)
def leave_alone(path: Path) -> None:
    """Say, once in a process, that a file or folder is no part of the store and stays as it is."""
    logger.warning("left alone: %s is no part of the store [TT208]", path)


def list_entries(folder: Path) -> list[Path]:
    """List what may be the store's in a folder, sorted by name, without what writers are at work on.

    Files and folders of systems and other programs are named and passed over.
    """
    found = []
    for path in list_folder(folder):
        if is_stray(path.name):
            leave_alone(path)
        elif not is_temporary(path.name):
            found.append(path)
    return found


def list_folder(folder: Path) -> list[Path]:
    """List what is in a folder, sorted by name; empty if the folder is gone.

    Raises
    ------
    StoreError
        If the system refuses.
    """
    try:
        with explained_reading(folder):
            # File systems list names in any order; the sorted order makes messages and passes repeatable.
            return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
