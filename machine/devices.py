"""Device and arithmetic are chosen here, by the same rules for extraction and training."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from toptune.errors import InputError
from toptune.options import check_choice, choices
from toptune.text import counted

if TYPE_CHECKING:  # a name is checked without torch, whose import takes seconds
    import torch

_CUDA = re.compile(r"cuda(?::([0-9]+))?\Z")
DEVICES = ("cpu", "cuda")
# Flags of x86 CPUs that multiply bf16 in hardware; elsewhere bf16 is emulated, and slower than fp32.
CPU_FLAGS = ("amx_bf16", "avx512_bf16")


def check_device_name(device: str) -> None:
    """Refuse what is no name of a device, without torch; whether there is such a device is not looked up.

    Raises
    ------
    InputError
        If the name is unknown.
    """
    if device != "cpu" and not _CUDA.match(device):
        raise InputError(
            f"device {device!r} is unknown; {choices(device, DEVICES)} or cuda:N", option="device"
        )


def resolve_device(device: str) -> "torch.device":
    """Return the torch device of a name: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    InputError
        If the name is unknown or this machine has no such device; no other device is taken in its place.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    >>> resolve_device("tpu")
    Traceback (most recent call last):
    toptune.errors.InputError: device 'tpu' is unknown; did you mean 'cpu'? Choose one of cpu, cuda or cuda:N
    """
    check_device_name(device)
    import torch

    match = _CUDA.match(device)
    if match is None:
        return torch.device(device)
    count = _count_devices()
    if int(match[1] or 0) >= count:
        there = f" or one of cuda:0 to cuda:{count - 1}" if count else ""
        raise InputError(
            f"device {device!r} is not there: torch sees {counted(count, 'CUDA device')}; use "
            f"--device cpu{there}",
            option="device",
        )
    return torch.device(device)


def device_of(device: "str | torch.device | None") -> "torch.device":
    """Return the device to compute on, where naming none means the CPU; see `resolve_device`."""
    return resolve_device("cpu" if device is None else str(device))


def list_devices(device: str) -> list[str]:
    """Return the name of each device that `device` stands for.

    ``cuda`` stands for all visible CUDA devices; commas stand between several names.

    Raises
    ------
    InputError
        If a name is unknown or this machine has no such device.
    """
    if device == "cuda":
        count = _count_devices()
        return [f"cuda:{i}" for i in range(count)] if count > 1 else [device]
    names = [name.strip() for name in device.split(",")]
    if len(names) > 1:
        for name in names:
            resolve_device(name)
    return names


def resolve_precision(precision: str, device: "torch.device") -> str:
    """Turn ``auto`` into ``bf16`` where the device computes in it, and ``fp32`` elsewhere.

    Raises
    ------
    InputError
        If the name is unknown.
    """
    check_choice(precision, ("fp32", "bf16", "auto"), option="precision")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        import torch

        # torch's own question is asked of the current device, which need not be the one that is named, and
        # counts devices that emulate bf16. ROCm's devices have bf16 and other numbers for their capability.
        with torch.cuda.device(device):
            is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if is_fast else "fp32"
    return "bf16" if has_fast_bf16() else "fp32"


def has_fast_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this CPU multiplies bf16 matrices in hardware."""
    # Only Linux has this file. Elsewhere the answer is no, and fp32 is never wrong, only slower.
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return any(flag in flags for flag in CPU_FLAGS)


def _count_devices() -> int:
    """Count the CUDA devices that torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
