"""Hints about what was asked of a cache, so that repeating a finished command needs no backbone."""

import logging
from collections.abc import Sequence
from pathlib import Path

from toptune.errors import CorruptError
from toptune.store import commit
from toptune.store.names import check_inside, check_name
from toptune.store.reading import read_file
from toptune.store.sealed import seal, unseal

logger = logging.getLogger(__name__)

REQUEST_KIND = "toptune-request"


def request_path(cache: Path, key: str) -> Path:
    """Return the file of a request."""
    return cache / "requests" / f"{check_name(key, what='request')}.json"


def write_request(root: Path, cache: Path, key: str, arrays: Sequence[str]) -> None:
    """Note which arrays the request `key` asked for."""
    path = check_inside(root, request_path(cache, key))
    commit.replace(path, seal(REQUEST_KIND, {"arrays": list(arrays)}))


def read_request(cache: Path, key: str) -> list[str] | None:
    """Return what `write_request` noted, or None if there is no sound note."""
    path = request_path(cache, key)
    try:
        values = unseal(REQUEST_KIND, read_file(path), path)
    except FileNotFoundError:
        return None
    except CorruptError as error:
        logger.warning("the request is not recognised: %s", error)
        return None
    return [str(name) for name in values["arrays"]]
