"""Images that do harm to dask workers; in a module of its own, so that workers can import it."""

import os
import signal
import threading
from pathlib import Path

from toptune.extract.images.source import ImageSource
from toptune.extract.sources.opening import open_source
from toptune.store import Manifest, UnreadableImageError


class DeadlySource:
    """Kills the process that reads a row, unless it is the one that made it, a number of times."""

    def __init__(self, data: Path, row: int, marks: Path, times: int) -> None:
        self.inner: ImageSource = open_source(data)
        self.name, self.row, self.marks, self.times = self.inner.name, row, marks, times
        self.home = os.getpid()
        marks.mkdir()

    def manifest(self) -> Manifest:
        return self.inner.manifest()

    def read(self, row: int) -> bytes:
        if row == self.row and os.getpid() != self.home and len(list(self.marks.iterdir())) < self.times:
            (self.marks / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner.read(row)


class HomeSource(DeadlySource):
    """Can be read by the process that made it only."""

    def read(self, row: int) -> bytes:
        if os.getpid() != self.home:
            raise UnreadableImageError("cannot be read: No such file or directory")
        return self.inner.read(row)


class LockedSource(DeadlySource):
    """Cannot be sent anywhere."""

    def __init__(self, data: Path, marks: Path) -> None:
        super().__init__(data, 0, marks, 0)
        self.lock = threading.Lock()
