"""Every file below a place, with its size."""

import os
from collections.abc import Iterator
from pathlib import Path

from toptune.store.object_path import ObjectPath


def walk_files(top: Path) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield ``(parts, size)`` of the files below `top`: their path within it, and bytes.

    Links are not followed; files that vanish meanwhile are passed over.
    """
    if isinstance(top, ObjectPath):
        for path, status in top.objects():
            yield path.relative_to(top).parts, status.st_size
        return
    for folder, _, names in os.walk(top):
        parts = Path(folder).relative_to(top).parts
        for name in names:
            try:
                size = os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118  (many files: strings)
            except FileNotFoundError:
                continue  # a temporary file of a writer at work
            yield (*parts, name), size
