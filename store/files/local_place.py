"""`LocalPlace`, the commit protocol on a file system: a file appears whole and durable, or not at all.

Write a temporary file in the same folder, fsync it, link it to its name, fsync the folder. A hard link fails
when the name is taken, also over NFS, so that of two writers one wins and the other is told.
"""

import contextlib
import errno
import logging
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from toptune.errors import CorruptError, StoreError
from toptune.store.files.names import TEMPORARY_PREFIX, TOP_FOLDERS, is_stray, is_temporary, stray_depth
from toptune.store.files.reading import leave_alone, open_regular, read_regular, regular_size
from toptune.store.files.s3_path import FileStatus
from toptune.store.files.system_errors import explained_writing, not_readable
from toptune.store.files.writing import fill_opened, sync_opened_folder

logger = logging.getLogger(__name__)

# One system call takes no more buffers than this (IOV_MAX of Linux).
_MAX_BUFFERS = 1024


@dataclass(frozen=True, eq=False)
class HeldFolder:
    """A folder that is held open: what is written in it lands in it, or nowhere.

    A path names whatever stands there by now. By its path, a process that stood still between a check and a
    write would put its file into a folder that was made in the place of the one it checked. A folder that was
    removed refuses new files.

    Attributes
    ----------
    path : Path
        The path by which the folder was opened.
    descriptor : int
        The open folder.
    """

    path: Path
    descriptor: int

    @classmethod
    def open(cls, path: Path, *, within: "HeldFolder | None" = None) -> "HeldFolder":
        """Open a folder, by its path or within another held one.

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        StoreError
            If the system refuses for another reason.
        """
        where: Path | str = path if within is None else str(path.relative_to(within.path))
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            return cls(path, os.open(where, flags, dir_fd=None if within is None else within.descriptor))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(f"{path} does not exist") from error
        except OSError as error:
            raise not_readable(path, error) from error

    def is_there(self) -> bool:
        """Whether the path still leads to this folder."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self.descriptor))
        except (FileNotFoundError, NotADirectoryError):
            return False

    def close(self) -> None:
        """Give the folder back."""
        os.close(self.descriptor)


@dataclass(frozen=True)
class LocalPlace:
    """A path on a file system of this machine; see `Place` for what each operation means.

    Attributes
    ----------
    path : Path
    held : HeldFolder, optional
        A folder above the path through which files are reached. Otherwise the path decides at each step.
    """

    path: Path
    held: HeldFolder | None = None

    has_whole_folders = True

    @property
    def at(self) -> str:
        """The path from the held folder, or the whole path."""
        return str(self.path if self.held is None else self.path.relative_to(self.held.path))

    @property
    def within(self) -> int | None:
        """The descriptor that `at` counts from."""
        return None if self.held is None else self.held.descriptor

    @property
    def parent(self) -> "LocalPlace":
        return LocalPlace(self.path.parent, self.held)

    def below(self, name: str) -> "LocalPlace":
        """Return the place of a file or folder in this folder."""
        return LocalPlace(self.path / name, self.held)

    def put_if_absent(self, data: bytes) -> bool:
        with explained_writing(self.path):
            _make_folder(self.parent)
            temporary = _temporary(self)
            try:
                # The content is durable before the name exists: after a power cut a name that is there must
                # never stand for a file without its bytes.
                _write_durably(temporary, data)
                try:
                    # A link, unlike a rename, fails if the name is taken, so that a committed file is never
                    # replaced by another writer's.
                    os.link(temporary.at, self.at, src_dir_fd=self.within, dst_dir_fd=self.within)
                except FileExistsError:
                    # Over NFS the answer to a link that succeeded may be lost and the retry told EEXIST.
                    if os.stat(temporary.at, dir_fd=self.within).st_nlink != 2:
                        return False
                # Without this fsync a power cut could take the name away again after the ledger has
                # mentioned the file.
                _sync_folder(self.parent)
                return True
            finally:
                _remove(temporary)

    def replace(self, data: bytes) -> None:
        with explained_writing(self.path):
            _make_folder(self.parent)
            temporary = _temporary(self)
            try:
                _write_durably(temporary, data)
                # A rename swaps the two files in one step, so that a reader never meets half of either.
                os.replace(temporary.at, self.at, src_dir_fd=self.within, dst_dir_fd=self.within)
                _sync_folder(self.parent)
            finally:
                _remove(temporary)

    def exchange(self, data: bytes, seen: FileStatus) -> bool:
        self.remove_damaged(seen)
        return self.put_if_absent(data)

    def keep(self, seen: FileStatus) -> bool:
        try:
            # The new time tells garbage collection that somebody is about to name the file.
            os.utime(self.at, dir_fd=self.within)
            found = os.stat(self.at, dir_fd=self.within)
        except FileNotFoundError:
            return False
        except PermissionError:
            return True  # Another user's file may be read and named, and only its owner may set its time.
        return isinstance(seen, os.stat_result) and os.path.samestat(found, seen)

    def status(self) -> FileStatus:
        try:
            return os.stat(self.at, dir_fd=self.within, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(f"{self.path} does not exist") from error
        except OSError as error:
            raise not_readable(self.path, error) from error

    def read(self) -> bytes:
        return read_regular(self.path, self.at, dir_fd=self.within)

    def put_folder_if_absent(self, files: Mapping[str, bytes]) -> bool:
        path = self.path
        with explained_writing(path):
            _make_folder(self.parent)
            temporary = _temporary(self)
            try:
                os.mkdir(temporary.at, dir_fd=self.within)
                for name, data in files.items():
                    _write_durably(temporary.below(name), data)
                # The names of the files in the folder must be durable before the name of the folder is.
                _sync_folder(temporary)
                try:
                    # A hard link to a folder does not exist. A rename serves instead, because the system
                    # refuses to replace a folder that holds files.
                    os.rename(temporary.at, self.at, src_dir_fd=self.within, dst_dir_fd=self.within)
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise
                    if not self._publish_around_strays(temporary):
                        return False
                _sync_folder(self.parent)
                return True
            finally:
                for name in files:
                    _remove(temporary.below(name))
                with contextlib.suppress(OSError):
                    os.rmdir(temporary.at, dir_fd=self.within)

    def _publish_around_strays(self, temporary: "LocalPlace") -> bool:
        """Give a folder its name although a folder that holds nothing of a store's has the name."""
        if self.held is not None or not all(any(map(is_stray, parts)) for parts, _ in self.walk_files()):
            return False
        _move_strays(self.path, temporary.path)
        for top, _, _ in os.walk(self.path, topdown=False):
            with contextlib.suppress(OSError):
                Path(top).rmdir()
        try:
            temporary.path.rename(self.path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            _move_strays(temporary.path, self.path)  # Another writer was faster.
            return False
        return True

    def remove_damaged(self, seen: FileStatus) -> None:
        with explained_writing(self.path):
            # The file is moved aside and only then compared, because between a comparison and a removal
            # another writer may put a sound file there. A sound one goes back to its name.
            aside = _temporary(self)
            try:
                os.rename(self.at, aside.at, src_dir_fd=self.within, dst_dir_fd=self.within)
            except FileNotFoundError:
                return
            try:
                found = aside.status()
                if not (isinstance(seen, os.stat_result) and os.path.samestat(found, seen)):  # type: ignore[arg-type]
                    # If a writer has published another file meanwhile, that file stays and the one set
                    # aside goes.
                    with contextlib.suppress(FileExistsError):
                        os.link(aside.at, self.at, src_dir_fd=self.within, dst_dir_fd=self.within)
                _sync_folder(self.parent)
            finally:
                _remove(aside)

    def remove_folder(self, *, aside: Path, check: Callable[[Path], None] | None = None) -> None:
        path = self.path
        with explained_writing(path):
            hidden = aside / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
            try:
                # A rename takes the whole folder away in one step. Deleting its files one by one would let
                # a reader find some of them.
                path.rename(hidden)
            except FileNotFoundError:
                return
            _sync_folder(self.parent)
            # Both folders changed: the old name is gone durably, and a leftover stays visible for `gc`.
            _sync_folder(LocalPlace(aside))
            if check is not None:
                try:
                    check(hidden)
                except BaseException:
                    hidden.rename(path)
                    raise
            _move_strays(hidden, path)
            LocalPlace(hidden).free()

    def hide(self) -> None:
        path = self.path
        with explained_writing(path):
            hidden = _temporary(self).path
            path.rename(hidden)
            # Garbage collection spares what is younger than an hour. The new time grants that hour from now
            # on.
            os.utime(hidden)
            _sync_folder(self.parent)

    def free(self) -> None:
        path = self.path
        with explained_writing(path):
            if path.is_dir() and not path.is_symlink():
                # Another process may be freeing the same leftover; files that vanish meanwhile are no
                # error.
                shutil.rmtree(path, onerror=_unless_gone)
            else:
                path.unlink(missing_ok=True)

    def free_unless_changed(self, since: float, is_named: Callable[[], bool]) -> None:
        path = self.path
        with explained_writing(path):
            # Whoever is about to name a file that was there sets its time first, and does without the file if
            # that fails. Whoever has named a file looks whether it is there still, and otherwise writes it
            # again. A file that is moved aside, old and not named is therefore nobody's.
            if is_named():
                return  # Readers do not miss the file for a moment.
            aside = _temporary(self)
            try:
                path.rename(aside.path)
            except FileNotFoundError:
                return
            if newest(aside.path) <= since and not is_named():
                aside.free()
                return
            try:
                if aside.path.is_dir():
                    aside.path.rename(path)
                else:
                    os.link(aside.path, path)
                    _remove(aside)
            except FileExistsError:
                pass  # Another file took the name; the one set aside is a leftover.

    def clock(self) -> float:
        probe = _temporary(self.below("probe"))
        try:
            # The clocks of this machine and of a file server may differ by hours.
            _write_durably(probe, b"")
            return probe.path.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            _remove(probe)

    def remove_if_empty(self) -> None:
        with explained_writing(self.path), contextlib.suppress(FileNotFoundError):
            try:
                self.path.rmdir()
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise

    def read_scattered(
        self, buffers: Sequence[memoryview], *, offset: int | Sequence[int], file_bytes: int
    ) -> None:
        path = self.path
        descriptor = open_regular(path, self.at, dir_fd=self.within)
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
            raise not_readable(path, error) from error
        finally:
            os.close(descriptor)

    def sizes(self, files: Iterable[Path]) -> dict[Path, int]:
        found = {}
        for file in files:
            size = regular_size(file)
            if size is not None:
                found[file] = size
        return found

    def walk_files(
        self, refused: Callable[[StoreError], None] | None = None
    ) -> Iterator[tuple[tuple[str, ...], int]]:
        def refuse(error: OSError) -> None:
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                return
            told = not_readable(Path(error.filename), error)
            if refused is None:
                raise told from error
            refused(told)

        for folder, _, names in os.walk(self.path, onerror=refuse):
            parts = Path(folder).relative_to(self.path).parts
            for name in names:
                try:
                    size = os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118  (many files: strings)
                except FileNotFoundError:
                    continue  # A writer at work has renamed or removed its temporary file.
                except OSError as error:
                    refuse(error)
                    continue
                yield (*parts, name), size

    def leftovers(self) -> Iterator[tuple[Path, bool]]:
        root = self.path
        for top, folders, files in os.walk(root):
            above = Path(top).relative_to(root).parts
            for name in [*folders, *files]:
                if is_temporary(name):
                    yield Path(top, name), False
                elif stray_depth((*above, name)) is not None:
                    leave_alone(Path(top, name))
            is_empty = not any(name for name in folders if not is_temporary(name)) and not files
            folders[:] = [
                name
                for name in folders
                if not is_temporary(name)
                and stray_depth((*above, name)) is None
                and (above or name in TOP_FOLDERS)
            ]
            # Keep the top-level folders even if they are empty: users expect them.
            if is_empty and len(above) > 1:
                yield Path(top), True

    def check_inside(self, root: Path) -> None:
        # Both paths are resolved, because the root of a store may itself be reached through a link.
        real_root, real = os.path.realpath(root), os.path.realpath(self.path)
        if real != real_root and not real.startswith(real_root.rstrip(os.sep) + os.sep):
            raise CorruptError(
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


def newest(path: Path) -> float:
    """Return when a file, or anything in a folder, was last written or kept, in seconds."""
    times = [0.0]
    for each in [path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else [])]:
        with contextlib.suppress(FileNotFoundError):
            times.append(each.lstat().st_mtime)
    return max(times)


def _move_strays(source: Path, target: Path) -> None:
    """Move what is no part of the store from one folder to the same places in another."""
    for top, folders, files in os.walk(source):
        for name in [*folders, *files]:
            if is_stray(name):
                there = target / Path(top, name).relative_to(source)
                there.parent.mkdir(parents=True, exist_ok=True)
                Path(top, name).rename(there)
        folders[:] = [name for name in folders if not is_stray(name)]


def _temporary(place: LocalPlace) -> LocalPlace:
    return place.parent.below(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")


def _write_durably(place: LocalPlace, data: bytes) -> None:
    # O_EXCL guarantees that the temporary file is new, so that no other writer has it open.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fill_opened(os.open(place.at, flags, 0o666, dir_fd=place.within), data)


def _make_folder(place: LocalPlace) -> None:
    """Make a folder and the folders above it, and make each new name durable in its parent."""
    try:
        if stat.S_ISDIR(os.stat(place.at, dir_fd=place.within).st_mode):
            return
    except (FileNotFoundError, NotADirectoryError):
        if place.at == ".":
            raise  # The held folder itself was removed: nothing is made in its place.
    _make_folder(place.parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(place.at, dir_fd=place.within)
    _sync_folder(place.parent)


def _sync_folder(place: LocalPlace) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    sync_opened_folder(os.open(place.at, flags, dir_fd=place.within))


def _remove(place: LocalPlace) -> None:
    try:
        os.unlink(place.at, dir_fd=place.within)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        logger.warning("temporary file %s stays behind: %s [TT209]", place.path, error.strerror)


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
