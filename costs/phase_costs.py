"""What the phases of some work cost: seconds by the wall and of the processors, memory, images."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from toptune.costs.accelerators import add_use
from toptune.costs.emissions import emissions_of, local_intensity
from toptune.costs.meter import CostMeter

_FIELDS = ("wall_seconds", "cpu_seconds", "images")
_NOTHING: dict[str, Any] = {
    "phases": {},
    "wall_seconds": 0.0,
    "cpu_seconds": 0.0,
    "bytes_read": 0,
    "bytes_written": 0,
    "gpu": None,
    "energy_joules": 0.0,
    "energy": None,
    "peak_memory_bytes": 0,
    "sessions": 0,
}


class PhaseCosts:
    """Adds up phases, on top of those of sessions before.

    Parameters
    ----------
    before : mapping, optional
        What `to_dict` gave in the session before.
    """

    def __init__(self, before: Mapping[str, Any] | None = None) -> None:
        self._before = _NOTHING | dict(before or {})
        self.phases: dict[str, dict[str, float]] = {
            name: dict(values) for name, values in self._before["phases"].items()
        }
        self._meter = CostMeter()

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
        """Add images to a phase."""
        self._costs(name)["images"] += images

    def seconds(self, name: str) -> float:
        """Wall-clock seconds of a phase so far."""
        return self._costs(name)["wall_seconds"]

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values.

        Returns
        -------
        dict
            What `toptune.costs.meter.CostMeter` gives, over all sessions: energy is an estimate if that of
            any session is one, emissions are by the country of the last. Also ``sessions``.
        """
        before, now, how = self._before, self._meter.to_dict(), self._before["energy"]
        joules = before["energy_joules"] + now["energy_joules"]
        return {
            "phases": {name: dict(values) for name, values in self.phases.items()},
            "wall_seconds": before["wall_seconds"] + now["wall_seconds"],
            "cpu_seconds": before["cpu_seconds"] + now["cpu_seconds"],
            "peak_memory_bytes": max(before["peak_memory_bytes"], now["peak_memory_bytes"]),
            "bytes_read": _sum(before["bytes_read"], now["bytes_read"]),
            "bytes_written": _sum(before["bytes_written"], now["bytes_written"]),
            "gpu": add_use(before["gpu"], now["gpu"]),
            "energy_joules": joules,
            "energy": how if how and how["estimate"] else now["energy"],
            **emissions_of(joules, local_intensity()),
            "sessions": before["sessions"] + 1,
        }

    def _costs(self, name: str) -> dict[str, float]:
        return self.phases.setdefault(name, dict.fromkeys(_FIELDS, 0))


def _sum(before: int | None, now: int | None) -> int | None:
    return None if before is None or now is None else before + now
