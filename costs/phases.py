"""`Phases` names the phases of a piece of work as they begin, and times and meters them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from toptune.costs.meter import CostMeter
from toptune.costs.values import Costs


class Phases:
    """Tells, times and meters the phases of some work, from when it is made.

    Parameters
    ----------
    progress : callable, optional
        Called with the name of each phase as the phase begins.

    Attributes
    ----------
    seconds : dict of str to float
        Wall-clock seconds of each phase that ended, in the order in which they ended first.

    Examples
    --------
    >>> phases = Phases(progress=print)
    >>> with phases("fit"):
    ...     total = sum(range(10))
    fit
    >>> list(phases.seconds)
    ['fit']
    """

    def __init__(self, progress: Callable[[str], None] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress
        self._start = time.perf_counter()
        self._meter = CostMeter()

    @property
    def elapsed(self) -> float:
        """Wall-clock seconds since the work began."""
        return time.perf_counter() - self._start

    def notify(self, line: str) -> None:
        """Call `progress`, if there is one, without a phase that begins."""
        if self._progress is not None and line:
            self._progress(line)

    @contextmanager
    def __call__(self, name: str, *, line: str | None = None) -> Iterator[None]:
        """Time and meter what is done inside, as one phase.

        Parameters
        ----------
        name : str
            Name of the phase in `seconds` and `costs`.
        line : str, optional
            What `progress` is told in place of the name; nothing if the line is empty.
        """
        self.notify(name if line is None else line)
        self._meter.begin(name)
        clock = time.perf_counter()
        # A phase that fails is counted too: its seconds were spent.
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - clock
            self._meter.end()

    def costs(self) -> Costs:
        """Return what the work cost so far; see `CostMeter.to_dict`."""
        return self._meter.to_dict()
