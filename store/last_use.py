"""When a cache was last used: a mark that eviction goes by, and that nothing else depends on."""

import logging
from datetime import UTC, datetime
from pathlib import Path

from toptune.errors import StoreError
from toptune.store import commit
from toptune.store.names import check_inside
from toptune.store.provenance import provenance
from toptune.store.reading import list_folder, read_file
from toptune.store.sealed import seal, unseal

logger = logging.getLogger(__name__)

USE_KIND = "toptune-use"
USE_FILE = "used.json"


def mark_used(root: Path, cache: Path) -> None:
    """Note that a cache is being read; on a read-only store this does nothing."""
    try:
        made = provenance()
        values = {"who": made["who"], "when": made["when"]}
        commit.replace(check_inside(root, cache / USE_FILE), seal(USE_KIND, values))
    except StoreError as error:
        logger.debug("the use of %s is not noted: %s", cache, error)


def last_use(cache: Path) -> datetime:
    """Return when a cache was last used, made or written to (UTC), whichever is latest."""
    moments = [datetime.fromtimestamp(0, UTC)]
    try:
        values = unseal(USE_KIND, read_file(cache / USE_FILE), cache / USE_FILE)
        moments.append(datetime.fromisoformat(values["when"]))
    except (FileNotFoundError, StoreError, KeyError, ValueError):
        pass  # never used, or not to be told: what follows is known of every cache
    for path in [cache / "cache.json", *list_folder(cache / "ledger")]:
        try:
            moments.append(datetime.fromtimestamp(path.stat().st_mtime, UTC))
        except FileNotFoundError:
            continue
    return max(moments)
