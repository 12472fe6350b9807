"""`Tables`: figures of a run that are too many for ``metrics.json``, as files and images of its folder."""

from pathlib import Path
from typing import Protocol


class Tables(Protocol):
    """What a task knows of its answers beside the figures in ``metrics.json``."""

    @property
    def files(self) -> dict[str, str]:
        """The files that `write` makes, by the keys that name them in ``metrics.json``."""
        ...

    def write(self, folder: Path) -> None:
        """Write the files."""
        ...

    def draw(self, folder: Path, *, title: str) -> None:
        """Draw what a person looks at first into the folder."""
        ...
