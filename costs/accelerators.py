"""`AcceleratorUse` measures time, memory and energy of CUDA devices, by the counters of NVML."""

import functools
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from toptune.costs.values import DeviceUse


class ComputingProcess(Protocol):
    """A process that computes on a device, as NVML names it."""

    pid: int


class Nvml(Protocol):
    """The functions of the NVML binding that are called here; handles of devices are opaque."""

    @property
    def NVMLError(self) -> type[Exception]: ...  # noqa: N802

    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802

    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> object: ...  # noqa: N802

    def nvmlDeviceGetHandleByUUID(self, uuid: str, /) -> object: ...  # noqa: N802

    def nvmlDeviceGetUUID(self, handle: object, /) -> str: ...  # noqa: N802

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object, /) -> int: ...  # noqa: N802

    def nvmlDeviceGetComputeRunningProcesses(  # noqa: N802
        self, handle: object, /
    ) -> Sequence[ComputingProcess]: ...


class AcceleratorUse:
    """Measures the use of CUDA devices from the moment at which the object is made.

    Parameters
    ----------
    nvml : module, optional
        The NVML binding (package nvidia-ml-py). By default the installed one, if it finds a driver.
    """

    def __init__(self, nvml: Nvml | None = None) -> None:
        self._nvml = nvml or open_nvml()
        self._before = self._joules()

    def to_dict(self, wall: float) -> DeviceUse | None:
        """Give the use of the devices on which this process has memory; None if there is no such device.

        Parameters
        ----------
        wall : float
            Seconds since the object was made.

        Returns
        -------
        dict or None
            ``devices`` (names), ``seconds`` (for which devices were held, added up), ``peak_memory_bytes``
            (torch's peaks, added up), ``energy_joules`` (None where a device has no readable counter), the
            ``source`` of the energy, and whether the energy is an ``estimate``. Counters count whole devices,
            so the energy is exact only if NVML names this process, and no other, on each device.
        """
        used = devices_in_use()
        if not used:
            return None
        after = self._joules()
        # A counter that only one of the two readings has would give no difference: an infinite first reading,
        # or a negative last one, makes the energy unknown.
        is_known = all(self._before.get(uuid, float("inf")) <= after.get(uuid, -1.0) for uuid in used)
        return {
            "devices": [name for name, _ in used.values()],
            # A device is charged for as long as it is held, busy or not, as clusters account for it.
            "seconds": wall * len(used),
            "peak_memory_bytes": sum(peak for _, peak in used.values()),
            "energy_joules": sum(after[uuid] - self._before[uuid] for uuid in used) if is_known else None,
            "source": "nvml" if is_known else None,
            "estimate": not (is_known and all(map(self._is_ours, used))),
        }

    def _joules(self) -> dict[str, float]:
        """Read the energy counter of each device that has one, in joules; the counters count millijoules."""
        found: dict[str, float] = {}
        nvml = self._nvml
        if nvml is None:
            return found
        for index in range(nvml.nvmlDeviceGetCount()):
            # Devices before Volta have no such counter, and their energy is unknown.
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = nvml.nvmlDeviceGetUUID(handle)
                found[uuid] = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
            except nvml.NVMLError:
                continue
        return found

    def _is_ours(self, uuid: str) -> bool:
        """Return whether NVML names this process alone on a device; a container may hide process ids."""
        nvml = self._nvml
        if nvml is None:
            return False
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except nvml.NVMLError:
            return False
        return [process.pid for process in processes] == [os.getpid()]


def devices_in_use() -> dict[str, tuple[str, int]]:
    """Map the UUID of each CUDA device on which this process has memory to name and torch's peak in bytes."""
    # torch is not imported here: a process that has not loaded torch uses no device.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    found = {}
    for index in range(torch.cuda.device_count()):
        if peak := int(torch.cuda.max_memory_reserved(index)):
            device = torch.cuda.get_device_properties(index)
            found[f"GPU-{device.uuid}"] = str(device.name), peak
    return found


@functools.cache
def open_nvml() -> Nvml | None:
    """Initialize NVML once; return None where the binding or the driver is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    binding: Nvml = pynvml
    return binding


def add_use(before: DeviceUse | None, now: DeviceUse | None) -> DeviceUse | None:
    """Add up the use of devices in two sessions."""
    if before is None or now is None:
        return before or now
    first, second = before["energy_joules"], now["energy_joules"]
    joules = None if first is None or second is None else first + second
    return {
        "devices": now["devices"],
        "seconds": before["seconds"] + now["seconds"],
        "peak_memory_bytes": max(before["peak_memory_bytes"], now["peak_memory_bytes"]),
        "energy_joules": joules,
        "source": None if joules is None else now["source"],
        "estimate": before["estimate"] or now["estimate"],
    }
