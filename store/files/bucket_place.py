"""`BucketPlace`, the commit protocol over objects: ``If-None-Match`` in place of a hard link.

An object appears whole or not at all, so there are no temporary names. What a bucket lacks is a step that
makes or removes a folder. So the record that *decides* whether a folder is there (the last file of
`put_folder_if_absent`) is written first of a new folder and removed first of an old one.
"""

import contextlib
import hashlib
import itertools
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from toptune.errors import CorruptError, StoreError
from toptune.store.files.names import TEMPORARY_PREFIX, is_temporary
from toptune.store.files.s3_path import FileStatus, ObjectPath, ObjectStatus, explained

_DECIDING = ("dataset.json", "cache.json")
_WAIT_SECONDS = 5.0
# The most keys that S3 deletes in one request.
_MAX_DELETED = 1000


@dataclass(frozen=True)
class BucketPlace:
    """A path in a bucket; see `Place` for what each operation means."""

    path: ObjectPath

    has_whole_folders = False

    def put_if_absent(self, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with explained(self.path):
            try:
                obstore.put(self.path.bucket, self.path.key, data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                # The server also answers so if our own first request succeeded and only its answer was lost.
                # The caller then reads the object, finds it equal and adopts it.
                return False
        return True

    def replace(self, data: bytes) -> None:
        import obstore

        with explained(self.path):
            obstore.put(self.path.bucket, self.path.key, data, use_multipart=False)

    def exchange(self, data: bytes, seen: FileStatus) -> bool:
        import obstore
        from obstore.exceptions import PreconditionError

        if not isinstance(seen, ObjectStatus) or seen.e_tag is None:
            return False
        with explained(self.path), contextlib.suppress(FileNotFoundError):
            try:
                # If-Match: the server compares and writes in one step.
                obstore.put(
                    self.path.bucket, self.path.key, data, mode={"e_tag": seen.e_tag}, use_multipart=False
                )
            except PreconditionError:
                return False
            return True
        return False

    def keep(self, seen: FileStatus) -> bool:  # noqa: ARG002
        """Do nothing: the time of an object cannot be set."""
        return True

    def status(self) -> FileStatus:
        return self.path.stat()

    def read(self) -> bytes:
        return self.path.read_bytes()

    def put_folder_if_absent(self, files: Mapping[str, bytes]) -> bool:
        *others, deciding = files
        if not (self.path / deciding).is_file():
            self._remove_remains(files)
        # The deciding record comes first: whoever creates it owns the folder, and no second writer can mix
        # in files of other content.
        if self._below(deciding).put_if_absent(files[deciding]):
            for name in others:
                self._below(name).replace(files[name])
            return True
        # Another writer was first and may still be at work, or dead. If the deciding record names the
        # digest of one of our files, both writers mean the same file, and ours completes a folder that a
        # dead one left.
        record = (self.path / deciding).read_bytes()
        for name in others:
            if hashlib.sha256(files[name]).hexdigest().encode() in record:
                self._below(name).put_if_absent(files[name])
            end = time.monotonic() + _WAIT_SECONDS
            # A file with another digest is that writer's to write; waiting a little spares the caller an
            # error.
            while not (self.path / name).is_file() and time.monotonic() < end:
                time.sleep(0.05)
        return False

    def _below(self, name: str) -> "BucketPlace":
        return BucketPlace(self.path / name)

    def _remove_remains(self, files: Mapping[str, bytes]) -> None:
        """Remove what a killed removal left: files of other images, perhaps, which must not pass for ours."""
        path = self.path
        # Files of the new folder are spared: another writer of the same folder may have written them just
        # now.
        remains = [each for each, _ in path.objects() if "/".join(each.relative_to(path).parts) not in files]
        # Ledgers go first, because features without a ledger entry count as missing.
        _delete(path, sorted(remains, key=lambda each: "ledger" not in each.parts))

    def remove_damaged(self, seen: FileStatus) -> None:
        # A sound object may still appear between the comparison and the removal. Its unit then counts as
        # missing and is computed once more, which costs time but no correctness.
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return
        # The inode stands for the ETag here, so that an object which was replaced meanwhile is spared.
        if found.st_ino == seen.st_ino:
            self.path.unlink()

    def remove_folder(
        self,
        *,
        aside: Path,  # noqa: ARG002  (nothing is hidden in a bucket)
        check: Callable[[Path], None] | None = None,
    ) -> None:
        # The deciding record goes first, then the ledgers, then the rest, so that a kill leaves features that
        # no ledger entry names, and nothing that looks complete.
        paths = [each for each, _ in self.path.objects()]
        if check is not None:
            check(self.path)  # What is written after the listing stays.
        paths.sort(key=lambda each: (each.name not in _DECIDING, "ledger" not in each.parts))
        _delete(self.path, paths)

    def hide(self) -> None:
        import obstore

        hidden = self.path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        paths = [self.path] if self.path.is_file() else [each for each, _ in self.path.objects()]
        with explained(self.path):
            for each in paths:
                # A bucket cannot rename, so the server copies every object before the originals go.
                copy = hidden.joinpath(*each.relative_to(self.path).parts)
                obstore.copy(self.path.bucket, each.key, copy.key)
        self.remove_folder(aside=hidden)
        self.free()  # A file has nothing below it.

    def free(self) -> None:
        _delete(self.path, [self.path, *(each for each, _ in self.path.objects())])

    def free_unless_changed(self, since: float, is_named: Callable[[], bool]) -> None:
        objects = [*self.path.objects()] or [(self.path, self.path.stat())]
        if max(status.st_mtime for _, status in objects) <= since and not is_named():
            self.free()

    def clock(self) -> float:
        probe = BucketPlace(self.path / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
        try:
            probe.replace(b"clock")
            return probe.status().st_mtime
        except (StoreError, FileNotFoundError):
            return time.time()  # A store that may only be read.
        finally:
            with contextlib.suppress(StoreError):
                probe.path.unlink()

    def remove_if_empty(self) -> None:
        """Do nothing: a bucket has no empty folders."""

    def read_scattered(
        self, buffers: Sequence[memoryview], *, offset: int | Sequence[int], file_bytes: int
    ) -> None:
        # A range that ends beyond the object would come back short without an error, so the size is
        # compared first.
        found = self.path.stat().st_size
        if found != file_bytes:
            raise CorruptError(f"{found} bytes where {file_bytes} were written", self.path)
        starts = list(itertools.accumulate((len(buffer) for buffer in buffers[:-1]), initial=0))
        if isinstance(offset, int):
            data = self.path.read_range(offset, sum(map(len, buffers)))
            pieces = [
                data[start : start + len(buffer)] for start, buffer in zip(starts, buffers, strict=True)
            ]
        else:
            pieces = self.path.read_ranges(offset, [len(buffer) for buffer in buffers])
        for buffer, piece in zip(buffers, pieces, strict=True):
            buffer[:] = piece

    def sizes(self, files: Iterable[Path]) -> dict[Path, int]:
        # One listing names a thousand sizes, where asking for each file takes a request of its own.
        wanted = set(files)
        return {path: status.st_size for path, status in self.path.objects() if path in wanted}

    def walk_files(
        self,
        refused: Callable[[StoreError], None] | None = None,  # noqa: ARG002  (one call lists everything)
    ) -> Iterator[tuple[tuple[str, ...], int]]:
        for path, status in self.path.objects():
            yield path.relative_to(self.path).parts, status.st_size

    def leftovers(self) -> Iterator[tuple[Path, bool]]:
        hidden = {
            self.path.joinpath(*parts[: place + 1])
            for parts, _ in self.walk_files()
            for place, name in enumerate(parts)
            if is_temporary(name)
        }
        yield from ((path, False) for path in sorted(hidden))

    def check_inside(self, root: Path) -> None:
        """Do nothing: a bucket has no links that could lead out of the store."""

    def is_same(self, other: object) -> bool:
        return self == other

    def real(self) -> str:
        return str(self.path)


def _delete(path: ObjectPath, paths: list[ObjectPath]) -> None:
    import obstore

    with explained(path):
        for start in range(0, len(paths), _MAX_DELETED):
            obstore.delete(path.bucket, [each.key for each in paths[start : start + _MAX_DELETED]])
