"""Publish a file among other writers: ours appears, or an equal file that is there is adopted."""

import logging
from collections.abc import Callable
from pathlib import Path

from toptune.errors import CorruptError, StoreError
from toptune.store.files.local_place import HeldFolder
from toptune.store.files.place import Place, place_at
from toptune.store.files.reading import MAX_RECORD_BYTES

logger = logging.getLogger(__name__)

# Each attempt is lost only to another process that wrote or removed the same file in between.
_ATTEMPTS = 8


def publish(
    path: Path,
    data: bytes,
    is_ours: Callable[[bytes], bool],
    *,
    held: HeldFolder | None = None,
    still: Callable[[], None] = lambda: None,
) -> bytes:
    """Publish `data` as `path` and return the content that then stands there.

    This is for files that no ledger entry names yet, so that nobody relies on a file that exists: one that
    the caller can answer for stays, and any other is written again.

    Parameters
    ----------
    path : Path
        Name of the file.
    data : bytes
        The whole content.
    is_ours : callable
        Says whether other content found there may stand in the place of `data`. That the content is
        undamaged is not enough: it may be another file's.
    held : HeldFolder, optional
        A folder above `path`, through which the file is reached.
    still : callable, optional
        Raises if the file is no longer the caller's to write. The question comes after other content was read
        and before the content is replaced, and only the content that was read is replaced.

    Raises
    ------
    StoreError
        If the system refuses.
    """
    place = place_at(path, held)
    for _ in range(_ATTEMPTS):
        if place.put_if_absent(data):
            return data
        try:
            # The status is taken before the content, so that only the very file that was read is replaced.
            status = place.status()
            # An entry that is larger by this much is no file of ours, and is not read.
            is_other = status.st_size > len(data) + MAX_RECORD_BYTES
            found = None if is_other else _content(place)
        # Another writer replaced the file too; the name is free again.
        except FileNotFoundError:
            continue
        if found is not None and (found == data or is_ours(found)):
            if place.keep(status):
                return found
            continue
        still()
        logger.warning("%s is damaged, or of something else: it is written again [TT207]", path)
        if place.exchange(data, status):
            return data
    raise StoreError(
        f"cannot write {path}: others keep putting other files there; stop them and try again", path
    )


def _content(place: Place) -> bytes | None:
    """Return a file's content; None where the name is taken by something that is no file of a store."""
    try:
        return place.read()
    except CorruptError:
        return None
    except FileNotFoundError:
        place.status()  # A link to nowhere has a status and no content.
        return None
