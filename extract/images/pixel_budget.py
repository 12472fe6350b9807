"""`PixelBudget`: threads share a number of pixels, so that many huge images never lie in memory together."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PixelBudget:
    """Pixels that may be decoded at a time, over all threads of the process.

    Parameters
    ----------
    pixels : int
        Pixels that all threads together may hold. An image of more pixels is decoded when no other one is.
    """

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        self._left = pixels
        self._changed = threading.Condition()

    @contextmanager
    def share(self) -> Iterator["PixelShare"]:
        """Yield one thread's share, which is empty at first; what it holds is given back at the end."""
        share = PixelShare(self)
        try:
            yield share
        finally:
            share.release()

    def take(self, pixels: int) -> int:
        """Wait until `pixels`, or the whole budget if that is less, are free; return how many were taken."""
        wanted = min(pixels, self.pixels)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= wanted)
            self._left -= wanted
        return wanted

    def give_back(self, pixels: int) -> None:
        """Let other threads have pixels that `take` returned."""
        with self._changed:
            self._left += pixels
            self._changed.notify_all()


class PixelShare:
    """The pixels that one thread holds.

    Parameters
    ----------
    budget : PixelBudget
        The budget of all threads.
    """

    def __init__(self, budget: PixelBudget) -> None:
        self._budget = budget
        self._held = 0

    def hold(self, pixels: int) -> None:
        """Hold `pixels` instead of what was held before."""
        # What was held is given back first: threads that keep a part and wait for more would wait for each
        # other for ever.
        self.release()
        self._held = self._budget.take(pixels)

    def hold_all(self) -> None:
        """Hold the whole budget, so that no other thread decodes."""
        self.hold(self._budget.pixels)

    def release(self) -> None:
        """Give back everything that is held."""
        held, self._held = self._held, 0
        if held:
            self._budget.give_back(held)
