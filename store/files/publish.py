"""Publish a file among other writers: ours appears, or a sound file that is there is adopted."""

import logging
from collections.abc import Callable
from pathlib import Path

from toptune.errors import StoreError
from toptune.store.files.place import place_at
from toptune.store.files.reading import read_file

logger = logging.getLogger(__name__)

# Each attempt is lost only to another process that wrote or removed the same file in between.
_ATTEMPTS = 8


def publish(path: Path, data: bytes, is_sound: Callable[[bytes], bool]) -> bytes:
    """Publish `data` as `path` and return the content that then stands there.

    This is for files that no ledger entry names yet, so that nobody relies on a file that exists: a sound one
    stays, and a damaged one is written again.

    Parameters
    ----------
    path : Path
        Name of the file.
    data : bytes
        The whole content.
    is_sound : callable
        Says whether other content found there is complete and undamaged.

    Raises
    ------
    StoreError
        If the system refuses.
    """
    for _ in range(_ATTEMPTS):
        if place_at(path).put_if_absent(data):
            return data
        try:
            # The status is taken before the content, so that only the very file that was read as damaged is
            # removed.
            status = path.stat()
            found = read_file(path)
        # Another writer found the file damaged too and removed it; the name is free again.
        except FileNotFoundError:
            continue
        if found == data or is_sound(found):
            return found
        logger.warning("%s is damaged: it is written again", path)
        place_at(path).remove_damaged(status)
    raise StoreError(
        f"cannot write {path}: others keep putting damaged files there; stop them and try again", path
    )
