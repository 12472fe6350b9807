"""`ProcessorEnergy` reads the energy of processors from their counters (RAPL), shared out by CPU time."""

import os
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
PROC = Path("/proc")
# No processor package draws more. A RAPL counter starts again at zero, typically after 65 or 262 kJ. If a
# counter could have wrapped around twice at this power, the difference of two readings means nothing.
_MOST_WATTS = 600.0
# Columns of a line of /proc/stat in which a processor is busy: user, nice, system, irq, softirq (proc(5)).
_BUSY = (0, 1, 2, 5, 6)


class ProcessorEnergy:
    """Measures the energy of the machine's processors from the moment at which the object is made.

    Parameters
    ----------
    powercap, proc : Path
        Folders in which Linux shows the counters of energy and of CPU time.
    """

    def __init__(self, powercap: Path = POWERCAP, proc: Path = PROC) -> None:
        self._powercap, self._proc = powercap, proc
        self._counters, self._busy = self._energy(), self._busy_seconds()

    def joules(self, *, wall: float, cpu: float) -> float | None:
        """Return the energy of work that used `cpu` CPU seconds of the machine in `wall` seconds.

        Returns
        -------
        float or None
            Joules: the work's share of the busy CPU seconds, times the energy of all packages. None where the
            counters cannot be read, or may have wrapped around more than once.
        """
        after, busy = self._energy(), self._busy_seconds()
        if not self._counters or after.keys() != self._counters.keys() or busy is None or self._busy is None:
            return None
        total = 0.0
        for name, (before, size) in self._counters.items():
            if wall * _MOST_WATTS >= size:
                return None
            # The modulus undoes one wrap-around of the counter.
            total += (after[name][0] - before) % size
        # /proc/stat counts in ticks, so that it may show less than this work used; no share is above 1.
        machine = max(busy - self._busy, cpu)
        return total * cpu / machine if machine else 0.0

    def _energy(self) -> dict[str, tuple[float, float]]:
        """Read the joules of each package, and the joules at which its counter starts again at zero."""
        found = {}
        try:
            # Names with one colon are packages; names with two are parts of a package, counted already.
            for domain in sorted(self._powercap.glob("intel-rapl:*")):
                if domain.name.count(":") == 1:
                    value, size = (
                        int((domain / name).read_text()) / 1e6
                        for name in ("energy_uj", "max_energy_range_uj")
                    )
                    found[domain.name] = value, size
        except (OSError, ValueError):
            return {}
        return found

    def _busy_seconds(self) -> float | None:
        """Read the busy CPU seconds of the machine since it was started; None where they cannot be read."""
        try:
            fields = (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:]
            return sum(int(fields[place]) for place in _BUSY) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError, AttributeError):  # Windows has no sysconf.
            return None
