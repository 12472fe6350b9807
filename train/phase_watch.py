"""What the phases of a pass cost."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class PhaseWatch:
    """Adds wall-clock seconds of named phases to a mapping, if there is one."""

    def __init__(self, seconds: dict[str, float] | None) -> None:
        self.seconds = {} if seconds is None else seconds

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what is done inside."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Count what making the items takes, not what is done with them."""
        source = iter(items)
        while True:
            with self.phase(name):
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item
