"""``toptune.json``: what says that a folder is a feature store, and of which version.

Version 1 had Zarr only, a file for every ledger entry, and data sets that never grew. All of it means the
same in version 2, so that a store of version 1 is read as it is; `migrate` marks it before anything is
written that an older toptune would misread.
"""

import json
from pathlib import Path

from toptune.store import commit
from toptune.store.errors import CorruptError, FormatVersionError, StoreError, StoreNotFoundError
from toptune.store.reading import read_file

STORE_FILE = "toptune.json"
VERSION = 2
_KIND = "toptune-store"


def render_descriptor(version: int = VERSION) -> bytes:
    """Return the content of ``toptune.json``; it is the same in every store of a version."""
    return f'{{"format": "{_KIND}", "version": {version}}}\n'.encode()


DESCRIPTORS = {version: render_descriptor(version) for version in range(1, VERSION + 1)}


def read_version(root: Path) -> int:
    """Return the version of the store in a folder.

    Raises
    ------
    StoreNotFoundError
        If there is none.
    FormatVersionError
        If a newer toptune made it.
    CorruptError
        If its descriptor is damaged.
    """
    path = root / STORE_FILE
    try:
        data = read_file(path)
    except FileNotFoundError:
        raise StoreNotFoundError(
            f"{root} is no feature store (it has no {STORE_FILE}); check --store, or run extract first"
        ) from None
    try:
        content = json.loads(data)
        kind, version = content["format"], content["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptError(f"{path} is damaged; it should hold {DESCRIPTORS[VERSION].decode()}") from error
    if kind != _KIND:
        raise StoreError(f"{path} says format {kind!r} where {_KIND!r} is needed")
    if type(version) is not int or version not in DESCRIPTORS:
        raise FormatVersionError(
            f"{path} has format version {version!r}; this toptune supports versions up to {VERSION}; "
            "upgrade toptune, or use another --store"
        )
    return version


def require_current(root: Path) -> None:
    """Refuse to write to a store of an older version.

    Raises
    ------
    FormatVersionError
        If it is older; says how to migrate it.
    """
    version = read_version(root)
    if version < VERSION:
        raise FormatVersionError(
            f"{root} is a store of version {version}: it can be read and trained from, but not written to; "
            f"toptune store migrate --store {root} makes it version {VERSION}, in place and at once"
        )


def migrate(root: Path) -> int:
    """Make a store the current version; return which one it was.

    Raises
    ------
    StoreError
        As `read_version`; or if it cannot be written.
    """
    version = read_version(root)
    if version < VERSION:
        commit.replace(root / STORE_FILE, render_descriptor())
    return version
