"""The commit protocol over objects: ``If-None-Match`` in place of a hard link.

An object appears whole or not at all, so there are no temporary names. What a bucket lacks is a step that
makes or removes a folder: the record that *decides* whether a folder is there (the last one of
`put_folder_if_absent`) is written first of a new folder and removed first of an old one.
"""

import hashlib
import time
import uuid
from collections.abc import Mapping

from toptune.store.files.s3_path import ObjectPath, ObjectStatus, explained

_DECIDING = ("dataset.json", "cache.json")
_WAIT_SECONDS = 5.0


def put_if_absent(path: ObjectPath, data: bytes) -> bool:
    """Publish `data` as an object unless the name is taken; return whether this call did."""
    import obstore
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    with explained(path):
        try:
            obstore.put(path.bucket, path.key, data, mode="create", use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            # Also the answer to a request of ours that was repeated because its own answer was lost.
            return False
    return True


def replace(path: ObjectPath, data: bytes) -> None:
    """Publish `data` as an object whatever is there."""
    import obstore

    with explained(path):
        obstore.put(path.bucket, path.key, data, use_multipart=False)


def put_folder_if_absent(path: ObjectPath, files: Mapping[str, bytes]) -> bool:
    """Publish files, the last of which decides; the winner writes the others.

    What a removal that was killed left there goes first: it may be of other images, and must never be taken
    for features of these.

    One who comes second writes what the winner has not yet, if the deciding file there names it by its
    digest, and otherwise waits for it a little.
    """
    *others, deciding = files
    if not (path / deciding).is_file():
        remains = [each for each, _ in path.objects() if "/".join(each.relative_to(path).parts) not in files]
        _delete(path, sorted(remains, key=lambda each: "ledger" not in each.parts))
    if put_if_absent(path / deciding, files[deciding]):
        for name in others:
            replace(path / name, files[name])
        return True
    record = (path / deciding).read_bytes()
    for name in others:
        if hashlib.sha256(files[name]).hexdigest().encode() in record:
            put_if_absent(path / name, files[name])
        end = time.monotonic() + _WAIT_SECONDS
        while not (path / name).is_file() and time.monotonic() < end:
            time.sleep(0.05)
    return False


def remove_damaged(path: ObjectPath, seen: ObjectStatus) -> None:
    """Remove an object that was read and found damaged, unless another one has taken its place.

    Between the look and the removal a sound one may still appear: it is then computed once more.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    if found.st_ino == seen.st_ino:
        path.unlink()


def remove_folder(path: ObjectPath) -> None:
    """Remove all below: what decides first, then ledgers, then the rest."""
    paths = [each for each, _ in path.objects()]
    paths.sort(key=lambda each: (each.name not in _DECIDING, "ledger" not in each.parts))
    _delete(path, paths)


def hide_folder(path: ObjectPath, temporary_prefix: str) -> None:
    """Move all below to a temporary name beside it."""
    import obstore

    hidden = path.parent / f"{temporary_prefix}{uuid.uuid4().hex}"
    paths = [each for each, _ in path.objects()]
    with explained(path):
        for each in paths:
            copy = hidden.joinpath(*each.relative_to(path).parts)
            assert isinstance(copy, ObjectPath)
            obstore.copy(path.bucket, each.key, copy.key)
    remove_folder(path)


def free(path: ObjectPath) -> None:
    """Delete an object, or all objects below."""
    _delete(path, [path, *(each for each, _ in path.objects())])


def _delete(path: ObjectPath, paths: list[ObjectPath]) -> None:
    import obstore

    with explained(path):
        for start in range(0, len(paths), 1000):
            obstore.delete(path.bucket, [each.key for each in paths[start : start + 1000]])
