"""`LocalPlace`, the commit protocol on a file system: a file appears whole and durable, or not at all.

Write a temporary file in the same folder, fsync it, link it to its name, fsync the folder. A hard link fails
when the name is taken, also over NFS, so that of two writers one wins and the other is told.
"""

import contextlib
import errno
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from toptune.errors import CorruptError, StoreError
from toptune.store.files.names import TEMPORARY_PREFIX, is_temporary
from toptune.store.files.reading import refused
from toptune.store.files.s3_path import FileStatus

logger = logging.getLogger(__name__)

# One system call takes no more buffers than this (IOV_MAX of Linux).
_MAX_BUFFERS = 1024

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


@dataclass(frozen=True)
class LocalPlace:
    """A path on a file system of this machine; see `Place` for what each operation means."""

    path: Path

    has_whole_folders = True

    def put_if_absent(self, data: bytes) -> bool:
        path = self.path
        with _explained(path):
            _make_folder(path.parent)
            temporary = _temporary(path)
            try:
                # The content is durable before the name exists: after a power cut a name that is there must
                # never stand for a file without its bytes.
                _write_durably(temporary, data)
                try:
                    # A link, unlike a rename, fails if the name is taken, so that a committed file is never
                    # replaced by another writer's.
                    os.link(temporary, path)
                except FileExistsError:
                    # Over NFS the answer to a link that succeeded may be lost and the retry told EEXIST.
                    if temporary.stat().st_nlink != 2:
                        return False
                # Without this fsync a power cut could take the name away again after the ledger has
                # mentioned the file.
                _sync_folder(path.parent)
                return True
            finally:
                _remove(temporary)

    def replace(self, data: bytes) -> None:
        path = self.path
        with _explained(path):
            _make_folder(path.parent)
            temporary = _temporary(path)
            try:
                _write_durably(temporary, data)
                # A rename swaps the two files in one step, so that a reader never meets half of either.
                temporary.replace(path)
                _sync_folder(path.parent)
            finally:
                _remove(temporary)

    def put_folder_if_absent(self, files: Mapping[str, bytes]) -> bool:
        path = self.path
        with _explained(path):
            _make_folder(path.parent)
            temporary = _temporary(path)
            try:
                temporary.mkdir()
                for name, data in files.items():
                    _write_durably(temporary / name, data)
                # The names of the files in the folder must be durable before the name of the folder is.
                _sync_folder(temporary)
                try:
                    # A hard link to a folder does not exist. A rename serves instead, because the system
                    # refuses to replace a folder that holds files.
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

    def remove_damaged(self, seen: FileStatus) -> None:
        path = self.path
        with _explained(path):
            # The file is moved aside and only then compared, because between a comparison and a removal
            # another writer may put a sound file there. A sound one goes back to its name.
            aside = _temporary(path)
            try:
                path.rename(aside)
            except FileNotFoundError:
                return
            try:
                if not (isinstance(seen, os.stat_result) and os.path.samestat(aside.stat(), seen)):
                    # If a writer has published another file meanwhile, that file stays and the one set
                    # aside goes.
                    with contextlib.suppress(FileExistsError):
                        os.link(aside, path)
                _sync_folder(path.parent)
            finally:
                _remove(aside)

    def remove_folder(self, *, aside: Path) -> None:
        path = self.path
        with _explained(path):
            hidden = aside / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
            try:
                # A rename takes the whole folder away in one step. Deleting its files one by one would let
                # a reader find some of them.
                path.rename(hidden)
            except FileNotFoundError:
                return
            _sync_folder(path.parent)
            # Both folders changed: the old name is gone durably, and a leftover stays visible for `gc`.
            _sync_folder(aside)
            LocalPlace(hidden).free()

    def hide_folder(self) -> None:
        path = self.path
        with _explained(path):
            hidden = _temporary(path)
            path.rename(hidden)
            # Garbage collection spares what is younger than an hour. The new time grants that hour from now
            # on.
            os.utime(hidden)
            _sync_folder(path.parent)

    def free(self) -> None:
        path = self.path
        with _explained(path):
            if path.is_dir() and not path.is_symlink():
                # Another process may be freeing the same leftover; files that vanish meanwhile are no
                # error.
                shutil.rmtree(path, onerror=_unless_gone)
            else:
                path.unlink(missing_ok=True)

    def remove_if_empty(self) -> None:
        with _explained(self.path), contextlib.suppress(FileNotFoundError):
            try:
                self.path.rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise

    def read_scattered(
        self, buffers: Sequence[memoryview], *, offset: int | Sequence[int], file_bytes: int
    ) -> None:
        path = self.path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(f"{path} does not exist") from error
        except OSError as error:
            raise refused(path, error) from error
        try:
            found = os.fstat(descriptor).st_size
            # A file of another size is not the committed file, even if the bytes wanted from it are in place.
            if found != file_bytes:
                raise CorruptError(f"{found} bytes where {file_bytes} were written", path)
            if isinstance(offset, int):
                for start in range(0, len(buffers), _MAX_BUFFERS):
                    offset = _fill(descriptor, buffers[start : start + _MAX_BUFFERS], offset)
            else:
                for buffer, place in zip(buffers, offset, strict=True):
                    _fill(descriptor, [buffer], place)
        except CorruptError:
            raise
        except OSError as error:
            raise refused(path, error) from error
        finally:
            os.close(descriptor)

    def sizes(self, files: Iterable[Path]) -> dict[Path, int]:
        found = {}
        for file in files:
            with contextlib.suppress(OSError):
                found[file] = file.stat().st_size
        return found

    def walk_files(self) -> Iterator[tuple[tuple[str, ...], int]]:
        for folder, _, names in os.walk(self.path):
            parts = Path(folder).relative_to(self.path).parts
            for name in names:
                try:
                    size = os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118  (many files: strings)
                except FileNotFoundError:
                    continue  # A writer at work has renamed or removed its temporary file.
                yield (*parts, name), size

    def leftovers(self) -> Iterator[tuple[Path, bool]]:
        root = self.path
        for top, folders, files in os.walk(root):
            for name in [*folders, *files]:
                if is_temporary(name):
                    yield Path(top, name), False
            folders[:] = [name for name in folders if not is_temporary(name)]
            # Keep the top-level folders even if they are empty: users expect them.
            if not folders and not files and Path(top).parent != root and Path(top) != root:
                yield Path(top), True

    def check_inside(self, root: Path) -> None:
        # Both paths are resolved, because the root of a store may itself be reached through a link.
        real_root, real = os.path.realpath(root), os.path.realpath(self.path)
        if real != real_root and not real.startswith(real_root.rstrip(os.sep) + os.sep):
            raise StoreError(
                f"{self.path} leads out of the store to {real} through a symbolic link; "
                "replace the link by the folder itself",
                self.path,
            )

    def is_same(self, other: object) -> bool:
        # Names are not compared, because a link, a mount or another case of letters may lead to the same
        # folder.
        return isinstance(other, LocalPlace) and other.path.exists() and self.path.samefile(other.path)

    def real(self) -> str:
        return os.path.realpath(self.path)


def _unless_gone(
    _call: object, _path: str, error: tuple[type[BaseException], BaseException, TracebackType]
) -> None:
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def _temporary(path: Path) -> Path:
    return path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"


def _write_durably(path: Path, data: bytes) -> None:
    # O_EXCL guarantees that the temporary file is new, so that no other writer has it open.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        left = memoryview(data)
        while len(left):
            # One call may write less than it was given, for instance on a disk that is nearly full.
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    """Make a folder and the folders above it, and make each new name durable in its parent."""
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


def _fill(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
    """Read until the buffers are full, and return the offset where the reading ended."""
    left = [buffer for buffer in buffers if len(buffer)]
    while left:
        # One call may read less than it was asked for.
        n_bytes = os.preadv(descriptor, left, offset)
        if n_bytes == 0:
            raise CorruptError("the file became shorter while it was read")
        offset += n_bytes
        while left and n_bytes >= len(left[0]):
            n_bytes -= len(left.pop(0))
        if n_bytes:
            left[0] = left[0][n_bytes:]
    return offset


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the system's errors into the store's, with the next step."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        code = error.errno or 0
        # Nothing was published, because every operation writes to a temporary name until its last step.
        step = _NEXT_STEP.get(code, "nothing was published under that name; run the same command again")
        raise StoreError(f"cannot write {path}: {error.strerror or error}; {step}", path) from error
