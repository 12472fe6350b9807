"""`AcceleratorUse`: time, memory and energy of CUDA devices, by the counters of NVML."""

import functools
import os
import sys
from typing import Any

from toptune.costs.values import DeviceUse


class AcceleratorUse:
    """Measures the use of CUDA devices from the moment at which the object is made.

    Parameters
    ----------
    nvml : module, optional
        The NVML binding (package nvidia-ml-py). By default the installed one, if it finds a driver.
    """

    def __init__(self, nvml: Any = None) -> None:
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
        is_known = all(self._before.get(uuid, float("inf")) <= after.get(uuid, -1.0) for uuid in used)
        return {
            "devices": [name for name, _ in used.values()],
            "seconds": wall * len(used),
            "peak_memory_bytes": sum(peak for _, peak in used.values()),
            "energy_joules": sum(after[uuid] - self._before[uuid] for uuid in used) if is_known else None,
            "source": "nvml" if is_known else None,
            "estimate": not (is_known and all(map(self._is_ours, used))),
        }

    def _joules(self) -> dict[str, float]:
        """Read the counter of each device that has one; they count millijoules."""
        found: dict[str, float] = {}
        for index in range(self._nvml.nvmlDeviceGetCount() if self._nvml else 0):
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = self._nvml.nvmlDeviceGetUUID(handle)
                found[uuid] = self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
            except self._nvml.NVMLError:
                continue
        return found

    def _is_ours(self, uuid: str) -> bool:
        """Whether NVML names this process alone on a device; a container may hide process ids."""
        try:
            handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except self._nvml.NVMLError:
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
def open_nvml() -> Any:
    """Initialize NVML once; return None where the binding or the driver is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


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
