"""`Place`: a path on a disk or in a bucket, with the operations that a commit needs.

The type of a path decides here, and nowhere else, whether a store lies on a disk or in a bucket.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from toptune.errors import InputError, StoreError
from toptune.store.files.bucket_place import BucketPlace
from toptune.store.files.local_place import HeldFolder, LocalPlace
from toptune.store.files.s3_path import SCHEME, FileStatus, ObjectPath
from toptune.store.files.system_errors import refuse_other_systems


class Place(Protocol):
    """What a store does to a file or folder; `LocalPlace` and `BucketPlace` are the two implementations.

    Every operation raises a `StoreError` with the next step where the system refuses.
    """

    @property
    def has_whole_folders(self) -> bool:
        """Whether a folder appears and vanishes in one step; in a bucket its files do so one by one."""
        ...

    # Commit

    def put_if_absent(self, data: bytes) -> bool:
        """Publish a file unless its name is taken; the file is durable when this returns.

        Folders are made as needed, with the permissions of the umask.

        Parameters
        ----------
        data : bytes
            The whole content.

        Returns
        -------
        bool
            True if this call published the file, False if there is one already (which may be anything).

        Raises
        ------
        StoreError
            If the system refuses; nothing is left behind under the name.
        """
        ...

    def replace(self, data: bytes) -> None:
        """Publish a file whatever is there; readers see the old content or the new.

        Use this for hints and for damaged records only; committed files never change.
        """
        ...

    def exchange(self, data: bytes, seen: FileStatus) -> bool:
        """Put `data` in the place of the file whose status was `seen`; False if another file is there by now.

        Use this for files that no ledger entry names, and for records that are replaced by newer ones.
        """
        ...

    def keep(self, seen: FileStatus) -> bool:
        """Tell garbage collection that the file with status `seen` is about to be named.

        Returns
        -------
        bool
            False if the file is gone, or another took its name.
        """
        ...

    def put_folder_if_absent(self, files: Mapping[str, bytes]) -> bool:
        """Publish a folder of files unless there is one; like `put_if_absent`.

        The last file decides whether the folder is there, where one step for all files is more than the
        system can do.
        """
        ...

    # Removal

    def remove_damaged(self, seen: FileStatus) -> None:
        """Remove a file that was found damaged when its status was `seen`, unless another took its name."""
        ...

    def remove_folder(self, *, aside: Path, check: Callable[[Path], None] | None = None) -> None:
        """Remove a folder with all in it; nothing happens if there is none.

        On a disk the folder is gone for everybody in one step, and its bytes are freed after that.

        Parameters
        ----------
        aside : Path
            Folder of the same file system in which the removed one is hidden under a temporary name until
            it is freed; what a kill leaves there is a leftover.
        check : callable, optional
            Raises if the folder, which it is given, must stay after all. On a disk it is asked once nobody
            reaches the folder by its name any more, and the folder then goes back.
        """
        ...

    def hide(self) -> None:
        """Move a file or folder to a temporary name beside it, where it stays as a leftover for a while."""
        ...

    def free(self) -> None:
        """Delete a file or folder that nothing names now; other processes may delete the same one."""
        ...

    def free_unless_changed(self, since: float, is_named: Callable[[], bool]) -> None:
        """Delete a file or folder, unless anything in it was written or kept after `since`, or it is named.

        Parameters
        ----------
        since : float
            Time in seconds.
        is_named : callable
            Whether something relies on the file by now. On a disk the question comes when nobody reaches the
            file by its name any more, and the file then goes back.
        """
        ...

    def remove_if_empty(self) -> None:
        """Remove a folder unless something is in it by now."""
        ...

    # Reading

    def status(self) -> FileStatus:
        """Return the status of a file itself, not of what a link leads to; FileNotFoundError if none."""
        ...

    def read(self) -> bytes:
        """Return a file's content; errors are those of `read_file`."""
        ...

    def read_scattered(
        self, buffers: Sequence[memoryview], *, offset: int | Sequence[int], file_bytes: int
    ) -> None:
        """Fill buffers from a file.

        Parameters
        ----------
        buffers : sequence of memoryview
            Writable, of bytes.
        offset : int or sequence of int
            Offset in the file at which the buffers' bytes follow each other, or an offset for each buffer.
        file_bytes : int
            Size that the file must have.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        CorruptError
            If the file has another size.
        StoreError
            If the system refuses for another reason.
        """
        ...

    def sizes(self, files: Iterable[Path]) -> dict[Path, int]:
        """Return the sizes of the files that exist among some files below this folder, in bytes."""
        ...

    def walk_files(
        self, refused: Callable[[StoreError], None] | None = None
    ) -> Iterator[tuple[tuple[str, ...], int]]:
        """Yield ``(parts, size)`` of the files below this folder: the path within the folder, and bytes.

        Links are not followed; files that vanish meanwhile are passed over. A folder that the system refuses
        to list is an error, or is handed to `refused` and passed over.
        """
        ...

    def leftovers(self) -> Iterator[tuple[Path, bool]]:
        """Yield ``(path, is_empty)`` of the temporary files and folders and the empty folders of a store.

        Outer folders come before what is in them; the two top levels of a store stay even if they are empty.
        """
        ...

    def clock(self) -> float:
        """Return the present in seconds by the clock that stamps files in this folder."""
        ...

    # Where it lies

    def check_inside(self, root: Path) -> None:
        """Raise a `CorruptError` if symbolic links lead from this path out of `root`."""
        ...

    def is_same(self, other: object) -> bool:
        """Whether another `Place` is the same folder, perhaps by another name."""
        ...

    def real(self) -> str:
        """Return the path without symbolic links, as text."""
        ...


def place_at(path: Path, held: HeldFolder | None = None) -> Place:
    """Return the operations on a path, for a disk or for a bucket; through a held folder if one is given."""
    return BucketPlace(path) if isinstance(path, ObjectPath) else LocalPlace(path, held)


@contextlib.contextmanager
def holding(folder: Path, *within: Path) -> Iterator[tuple[HeldFolder | None, ...]]:
    """Hold a folder open, and some folders in it: see `HeldFolder`. Buckets have no folders to hold.

    Open first and check afterwards: what is written through the held folder belongs to what was checked.

    Yields
    ------
    tuple of HeldFolder
        The folder, and then those in it; None for each in a bucket.

    Raises
    ------
    FileNotFoundError
        If one of the folders is gone.
    StoreError
        If the system refuses.
    """
    if isinstance(folder, ObjectPath):
        yield (None,) * (1 + len(within))
        return
    with contextlib.ExitStack() as stack:
        outer = HeldFolder.open(folder)
        stack.callback(outer.close)
        held = [outer]
        for each in within:
            held.append(HeldFolder.open(each, within=outer))
            stack.callback(held[-1].close)
        yield tuple(held)


def check_inside(root: Path, path: Path) -> Path:
    """Return `path` if it lies within `root` after following symbolic links.

    Raises
    ------
    CorruptError
        If a link leads out of the store.
    """
    place_at(path).check_inside(root)
    return path


def place_of(root: str | os.PathLike[str]) -> Path:
    """Return the place that a store's ROOT names: a folder of this machine, or ``s3://bucket/prefix``.

    Raises
    ------
    InputError
        If the scheme is another one, the bucket is missing, or obstore is not installed.
    """
    # A path that this function returned may come back in, for instance from a `FeatureStore`.
    if isinstance(root, ObjectPath):
        return root
    refuse_other_systems()
    text = os.fspath(root)
    if not text:
        raise InputError("--store is empty; give a folder, or s3://bucket/prefix")
    if "://" not in text:
        # The path is absolute, so that a later change of the working directory does not move the store.
        return Path(text).absolute()
    if not text.startswith(SCHEME):
        raise InputError(f"store {text!r} is neither a local folder nor s3://bucket/prefix")
    parts = [part for part in text.removeprefix(SCHEME).split("/") if part]
    # A prefix with `..` would name another object than its text suggests, because buckets have no folders.
    if not parts or any(part in (".", "..") for part in parts):
        raise InputError(f"store {text!r} names no bucket, or climbs; give s3://bucket/prefix")
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        raise InputError("stores in S3 need obstore; pip install 'toptune[s3]'") from error
    return ObjectPath("/", *parts)
