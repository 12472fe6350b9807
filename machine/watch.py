"""`Watch` decides between batches whether an extraction goes on; `Clocks` adds up what its stages take."""

import math
import time
from collections import deque
from collections.abc import Callable

Stop = Callable[[], float | None]
Seconds = tuple[float, float, float]

# Only recent units count, so that one slow unit (a stalled disk) does not skew the estimate for the rest of
# the run.
REMEMBERED_UNITS = 8
# A computed unit waits for the commit of the unit before and then for its own: two commits until it is
# durable.
COMMITS_BEHIND = 2


class Clocks:
    """Seconds that reading, computing and committing took so far, over all jobs of an extraction."""

    def __init__(self) -> None:
        self._before: Seconds = (0.0, 0.0, 0.0)
        self._now: Callable[[], Seconds] | None = None
        self._device_before = 0.0
        self._device: Callable[[], float] = float

    def follow(self, now: Callable[[], Seconds], device: Callable[[], float] = float) -> None:
        """Add the clocks of another job to the seconds that were counted so far.

        `device` returns the seconds that a CUDA device computed; without one it is 0.
        """
        self._before, self._now = self.seconds(), now
        self._device_before, self._device = self.device_seconds(), device

    def device_seconds(self) -> float:
        """Return the seconds of CUDA devices, apart from the host's, which launches and waits meanwhile."""
        return self._device_before + self._device()

    def seconds(self) -> Seconds:
        """Return the seconds of reading (averaged over its threads), of forward passes, of committing."""
        if self._now is None:
            return self._before
        read, compute, write = self._now()
        return self._before[0] + read, self._before[1] + compute, self._before[2] + write


class Watch:
    """Decides between batches whether an extraction goes on, given a wish to stop and a time limit.

    Parameters
    ----------
    stop : callable, optional
        Returns None to go on; otherwise the seconds within which the unit at hand may still be finished. The
        unit is given up where, at the pace so far, the seconds are too few. No other unit is begun.
    time_limit : float, optional
        Seconds from `started`. A unit that would not be done in time, judged by the slowest of the last
        units, is not begun.
    clocks : Clocks, optional
        Clocks that a progress display reads.
    started : float, optional
        Time on `time.perf_counter`; by default now.

    Attributes
    ----------
    reason : str, optional
        Why the extraction stopped, once it has.
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

    def begin_job(self, clocks: Callable[[], Seconds], device: Callable[[], float] = float) -> None:
        """Take over the clocks of a job that begins; see `Clocks.follow`."""
        self.clocks.follow(clocks, device)
        self._unit = None

    def may_begin(self, n_rows: int) -> bool:
        """Return whether a unit of `n_rows` rows may be begun, now that the unit before is done."""
        now = time.perf_counter()
        if self._unit is not None:
            rows, began = self._unit
            self._paces.append((now - began) / rows)
            self._units_done += 1
        self._unit = None
        if self._stop is not None and self._stop() is not None:
            return self._end("stopped")
        # The slowest of the last units is expected again: a unit that is cut off by the limit is lost, while
        # stopping too early loses nothing.
        left = self._started + self._limit - now
        if left <= 0 or max(self._paces, default=0.0) * n_rows + self._commit_seconds() > left:
            return self._end(f"stopped by the time limit of {self._limit:g} s")
        self._unit = (n_rows, now)
        return True

    def may_go_on(self, n_left: int) -> bool:
        """Return whether the unit at hand, of which `n_left` rows are not done, may go on."""
        assert self._unit is not None
        now = time.perf_counter()
        if now - self._started >= self._limit:
            return self._end(f"stopped by the time limit of {self._limit:g} s")
        left = None if self._stop is None else self._stop()
        if left is None:
            return True
        rows, began = self._unit
        n_done = rows - n_left
        # Until the first batch of a unit is done, the unit is judged by the units before.
        pace = (now - began) / n_done if n_done else max(self._paces, default=0.0)
        if left <= 0 or pace * n_left + self._commit_seconds() > left:
            return self._end("stopped")
        return True

    def may_hand_out(self) -> bool:
        """Return whether units may be handed to other processes.

        Raises
        ------
        KeyboardInterrupt
            If the time limit is over: units that other processes compute are given up.
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
        """Note why the extraction stops, and return False, the answer of the questions above."""
        self.reason = reason
        return False
