"""When an extraction ends before its last unit, and what its stages take: asked between batches."""

import math
import time
from collections import deque
from collections.abc import Callable

Stop = Callable[[], float | None]
Seconds = tuple[float, float, float]

# An interruption of the disk must not decide for ever how long a unit takes.
REMEMBERED_UNITS = 8
# A unit that is done waits for the one that is being committed, and is then committed itself.
COMMITS_BEHIND = 2


class Clocks:
    """Seconds that reading, computing and committing took so far; an extraction keeps them going."""

    def __init__(self) -> None:
        self._before: Seconds = (0.0, 0.0, 0.0)
        self._now: Callable[[], Seconds] | None = None

    def follow(self, now: Callable[[], Seconds]) -> None:
        """Add the clocks of another job to what was counted so far."""
        self._before, self._now = self.seconds(), now

    def seconds(self) -> Seconds:
        """Give the seconds of reading (shared by its threads), of forward passes, of committing."""
        if self._now is None:
            return self._before
        read, compute, write = self._now()
        return self._before[0] + read, self._before[1] + compute, self._before[2] + write


class Watch:
    """Decides between batches whether an extraction goes on.

    Parameters
    ----------
    stop : callable, optional
        None to go on; otherwise the seconds within which the unit at hand may still be finished. It is
        given up where, at the pace so far, that is too short. No unit is begun any more.
    time_limit : float, optional
        Seconds from `started`. No unit is begun that would not be done by then, judged by the slowest of the
        last units.
    clocks : Clocks, optional
        Those that somebody shows.
    started : float, optional
        On `time.perf_counter`; by default now.

    Attributes
    ----------
    reason : str, optional
        Why it stopped, once it has.
    """

    def __init__(
        self,
        *,
        stop: Stop | None = None,
        time_limit: float | None = None,
        clocks: Clocks | None = None,
        started: float | None = None,
    ) -> None:
        self._stop = stop
        self._limit = math.inf if time_limit is None else time_limit
        self._started = time.perf_counter() if started is None else started
        self.clocks = clocks if clocks is not None else Clocks()
        self.reason: str | None = None
        self._paces: deque[float] = deque(maxlen=REMEMBERED_UNITS)
        self._units_done = 0
        self._unit: tuple[int, float] | None = None

    def begin_job(self, clocks: Callable[[], Seconds]) -> None:
        """Take over the clocks of a job that begins."""
        self.clocks.follow(clocks)
        self._unit = None

    def may_begin(self, n_rows: int) -> bool:
        """Say whether a unit of `n_rows` may be begun; the one before it is done."""
        now = time.perf_counter()
        if self._unit is not None:
            rows, began = self._unit
            self._paces.append((now - began) / rows)
            self._units_done += 1
        self._unit = None
        if self._stop is not None and self._stop() is not None:
            return self._end("stopped")
        left = self._started + self._limit - now
        if left <= 0 or max(self._paces, default=0.0) * n_rows + self._commit_seconds() > left:
            return self._end(f"stopped by the time limit of {self._limit:g} s")
        self._unit = (n_rows, now)
        return True

    def may_go_on(self, n_left: int) -> bool:
        """Say whether the unit at hand, of which `n_left` rows are not done, is worth going on with."""
        assert self._unit is not None
        now = time.perf_counter()
        if now - self._started >= self._limit:
            return self._end(f"stopped by the time limit of {self._limit:g} s")
        left = None if self._stop is None else self._stop()
        if left is None:
            return True
        rows, began = self._unit
        n_done = rows - n_left
        pace = (now - began) / n_done if n_done else max(self._paces, default=0.0)
        if left <= 0 or pace * n_left + self._commit_seconds() > left:
            return self._end("stopped")
        return True

    def may_hand_out(self) -> bool:
        """Say whether units may be handed to other processes.

        Raises
        ------
        KeyboardInterrupt
            If the time limit is over: what others compute is given up.
        """
        if self._stop is not None and self._stop() is not None:
            return self._end("stopped")
        if time.perf_counter() - self._started >= self._limit:
            self._end(f"stopped by the time limit of {self._limit:g} s")
            raise KeyboardInterrupt
        return True

    def _commit_seconds(self) -> float:
        """Estimate the seconds until a unit that is computed now is durable."""
        return COMMITS_BEHIND * self.clocks.seconds()[2] / max(self._units_done, 1)

    def _end(self, reason: str) -> bool:
        self.reason = reason
        return False
