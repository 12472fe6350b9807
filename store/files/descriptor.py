"""``toptune.json``: the file that makes a folder a feature store of one version."""

from pathlib import Path

from toptune.errors import CorruptError, FormatVersionError, StoreError, StoreNotFoundError
from toptune.store.files.folder_kinds import nearby, what_is
from toptune.store.files.json_values import parse_json
from toptune.store.files.reading import read_file
from toptune.store.files.s3_path import ObjectPath

STORE_FILE = "toptune.json"
VERSION = 2
_KIND = "toptune-store"
# The content of ``toptune.json``, the same in every store.
DESCRIPTOR = f'{{"format": "{_KIND}", "version": {VERSION}}}\n'.encode()


def check_descriptor(root: Path) -> None:
    """Refuse a folder that is no store, or a store of another version.

    Raises
    ------
    StoreNotFoundError
        If there is no store.
    FormatVersionError
        If an older or a newer toptune made it.
    CorruptError
        If the store's descriptor is damaged.
    """
    path = root / STORE_FILE
    try:
        data = read_file(path)
    except FileNotFoundError:
        raise StoreNotFoundError(_no_store(root), path, option="store") from None
    try:
        content = parse_json(data)
        kind, version = content["format"], content["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptError(f"{path} is damaged; it should hold {DESCRIPTOR.decode()}", path) from error
    if kind != _KIND:
        raise StoreError(f"{path} says format {kind!r} where {_KIND!r} is needed", path)
    # The next step differs: an older store must be extracted again, a newer one needs a newer toptune.
    if type(version) is int and version < VERSION:
        raise FormatVersionError(
            f"{path} has format version {version}; this toptune supports version {VERSION} only; "
            "extract again with this toptune into another --store",
            path,
        )
    if type(version) is not int or version > VERSION:
        raise FormatVersionError(
            f"{path} has format version {version!r}; this toptune supports version {VERSION} only; "
            "upgrade toptune, or use another --store",
            path,
        )


def _no_store(root: Path) -> str:
    message = f"{root} is no feature store (it has no {STORE_FILE})"
    if isinstance(root, ObjectPath):
        return f"{message}; check --store, or make it with toptune extract"
    stores = nearby(root, STORE_FILE)
    there = f"give a store that is there: {', '.join(stores)}" if stores else "check --store"
    return f"{message}: it {what_is(root)}; {there}, or make it with toptune extract"


def is_of_another_version(data: bytes) -> bool:
    """Whether a descriptor is that of a store of another version."""
    try:
        content = parse_json(data)
        # A damaged descriptor is of no version, so that `repair` may write it again.
        is_store, version = content["format"] == _KIND, content["version"]
    except (ValueError, TypeError, KeyError):
        return False
    return is_store and type(version) is int and version != VERSION
