"""`ObjectPath`: a path in an S3 bucket, with the part of `pathlib.Path` that a store needs.

Objects are reached through obstore. Buckets have no folders: a folder is there while an object lies below it.
"""

import contextlib
import fnmatch
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from toptune.errors import StoreError

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Store

SCHEME = "s3://"
# A whole request may take this long, because a unit of up to 256 MiB needs time on a slow line.
_TIMEOUT = "600s"
_MAX_RETRIES = 3


@dataclass(frozen=True)
class ObjectStatus:
    """What is known of an object, by the names of `os.stat_result`; ``st_ino`` is made of the ETag."""

    st_size: int
    st_mtime: float
    st_ino: int
    e_tag: str | None = None

    @property
    def st_mtime_ns(self) -> int:
        return int(self.st_mtime * 1_000_000) * 1000

    @property
    def st_ctime(self) -> float:
        return self.st_mtime


FileStatus = os.stat_result | ObjectStatus


class ObjectPath(PosixPath):
    """``s3://bucket/key`` as a path: a `Path`, so that all of the store takes it.

    Methods that would touch the disk of this machine raise, and functions of `os` refuse such a path.
    """

    def __str__(self) -> str:
        return f"s3:/{super().__str__()}"

    # Functions of `os` would take the text for a path on this machine and quietly make files there.
    def __fspath__(self) -> str:
        raise TypeError(f"{self} is no file of this machine")

    @property
    def bucket(self) -> "S3Store":
        """Obstore's handle of the bucket."""
        # The settings are part of the key under which a handle is kept, so that a changed endpoint takes
        # effect. Values are looked up of these names only, because each value of the environment is decoded
        # anew, and each request comes by here.
        names = [name for name in os.environ if name.startswith("AWS_")]
        return _bucket(self.parts[1], frozenset((name, os.environ[name]) for name in names))

    @property
    def key(self) -> str:
        """The object's name in its bucket."""
        return "/".join(self.parts[2:])

    # What pathlib offers

    def absolute(self) -> "ObjectPath":
        return self

    def is_symlink(self) -> bool:
        return False

    def is_file(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        return next(self._children(), None) is not None

    def exists(self, **_: object) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["ObjectPath"]:  # type: ignore[override]
        return self._children()

    def glob(self, pattern: str, **_: object) -> Iterator["ObjectPath"]:  # type: ignore[override]
        first, _slash, rest = pattern.partition("/")
        for child in self._children():
            if fnmatch.fnmatchcase(child.name, first):
                if not rest:
                    yield child
                else:
                    yield from child.glob(rest)

    def rglob(self, pattern: str, **_: object) -> Iterator["ObjectPath"]:  # type: ignore[override]
        for path, _status in self.objects():
            if fnmatch.fnmatchcase(path.name, pattern):
                yield path

    def stat(self, **_: object) -> ObjectStatus:  # type: ignore[override]
        import obstore

        if not self.key:
            raise FileNotFoundError(f"{self} is a bucket")
        with explained(self):
            return _status(obstore.head(self.bucket, self.key))

    def lstat(self) -> ObjectStatus:  # type: ignore[override]
        return self.stat()

    def read_bytes(self) -> bytes:
        data = self.read_at_most(None)
        assert data is not None
        return data

    def read_at_most(self, max_bytes: int | None) -> bytes | None:
        """Return the object's content; None if the object is larger, whose content is then not fetched."""
        import obstore

        with explained(self):
            found = obstore.get(self.bucket, self.key)
            return None if max_bytes and found.meta["size"] > max_bytes else bytes(found.bytes())

    def read_range(self, start: int, length: int) -> bytes:
        """Return a part of the object's content."""
        import obstore

        with explained(self):
            return bytes(obstore.get_range(self.bucket, self.key, start=start, length=length))

    def read_ranges(self, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        """Return several parts of the object's content; parts near each other come with one request."""
        import obstore

        with explained(self):
            parts = obstore.get_ranges(self.bucket, self.key, starts=list(starts), lengths=list(lengths))
        return [bytes(part) for part in parts]

    def open(self, mode: str = "rb", *_: object, **__: object) -> Any:
        if mode != "rb":
            raise TypeError(f"{self} can only be read; writing goes through toptune.store.files.place")
        return io.BytesIO(self.read_bytes())

    def unlink(self, missing_ok: bool = True) -> None:  # noqa: ARG002  (a bucket does not say)
        import obstore

        with explained(self), contextlib.suppress(FileNotFoundError):
            obstore.delete(self.bucket, self.key)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(
            f"{self} is no file of this machine; objects change through toptune.store.files.place"
        )

    # Every write goes through `BucketPlace`, which knows the conditions under which an object may be
    # written.
    mkdir = rename = replace = rmdir = touch = write_bytes = write_text = chmod = hardlink_to = symlink_to = (
        _refuse
    )

    def objects(self) -> Iterator[tuple["ObjectPath", ObjectStatus]]:
        """Yield every object below, in the order of their names, a request for a thousand of them."""
        import obstore

        with explained(self):
            for batch in obstore.list(self.bucket, prefix=self.key or None):
                for meta in batch:
                    if not meta["size"]:
                        continue  # S3 consoles make empty objects, "folder/"; no file of a store is empty.
                    yield ObjectPath("/", self.parts[1], meta["path"]), _status(meta)

    def _children(self) -> Iterator["ObjectPath"]:
        import obstore

        with explained(self):
            found = obstore.list_with_delimiter(self.bucket, prefix=self.key or None)
        names = {meta["path"] for meta in found["objects"] if meta["size"]} | set(found["common_prefixes"])
        for name in sorted(names):
            yield ObjectPath("/", self.parts[1], name)


@contextlib.contextmanager
def explained(path: ObjectPath) -> Iterator[None]:
    """Turn obstore's errors into the store's, with the next step."""
    from obstore import exceptions

    try:
        yield
    except (exceptions.NotFoundError, FileNotFoundError) as error:
        # obstore has no class of its own for a bucket that is not there; S3's error code is in the text.
        if "NoSuchBucket" in str(error):
            raise StoreError(f"cannot reach {path}: there is no such bucket; make it first", path) from error
        raise FileNotFoundError(f"{path} does not exist") from error
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise
    except exceptions.BaseError as error:
        reason = " ".join(str(error).split("Debug source")[0].split())[:300]
        raise StoreError(
            f"cannot reach {path}: {reason}; check AWS_ENDPOINT_URL, AWS_REGION and the credentials "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), and what they allow",
            path,
        ) from error


def _status(meta: "ObjectMeta") -> ObjectStatus:
    # The ETag alone would not tell two uploads of the same bytes apart; with the time it serves as an inode
    # does.
    mark = f"{meta['e_tag']} {meta['last_modified'].isoformat()}"
    # Seven bytes keep the number below 2^63, as an inode is.
    number = int.from_bytes(hashlib.sha256(mark.encode()).digest()[:7], "big")
    return ObjectStatus(int(meta["size"]), meta["last_modified"].timestamp(), number, meta["e_tag"])


@lru_cache(maxsize=64)
def _bucket(name: str, settings: frozenset[tuple[str, str]]) -> "S3Store":
    """Connect once for each bucket and environment, which obstore reads itself."""
    from datetime import timedelta

    from obstore.store import S3Store

    return S3Store(
        name,
        client_options={
            # Credentials travel without TLS only if the user wrote http:// in the endpoint.
            "allow_http": dict(settings).get("AWS_ENDPOINT_URL", "").startswith("http://"),
            "timeout": _TIMEOUT,
            "connect_timeout": "5s",
        },
        retry_config={"max_retries": _MAX_RETRIES, "retry_timeout": timedelta(seconds=20)},
    )
