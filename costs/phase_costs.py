"""`PhaseCosts` adds up the costs of work that may be stopped and resumed in another process."""

import contextlib
import time
from collections.abc import Iterator, Mapping

from toptune.costs.accelerators import add_use
from toptune.costs.emissions import emissions_of, local_intensity
from toptune.costs.meter import CostMeter
from toptune.costs.values import Costs, PhaseUse

_NOTHING: Costs = {
    "phases": {},
    "wall_seconds": 0.0,
    "cpu_seconds": 0.0,
    "bytes_read": 0,
    "bytes_written": 0,
    "gpu": None,
    "energy_joules": 0.0,
    "energy": {"source": "rapl", "estimate": False, "watts_per_core": None},
    "co2e_kg": None,
    "co2e": None,
    "peak_memory_bytes": 0,
    "sessions": 0,
}


class PhaseCosts:
    """Sum of the costs of phases, on top of the costs of earlier sessions.

    Parameters
    ----------
    before : Costs, optional
        The result of `to_dict` in the session before.
    """

    def __init__(self, before: Costs | None = None) -> None:
        # A session of an older toptune may have left neither devices nor emissions.
        self._before: Costs = _NOTHING if before is None else {**_NOTHING, **before}
        self.phases = _copied(self._before["phases"])
        self._meter = CostMeter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds of what is done inside, threads included, to a phase."""
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            costs = self._costs(name)
            costs["wall_seconds"] += time.perf_counter() - wall
            costs["cpu_seconds"] += time.process_time() - cpu

    def count(self, name: str, images: int) -> None:
        """Add images to a phase."""
        costs = self._costs(name)
        costs["images"] = costs.get("images", 0) + images

    def seconds(self, name: str) -> float:
        """Return the wall-clock seconds of a phase so far."""
        return self._costs(name)["wall_seconds"]

    def to_dict(self) -> Costs:
        """Give the costs of all sessions as JSON values.

        Returns
        -------
        dict
            The keys of `toptune.costs.meter.CostMeter.to_dict`, and the number of ``sessions``. The energy is
            an estimate if the energy of any session is one. Emissions follow from the country of the last
            session.
        """
        before, now, how = self._before, self._meter.to_dict(), self._before["energy"]
        joules = before["energy_joules"] + now["energy_joules"]
        emissions = emissions_of(joules, local_intensity())
        return {
            "phases": _copied(self.phases),
            "wall_seconds": before["wall_seconds"] + now["wall_seconds"],
            "cpu_seconds": before["cpu_seconds"] + now["cpu_seconds"],
            "peak_memory_bytes": max(before["peak_memory_bytes"], now["peak_memory_bytes"]),
            # A session that could not count its bytes makes the sum unknown, not smaller.
            "bytes_read": _sum(before["bytes_read"], now["bytes_read"]),
            "bytes_written": _sum(before["bytes_written"], now["bytes_written"]),
            "gpu": add_use(before["gpu"], now["gpu"]),
            "energy_joules": joules,
            # One estimate makes the sum an estimate.
            "energy": how if how["estimate"] else now["energy"],
            "co2e_kg": emissions["co2e_kg"],
            "co2e": emissions["co2e"],
            "sessions": before.get("sessions", 0) + 1,
        }

    def _costs(self, name: str) -> PhaseUse:
        return self.phases.setdefault(name, {"wall_seconds": 0, "cpu_seconds": 0, "images": 0})


def _copied(phases: Mapping[str, PhaseUse]) -> dict[str, PhaseUse]:
    """Copy phases and their values, so that later work does not change costs that were handed out."""
    return {name: values.copy() for name, values in phases.items()}


def _sum(before: int | None, now: int | None) -> int | None:
    return None if before is None or now is None else before + now
