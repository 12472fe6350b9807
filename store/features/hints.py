"""Hints about what was asked of a cache, so that repeating a finished command needs no backbone."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from toptune.errors import CorruptError, StoreError
from toptune.store.files.local_place import HeldFolder
from toptune.store.files.names import check_name
from toptune.store.files.place import check_inside, place_at
from toptune.store.files.provenance import provenance
from toptune.store.files.reading import list_folder, read_file
from toptune.store.files.sealed import seal, unseal

USE_KIND = "toptune-use"
USE_FILE = "used.json"

logger = logging.getLogger(__name__)

REQUEST_KIND = "toptune-request"


def request_path(cache: Path, key: str) -> Path:
    """Return the file of a request."""
    return cache / "requests" / f"{check_name(key, what='request')}.json"


def write_request(
    root: Path, cache: Path, key: str, arrays: Sequence[str], held: HeldFolder | None = None
) -> None:
    """Note which arrays the request `key` asked for; `held` is the cache's folder."""
    path = check_inside(root, request_path(cache, key))
    place_at(path, held).replace(seal(REQUEST_KIND, {"arrays": list(arrays)}))


def read_request(cache: Path, key: str) -> list[str] | None:
    """Return what `write_request` noted, or None if there is no sound note."""
    path = request_path(cache, key)
    try:
        values = unseal(REQUEST_KIND, read_file(path), path)
    except FileNotFoundError:
        return None
    # A damaged hint costs a look at the backbone and no correctness, so that it is no error.
    except CorruptError as error:
        logger.warning("the request is not recognized: %s [TT204]", error)
        return None
    arrays = values.get("arrays")
    if not isinstance(arrays, list):
        logger.warning("the request is not recognized: %s: arrays is %.40r, no list [TT204]", path, arrays)
        return None
    return [str(name) for name in arrays]


def mark_used(root: Path, cache: Path, held: HeldFolder | None = None) -> None:
    """Note that a cache, whose folder is `held`, is being read; on a read-only store this does nothing."""
    try:
        made = provenance()
        values = {"who": made["who"], "when": made["when"]}
        place_at(check_inside(root, cache / USE_FILE), held).replace(seal(USE_KIND, values))
    except StoreError as error:
        logger.debug("the use of %s is not noted: %s", cache, error)


def last_use(cache: Path) -> datetime:
    """Return when a cache was last used, made or written to (UTC), whichever is latest."""
    moments = [datetime.fromtimestamp(0, UTC)]
    try:
        values = unseal(USE_KIND, read_file(cache / USE_FILE), cache / USE_FILE)
        # Any text may stand in a note, also a time that does not name its zone.
        moments.append(datetime.fromisoformat(values["when"]).astimezone(UTC))
    except (FileNotFoundError, StoreError, KeyError, ValueError, TypeError, OverflowError):
        pass  # The cache was never used, or its note is damaged. The times below are known of every cache.
    # A cache that is still being extracted was never trained from. The times of its records keep it from
    # being evicted.
    for path in [cache / "cache.json", cache / USE_FILE, *list_folder(cache / "ledger")]:
        try:
            moments.append(datetime.fromtimestamp(path.stat().st_mtime, UTC))
        except FileNotFoundError:
            continue
    return max(moments)
