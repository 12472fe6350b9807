"""`CostMeter` measures seconds, memory, bytes, energy and emissions of this process and its children."""

import sys
import time
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from toptune.costs.accelerators import AcceleratorUse, Nvml
from toptune.costs.emissions import emissions_of, local_intensity
from toptune.costs.processor_energy import POWERCAP, PROC, ProcessorEnergy
from toptune.costs.values import Costs, EnergySource, PhaseUse

# Power of a busy core, assumed where the machine's counters cannot be read: processors of servers draw 5 to
# 15 W a core.
WATTS_PER_CORE = 10.0


class CostMeter:
    """Adds up what the phases of some work cost, from the moment at which the meter is made.

    The energy of the processors is read from their counters (RAPL) and multiplied by this work's share of the
    machine's busy CPU time. Where the counters cannot be read, the energy is estimated as `WATTS_PER_CORE`
    for every CPU second. The energy of the CUDA devices that this process computes on is added where NVML
    reports the energy.

    Parameters
    ----------
    powercap, proc : Path
        Folders in which Linux shows the counters of energy, and those of CPU time and bytes.
    nvml : module, optional
        The NVML binding; see `AcceleratorUse`.

    Raises
    ------
    InputError
        If the environment names a country whose emissions are not known; see `local_intensity`.

    Examples
    --------
    >>> meter = CostMeter()
    >>> meter.begin("fit")
    >>> total = sum(range(10))
    >>> list(meter.to_dict()["phases"])
    ['fit']
    """

    def __init__(self, *, powercap: Path = POWERCAP, proc: Path = PROC, nvml: Nvml | None = None) -> None:
        self._proc = proc
        self._phases: dict[str, PhaseUse] = {}
        self._open: tuple[str, float, float] | None = None
        # An unknown country is refused now, before the work, and not when its costs are written.
        self._intensity = local_intensity()
        self._wall, self._cpu, self._bytes = time.perf_counter(), _cpu_seconds(), self._io()
        self._processors, self._accelerators = ProcessorEnergy(powercap, proc), AcceleratorUse(nvml)

    def begin(self, phase: str) -> None:
        """End the phase before, if there is one, and begin another."""
        self._close()
        self._open = phase, time.perf_counter(), _cpu_seconds()

    def end(self) -> None:
        """End the phase that began last; work until the next phase belongs to no phase."""
        self._close()

    def to_dict(self) -> Costs:
        """End the last phase and give the costs so far as JSON values.

        Returns
        -------
        dict
            ``phases`` (the seconds of each phase), ``wall_seconds`` and ``cpu_seconds`` of all work,
            ``peak_memory_bytes`` (of the process so far), ``bytes_read`` and ``bytes_written`` (by system
            calls, cached or not; None where the system does not count them), ``gpu`` (see `AcceleratorUse`),
            ``energy_joules`` and ``energy``, which says where the energy of the processors is taken from
            (``rapl`` or ``model``) and whether a part is an estimate, and ``co2e_kg`` and ``co2e`` (see
            `emissions_of`).
        """
        self._close()
        wall, cpu = time.perf_counter() - self._wall, _cpu_seconds() - self._cpu
        after = self._io()
        moved = None
        if after is not None and self._bytes is not None:
            moved = after[0] - self._bytes[0], after[1] - self._bytes[1]
        joules = self._processors.joules(wall=wall, cpu=cpu)
        how: EnergySource = {"source": "rapl", "estimate": False, "watts_per_core": None}
        if joules is None:
            joules = cpu * WATTS_PER_CORE
            how = {"source": "model", "estimate": True, "watts_per_core": WATTS_PER_CORE}
        gpu = self._accelerators.to_dict(wall)
        # A device whose counter cannot be read adds nothing, and its use is marked as an estimate.
        if gpu is not None:
            joules += gpu["energy_joules"] or 0.0
            how["estimate"] = how["estimate"] or gpu["estimate"]
        emissions = emissions_of(joules, self._intensity)
        return {
            "phases": self._phases,
            "wall_seconds": wall,
            "cpu_seconds": cpu,
            "peak_memory_bytes": peak_memory_bytes(),
            "bytes_read": None if moved is None else moved[0],
            "bytes_written": None if moved is None else moved[1],
            "gpu": gpu,
            "energy_joules": joules,
            "energy": how,
            "co2e_kg": emissions["co2e_kg"],
            "co2e": emissions["co2e"],
        }

    def _close(self) -> None:
        """Add the seconds of the open phase, if there is one."""
        if self._open is None:
            return
        name, wall, cpu = self._open
        known = self._phases.setdefault(name, {"wall_seconds": 0.0, "cpu_seconds": 0.0})
        known["wall_seconds"] += time.perf_counter() - wall
        known["cpu_seconds"] += _cpu_seconds() - cpu
        self._open = None

    def _io(self) -> tuple[int, int] | None:
        """Read the bytes that this process has read and written; None where the system does not tell."""
        try:
            lines = (self._proc / "self" / "io").read_text().splitlines()
            values = {name: int(value) for name, _, value in (line.partition(":") for line in lines)}
            # These count what system calls moved. ``read_bytes`` beside them leaves out cached files, and a
            # run would seem to read nothing the second time.
            return values["rchar"], values["wchar"]
        except (OSError, ValueError, KeyError):
            return None


def describe_costs(costs: Costs) -> str:
    """Say in a line what some work cost."""
    parts = [f"cost {costs['wall_seconds']:.1f} s", f"{costs['cpu_seconds']:.1f} s of the processors"]
    # Costs that an older toptune wrote have neither devices nor emissions.
    gpu, emitted, intensity = costs.get("gpu"), costs.get("co2e_kg"), costs.get("co2e")
    parts += [f"{gpu['seconds']:.1f} s of GPUs"] if gpu else []
    parts.append(f"{costs['energy_joules']:.0f} J{' (estimated)' if costs['energy']['estimate'] else ''}")
    if emitted is not None and intensity is not None:
        parts.append(f"{1000 * emitted:.2g} g CO2e ({intensity['country']})")
    peak = costs["peak_memory_bytes"]
    parts += [f"{peak / 1e6:.0f} MB of memory at most"] if peak else []
    return ", ".join(parts)


def peak_memory_bytes() -> int:
    """Return the largest resident set of this process so far; 0 where the system does not tell it.

    The account of Linux is that of the program alone. `getrusage` would also count what the process was
    before it became this program: the whole memory of a large one that started it.
    """
    if resource is None:
        return 0
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _cpu_seconds() -> float:
    """Return the CPU seconds of all threads, and of the child processes that have been waited for.

    Without `resource`, as in Windows, those of the child processes are not known.
    """
    if resource is None:
        return time.process_time()
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)
