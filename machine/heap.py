"""The C library keeps the memory that a batch freed on the CPU, because the next batch needs as much."""

import ctypes
import os
import sys
from collections.abc import Collection

# Numbers of the options of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc refuses more
KEPT_BYTES = 2**30


def keep_freed_memory(*, overruled: Collection[str] = ()) -> bool:
    """Tell glibc to keep up to 1 GiB of freed memory, and to serve requests up to 32 MiB from it.

    Otherwise activations go back to the operating system after every layer and are fetched again page by
    page, which took a fifth to a third of the time of a ResNet-50 where it was measured. Variables
    ``MALLOC_*`` in the environment take precedence.

    Parameters
    ----------
    overruled : collection of str
        Variables that were not set by the user, and are ignored.

    Returns
    -------
    bool
        Whether glibc took the options; False with another C library.
    """
    if not sys.platform.startswith("linux") or any(
        name.startswith("MALLOC_") and name not in overruled for name in os.environ
    ):
        return False
    # Other C libraries of Linux have no mallopt.
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # A request above the mmap threshold gets pages of its own, which go back at every free. The threshold has
    # to be set: glibc stops raising it by itself once any of these options is given.
    wanted = (
        (_M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD),
        (_M_TRIM_THRESHOLD, KEPT_BYTES),
        (_M_TOP_PAD, 64 * 2**20),
    )
    return all(mallopt(option, value) == 1 for option, value in wanted)
