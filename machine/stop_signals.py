"""A scheduler's signals, and Ctrl-C, become a wish to stop: asked, waited for, and then insisted on."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Windows has no SIGUSR1, which batch systems send.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
# Without a timer, as in Windows, the grace time is told to the work and not insisted upon.
HAS_TIMER = hasattr(signal, "setitimer")
# Schedulers signal a script and its children alike, and the script passes the signal on: two signals within
# this many seconds are one wish to stop.
SAME_SECONDS = 1.0

Stop = Callable[[], float | None]


@contextmanager
def stop_on_signals(grace_seconds: float, *, at_hand: str = "the unit") -> Iterator[Stop]:
    """Turn the first SIGTERM, SIGINT or SIGUSR1 into an answer, and the second into KeyboardInterrupt.

    The work is also interrupted when the grace time is over. Earlier handlers are put back on leaving.
    Only the main thread may call this, as Python sets signal handlers in no other thread.

    Parameters
    ----------
    grace_seconds : float
        Seconds that the work at hand may take from the first signal on; 0 interrupts at once.
    at_hand : str
        Name of the work at hand, for the line that answers the signal.

    Yields
    ------
    callable
        Returns None until a signal came, then the seconds that are left; for the argument ``stop`` of
        `toptune.extract.extract`.
    """
    asked = ends = None
    timer = (0.0, 0.0)

    def seconds_left() -> float | None:
        return None if ends is None else max(ends - time.monotonic(), 0.0)

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal asked, ends, timer
        now = time.monotonic()
        if asked is not None and ends is not None:
            # A second Ctrl-C comes from a person, who means it however fast it follows.
            if number == signal.SIGINT or now - asked > SAME_SECONDS or now >= ends:
                raise KeyboardInterrupt
            return
        asked, ends = now, now + grace_seconds
        if grace_seconds <= 0:
            raise KeyboardInterrupt
        # The signal may have come while sys.stderr was writing, which must not be entered again.
        os.write(
            2,
            f"{signal.Signals(number).name}: {at_hand} at hand is finished if that takes at most "
            f"{grace_seconds:g} s; a second signal stops at once\n".encode(),
        )
        if HAS_TIMER:
            timer = signal.setitimer(signal.ITIMER_REAL, grace_seconds)

    def insist(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    if HAS_TIMER:
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, insist)
    try:
        yield seconds_left
    finally:
        # The caller may have had a timer of its own, which was replaced by the grace time.
        if asked is not None and HAS_TIMER:
            signal.setitimer(signal.ITIMER_REAL, *timer)
        for number, handler in before.items():
            signal.signal(number, handler)
