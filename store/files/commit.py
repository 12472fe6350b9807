"""Put-if-absent: a file appears under its name whole and durable, or not at all.

Write a temporary file in the same folder, fsync it, link it to its name, fsync the folder. A hard
link fails when the name is taken, also over NFS, so that of two writers one wins and the other is told.
"""

import contextlib
import errno
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toptune.errors import StoreError
from toptune.store.files import s3_commit
from toptune.store.files.s3_path import ObjectPath, ObjectStatus

logger = logging.getLogger(__name__)

TEMPORARY_PREFIX = ".tmp-"

_NEXT_STEP = {
    errno.ENOSPC: "free some space and run the same command again; what is committed stays",
    errno.EDQUOT: "raise the quota or free some space and run the same command again",
    errno.EFBIG: "raise the limit on file sizes and run the same command again",
    errno.EACCES: "ask the owner for write permission, or use another --store",
    errno.EPERM: "the file system may not support hard links; use another --store",
    errno.ENOTSUP: "the file system does not support hard links; use another --store",
    errno.EROFS: "the file system is read-only; use another --store",
    errno.EIO: "check the disk, then run the same command again",
}


def is_temporary(name: str) -> bool:
    """Whether a file or folder name is one that an interrupted writer leaves behind."""
    return name.startswith(TEMPORARY_PREFIX)


def put_if_absent(path: Path, data: bytes) -> bool:
    """Publish `data` as `path` unless the name is taken; durable when this returns.

    Parameters
    ----------
    path : Path
        Where; folders are made as needed, with the permissions of the umask.
    data : bytes
        The whole content.

    Returns
    -------
    bool
        True if this call published it, False if there is a file already (which may be anything).

    Raises
    ------
    StoreError
        If the system refuses; nothing is left behind under `path`.
    """
    if isinstance(path, ObjectPath):
        return s3_commit.put_if_absent(path, data)
    with _explained(path):
        _make_folder(path.parent)
        temporary = _temporary(path)
        try:
            _write_durably(temporary, data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                # Over NFS the answer to a link that succeeded may be lost and the retry told EEXIST.
                if temporary.stat().st_nlink != 2:
                    return False
            _sync_folder(path.parent)
            return True
        finally:
            _remove(temporary)


def replace(path: Path, data: bytes) -> None:
    """Publish `data` as `path` whatever is there; readers see the old content or the new.

    For hints and for marks found damaged, never for what is committed.
    """
    if isinstance(path, ObjectPath):
        s3_commit.replace(path, data)
        return
    with _explained(path):
        _make_folder(path.parent)
        temporary = _temporary(path)
        try:
            _write_durably(temporary, data)
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            _remove(temporary)


def put_folder_if_absent(path: Path, files: Mapping[str, bytes]) -> bool:
    """Publish a folder of files in one step unless there is one; like `put_if_absent`.

    The last file is the one that decides whether the folder is there, where one step is more than the
    place can do.
    """
    if isinstance(path, ObjectPath):
        return s3_commit.put_folder_if_absent(path, files)
    with _explained(path):
        _make_folder(path.parent)
        temporary = _temporary(path)
        try:
            temporary.mkdir()
            for name, data in files.items():
                _write_durably(temporary / name, data)
            _sync_folder(temporary)
            try:
                temporary.rename(path)
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    return False
                raise
            _sync_folder(path.parent)
            return True
        finally:
            for name in files:
                _remove(temporary / name)
            with contextlib.suppress(OSError):
                temporary.rmdir()


def remove_damaged(path: Path, seen: os.stat_result | ObjectStatus) -> None:
    """Take a file that was read and found damaged out of the way.

    It is moved aside first and looked at: if another writer put a sound file there in the meantime,
    that one goes back to its name.
    """
    if isinstance(path, ObjectPath):
        assert isinstance(seen, ObjectStatus)
        s3_commit.remove_damaged(path, seen)
        return
    with _explained(path):
        aside = _temporary(path)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        try:
            if not _is_same_file(aside.stat(), seen):
                with contextlib.suppress(FileExistsError):
                    os.link(aside, path)
            _sync_folder(path.parent)
        finally:
            _remove(aside)


def remove_folder(path: Path, *, aside: Path) -> None:
    """Remove a folder with all in it: gone for everybody in one step, then freed at leisure.

    Parameters
    ----------
    path : Path
        The folder; nothing happens if there is none.
    aside : Path
        Folder of the same file system in which it is hidden under a temporary name until it is freed; what
        a kill leaves there is a leftover.
    """
    if isinstance(path, ObjectPath):
        s3_commit.remove_folder(path)
        return
    with _explained(path):
        hidden = aside / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            path.rename(hidden)
        except FileNotFoundError:
            return
        _sync_folder(path.parent)
        _sync_folder(aside)
        free(hidden)


def hide_folder(path: Path) -> None:
    """Move a folder to a temporary name beside it, where it stays as a leftover for a while."""
    if isinstance(path, ObjectPath):
        s3_commit.hide_folder(path, TEMPORARY_PREFIX)
        return
    with _explained(path):
        hidden = _temporary(path)
        path.rename(hidden)
        os.utime(hidden)
        _sync_folder(path.parent)


def free(path: Path) -> None:
    """Delete a file or folder that nothing names any more; others may be doing the same."""
    if isinstance(path, ObjectPath):
        s3_commit.free(path)
        return
    with _explained(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, onerror=_unless_gone)
        else:
            path.unlink(missing_ok=True)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder unless something is in it by now."""
    if isinstance(folder, ObjectPath):
        return  # there are no empty folders
    with _explained(folder), contextlib.suppress(FileNotFoundError):
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _unless_gone(_call: object, _path: str, error: Any) -> None:
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def _is_same_file(found: os.stat_result, seen: os.stat_result | ObjectStatus) -> bool:
    return not isinstance(seen, ObjectStatus) and os.path.samestat(found, seen)


def _temporary(path: Path) -> Path:
    return path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"


def _write_durably(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        left = memoryview(data)
        while len(left):
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it; each new name is durable in its parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no fsync for folders; their link is synchronous.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        logger.warning("temporary file %s stays behind: %s", path, error.strerror)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        code = error.errno or 0
        step = _NEXT_STEP.get(code, "nothing was published under that name; run the same command again")
        raise StoreError(f"cannot write {path}: {error.strerror or error}; {step}", path) from error
