"""What the phases of some work cost: seconds by the wall and of the processors, memory, pictures."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from toptune.store.costs import CostMeter, peak_memory_bytes

_FIELDS = ("wall_seconds", "cpu_seconds", "images")


class PhaseCosts:
    """Adds up phases, on top of those of sessions before.

    Parameters
    ----------
    before : mapping, optional
        What `to_dict` gave in the session before.
    """

    def __init__(self, before: Mapping[str, Any] | None = None) -> None:
        known = before or {
            "phases": {},
            "total_seconds": 0.0,
            "cpu_seconds": 0.0,
            "energy_joules": 0.0,
            "energy": None,
            "peak_memory_bytes": 0,
            "sessions": 0,
        }
        self.phases: dict[str, dict[str, float]] = {
            name: dict(values) for name, values in known["phases"].items()
        }
        self._total_before, self._peak_before = known["total_seconds"], known["peak_memory_bytes"]
        self._sessions = known["sessions"] + 1
        self._before = known
        self._meter = CostMeter()
        self._began = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what is done inside, threads included."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            costs = self._costs(name)
            costs["wall_seconds"] += time.perf_counter() - wall
            costs["cpu_seconds"] += time.process_time() - cpu

    def count(self, name: str, images: int) -> None:
        """Add pictures to a phase."""
        self._costs(name)["images"] += images

    def seconds(self, name: str) -> float:
        """Wall-clock seconds of a phase so far."""
        return self._costs(name)["wall_seconds"]

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values.

        Returns
        -------
        dict
            ``phases``, ``total_seconds``, ``cpu_seconds``, ``energy_joules`` and ``energy`` (see
            `toptune.store.costs.CostMeter`; an estimate if that of any session is one),
            ``peak_memory_bytes``, ``sessions``.
        """
        now, how = self._meter.to_dict(), self._before["energy"]
        return {
            "phases": {name: dict(values) for name, values in self.phases.items()},
            "total_seconds": self._total_before + time.perf_counter() - self._began,
            "cpu_seconds": self._before["cpu_seconds"] + now["cpu_seconds"],
            "energy_joules": self._before["energy_joules"] + now["energy_joules"],
            "energy": how if how and how["estimate"] else now["energy"],
            "peak_memory_bytes": max(self._peak_before, peak_memory_bytes()),
            "sessions": self._sessions,
        }

    def _costs(self, name: str) -> dict[str, float]:
        return self.phases.setdefault(name, dict.fromkeys(_FIELDS, 0))
