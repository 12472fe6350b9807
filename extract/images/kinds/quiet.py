"""Warnings of the libraries that read images are silenced while any thread decodes."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

_quiet_lock = threading.Lock()
_quiet_users = 0
_quiet_filters: "warnings.catch_warnings[None] | None" = None


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of readers while any thread decodes.

    Filters of warnings belong to the process. If every thread set and restored the filters, they would be
    restored out of order; instead the first thread that decodes sets the filters, and the last restores them.
    """
    global _quiet_users, _quiet_filters
    with _quiet_lock:
        if _quiet_users == 0:
            _quiet_filters = warnings.catch_warnings()
            _quiet_filters.__enter__()
            warnings.filterwarnings("ignore", module=r"(PIL|pydicom|tifffile|pillow_heif)\b")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # What a later Pillow will no longer read is no fault of an image.
            warnings.filterwarnings("ignore", message=".* deprecated and will be removed in Pillow")
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0 and _quiet_filters is not None:
                _quiet_filters.__exit__(None, None, None)
                _quiet_filters = None
