"""`RunLimits`: where a computation runs and what the computation may take."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypedDict

from toptune.machine.devices import AUTO, check_device_name, settle_head_device
from toptune.machine.memory import bytes_of, left_for_head


class LimitArguments(TypedDict, total=False):
    """The keywords of `RunLimits`."""

    device: str | None
    memory_limit: int | str | None
    dask: str | None


@dataclass(frozen=True, kw_only=True)
class RunLimits:
    """Where a fit runs and what the fit may take.

    Attributes
    ----------
    device : str, optional
        torch device of toptune's own heads: ``auto`` (CUDA where there is a CUDA device, else the CPU),
        ``cpu``, ``cuda`` or ``cuda:N``. None is the CPU.
    memory_limit : int or str, optional
        Bytes, or text such as ``2GiB``, of the whole process with its libraries, and of the device's memory
        where a CUDA device computes. A fit whose projected peak is above what the limit leaves is refused
        before any work. By default half of the machine's memory, and 85 % of what is free on the device.
    dask : str, optional
        Address of a dask.distributed scheduler whose workers add up sums, or ``local:N`` for N processes on
        this machine. All workers must see the store under the same path.
    """

    device: str | None = AUTO
    memory_limit: int | str | None = None
    dask: str | None = None

    def __post_init__(self) -> None:
        # A limit that is no number of bytes is refused here, before any work.
        if self.memory_limit is not None:
            bytes_of(self.memory_limit)
        if self.device is not None:
            check_device_name(str(self.device), is_for_head=True)

    @cached_property
    def memory_limit_bytes(self) -> int | None:
        """The limit in bytes, or None for the machine's own."""
        return None if self.memory_limit is None else bytes_of(self.memory_limit)

    def settled(self, *, cpu_because: str | None = None, small_because: str | None = None) -> "RunLimits":
        """Return the limits with the device that ``auto`` stands for.

        Parameters
        ----------
        cpu_because : str, optional
            Why the fit computes on the CPU alone.
        small_because : str, optional
            Why the fit is too small for a CUDA device, which ``auto`` then does not take.
        """
        device = settle_head_device(self.device, cpu_because=cpu_because, small_because=small_because)
        return replace(self, device=device)

    def left_for_head(self) -> int | None:
        """Return what the limit leaves for a head; see `toptune.machine.memory.left_for_head`."""
        return left_for_head(self.memory_limit_bytes, None if self.device is None else str(self.device))
