"""Energy of the processors by their own counters (RAPL), shared out by CPU time."""

import os
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
PROC = Path("/proc")
# No package draws more: a counter that could have gone round within the time is not believed.
_MOST_WATTS = 600.0
_BUSY = (0, 1, 2, 5, 6)  # of a line of /proc/stat: user, nice, system, irq, softirq


class ProcessorEnergy:
    """Counters of the machine's processor packages, and of its busy CPU time, from when it is made."""

    def __init__(self, powercap: Path = POWERCAP, proc: Path = PROC) -> None:
        self._powercap, self._proc = powercap, proc
        self._counters, self._busy = self._energy(), self._busy_seconds()

    def joules(self, *, wall: float, cpu: float) -> float | None:
        """Give the share of who used `cpu` of the machine's CPU seconds in `wall` seconds.

        Returns
        -------
        float or None
            None where the counters cannot be read, or may have gone round more than once.
        """
        after, busy = self._energy(), self._busy_seconds()
        if not self._counters or after.keys() != self._counters.keys() or busy is None or self._busy is None:
            return None
        total = 0.0
        for name, (before, size) in self._counters.items():
            if wall * _MOST_WATTS >= size:
                return None
            total += (after[name][0] - before) % size
        machine = max(busy - self._busy, cpu)
        return total * cpu / machine if machine else 0.0

    def _energy(self) -> dict[str, tuple[float, float]]:
        """Joules of each package, and at how many its counter begins again."""
        found = {}
        try:
            # Names with one colon are packages; the others are parts of them.
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
        try:
            fields = (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:]
            return sum(int(fields[place]) for place in _BUSY) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return None
