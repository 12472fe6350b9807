"""What work costs: seconds, memory, bytes and energy of this process and the processes that it waited for."""

import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from toptune.store.feature_cache import FeatureCache
from toptune.store.feature_view import FeatureView, StoredFeatures

POWERCAP = Path("/sys/class/powercap")
PROC = Path("/proc")
# Assumed of a busy core where the machine's counters cannot be read: server processors draw 5 to 15 W a core.
WATTS_PER_CORE = 10.0
# No package draws more: a counter that could have gone round within the time is not believed.
_MOST_WATTS = 600.0
_BUSY = (0, 1, 2, 5, 6)  # of a line of /proc/stat: user, nice, system, irq, softirq


class CostMeter:
    """Adds up what the phases of some work cost, from when it is made.

    Energy is that of the processor packages by their own counters (RAPL), times the share of the machine's
    busy CPU time that was this work's; where they cannot be read, `WATTS_PER_CORE` for every CPU second,
    marked as an estimate. Accelerators are not counted.
    """

    def __init__(self, *, powercap: Path = POWERCAP, proc: Path = PROC) -> None:
        self._powercap, self._proc = powercap, proc
        self._phases: dict[str, dict[str, float]] = {}
        self._open: tuple[str, float, float] | None = None
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()
        self._bytes, self._counters, self._busy = self._io(), self._energy(), self._busy_seconds()

    def begin(self, phase: str) -> None:
        """End the phase before, if there is one, and begin another."""
        self._close()
        self._open = phase, time.perf_counter(), _cpu_seconds()

    def to_dict(self) -> dict[str, Any]:
        """End the last phase and give JSON values.

        Returns
        -------
        dict
            ``phases`` (name to ``wall_seconds`` and ``cpu_seconds``), the same two of everything,
            ``peak_memory_bytes`` (of the process so far), ``bytes_read`` and ``bytes_written`` (by system
            calls, cached or not; None where the system does not say), ``energy_joules``, and ``energy``: its
            ``source`` (``rapl`` or ``model``), whether it is an ``estimate``, and the ``watts_per_core``.
        """
        self._close()
        wall, cpu = time.perf_counter() - self._wall, _cpu_seconds() - self._cpu
        after = self._io()
        moved = (
            None
            if after is None or self._bytes is None
            else [b - a for a, b in zip(self._bytes, after, strict=True)]
        )
        joules = self._measured_joules(wall, cpu)
        how = {"source": "rapl", "estimate": False, "watts_per_core": None}
        if joules is None:
            joules = cpu * WATTS_PER_CORE
            how = {"source": "model", "estimate": True, "watts_per_core": WATTS_PER_CORE}
        return {
            "phases": self._phases,
            "wall_seconds": wall,
            "cpu_seconds": cpu,
            "peak_memory_bytes": peak_memory_bytes(),
            "bytes_read": None if moved is None else moved[0],
            "bytes_written": None if moved is None else moved[1],
            "energy_joules": joules,
            "energy": how,
        }

    def _close(self) -> None:
        if self._open is None:
            return
        name, wall, cpu = self._open
        known = self._phases.setdefault(name, {"wall_seconds": 0.0, "cpu_seconds": 0.0})
        known["wall_seconds"] += time.perf_counter() - wall
        known["cpu_seconds"] += _cpu_seconds() - cpu
        self._open = None

    def _measured_joules(self, wall: float, cpu: float) -> float | None:
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

    def _io(self) -> list[int] | None:
        try:
            lines = (self._proc / "self" / "io").read_text().splitlines()
            values = {name: int(value) for name, _, value in (line.partition(":") for line in lines)}
            return [values["rchar"], values["wchar"]]
        except (OSError, ValueError, KeyError):
            return None


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far."""
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def extraction_costs(features: StoredFeatures, names: list[str]) -> dict[str, float]:
    """Add up what extracting arrays took, by their ledger entries.

    It was paid once; every run on these features shares it. Arrays of one job took the time together. Several
    models of one command each count the time that they read together.

    Parameters
    ----------
    features : FeatureCache or FeatureView
    names : list of str
        Arrays.

    Returns
    -------
    dict
        ``extract_seconds`` by the wall, ``extract_pictures``, ``extract_bytes`` stored; nothing for imported
        features.
    """
    if features.recipe.architecture == "imported":
        return {}
    caches: list[FeatureCache]
    if isinstance(features, FeatureView):
        caches = list(features.caches.values())
    else:
        assert isinstance(features, FeatureCache)
        caches = [features]
    seconds, pictures, n_bytes = 0.0, 0, 0
    for cache in caches:
        jobs = set()
        for name in names:
            for unit, entry in cache.entries(name).items():
                jobs.add((unit, entry.host, entry.seconds))
                n_bytes += entry.n_bytes
        seconds += sum(job[2] for job in jobs)
        pictures += cache.n_rows
    return {"extract_seconds": seconds, "extract_pictures": pictures, "extract_bytes": n_bytes}


def _cpu_seconds() -> float:
    """Seconds of all threads, and of the children that have been waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)
