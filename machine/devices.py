"""Device and arithmetic are chosen here, by the same rules for extraction and training."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from toptune.errors import InputError
from toptune.options import check_choice, choices
from toptune.text import counted

if TYPE_CHECKING:  # a name is checked without torch, whose import takes seconds
    import torch

# Told what `auto` takes, as ``INFO``, with the device and the reason as arguments of the record. A program
# that wants to show the choice adds a handler, as the command line does.
device_logger = logging.getLogger(__name__)

AUTO = "auto"
_CUDA = re.compile(r"cuda(?::([0-9]+))?\Z")
DEVICES = (AUTO, "cpu", "cuda", "mps")
# Devices that `auto` may stand for.
CHOSEN = ("cpu", "cuda", "mps")
# Why MPS, Apple's GPU, cannot fit a head.
NO_FLOAT64 = "heads are fitted in float64, which MPS lacks"
# Why MPS cannot compute in bf16 or fp16.
ONLY_FP32 = "toptune computes in fp32 alone on MPS"
# Precisions of 16 bits.
HALF = ("bf16", "fp16")
# CUDA devices of this compute capability and above (Volta) multiply fp16 matrices in hardware.
FP16_CAPABILITY = (7, 0)
# Flags of x86 CPUs that multiply bf16 in hardware; elsewhere bf16 is emulated, and slower than fp32.
CPU_FLAGS = ("amx_bf16", "avx512_bf16")


def check_device_name(device: object, *, is_for_head: bool = False) -> None:
    """Refuse what is no name of a device, without torch; whether there is such a device is not looked up.

    Parameters
    ----------
    device : object
        What was given as the name.
    is_for_head : bool
        Whether the device is to fit a head, so that the message does not offer MPS.

    Raises
    ------
    InputError
        If the name is unknown or no text.
    """
    names = [name for name in DEVICES if not (is_for_head and name == "mps")]
    if not isinstance(device, str):
        raise InputError(
            f"device is {device!r}, which is no name; {choices('', names)} or cuda:N", option="device"
        )
    if is_for_head and "," in device:
        n_named = len(device.split(","))
        raise InputError(
            f"device {device!r} names {n_named} devices, and a head is fitted on one; several GPUs share the "
            f"rows of 'falkon' or 'ridge' with --dask local:{n_named} --device cuda "
            "(CUDA_VISIBLE_DEVICES says which)",
            option="device",
        )
    if device not in DEVICES and not _CUDA.match(device):
        raise InputError(f"device {device!r} is unknown; {choices(device, names)} or cuda:N", option="device")


def check_device_names(devices: object) -> None:
    """Refuse what is neither the name of a device nor several with commas between them, without torch.

    Raises
    ------
    InputError
        If a name is unknown or no text, or ``auto`` is one of several.
    """
    names = [name.strip() for name in devices.split(",")] if isinstance(devices, str) else [devices]
    for name in names:
        check_device_name(name)
    if len(names) > 1 and AUTO in names:
        raise InputError(
            f"device {devices!r}: auto stands for all devices that are taken; name each of several",
            option="device",
        )


def resolve_device(device: str, *, not_on_mps: str | None = None) -> "torch.device":
    """Return the torch device of a name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    ``auto`` is CUDA where there is a CUDA device, else MPS where that can do the work, else the CPU.

    Parameters
    ----------
    device : str
        The name.
    not_on_mps : str, optional
        Why MPS cannot do the work; by default MPS can.

    Raises
    ------
    InputError
        If the name is unknown, this machine has no such device, or the device cannot do the work; no other
        device is taken in its place.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    >>> resolve_device("tpu")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    toptune.errors.InputError: device 'tpu' is unknown; did you mean 'cpu'? Choose one of auto, cpu, cuda, ...
    """
    check_device_name(device, is_for_head=not_on_mps == NO_FLOAT64)
    import torch

    if device == AUTO:
        return torch.device(_told(*choose_device(not_on_mps)))
    match = _CUDA.match(device)
    is_there = has_mps() if device == "mps" else match is None or int(match[1] or 0) < _count_devices()
    if not is_there:
        seen = "no MPS device" if device == "mps" else counted(_count_devices(), "CUDA device")
        raise InputError(
            f"device {device!r} is not there: torch sees {seen}; use --device {_devices_there()}",
            option="device",
        )
    if device == "mps" and not_on_mps is not None:
        raise InputError(
            f"device 'mps' cannot do this: {not_on_mps}; use --device cpu, or auto", option="device"
        )
    return torch.device(device)


def settle_device(
    device: str,
    *,
    not_on_mps: str | None = None,
    cpu_because: str | None = None,
    small_because: str | None = None,
) -> str:
    """Return the name that ``auto`` stands for; another name is returned as it is.

    Parameters
    ----------
    device, not_on_mps
        See `resolve_device`.
    cpu_because : str, optional
        Why the work runs on the CPU wherever it is; torch is then not imported.
    small_because : str, optional
        Why the work is too small for a CUDA device: ``auto`` then stands for the CPU where it would be CUDA.
    """
    if device != AUTO:
        return device
    if cpu_because is not None:
        return _told("cpu", cpu_because)
    if small_because is not None and _count_devices():
        return _told("cpu", small_because)
    return str(resolve_device(device, not_on_mps=not_on_mps))


def settle_head_device(
    device: str | None, *, cpu_because: str | None = None, small_because: str | None = None
) -> str | None:
    """Return the name that ``auto`` stands for where a head is fitted; see `settle_device`."""
    if device is None:
        return None
    return settle_device(device, not_on_mps=NO_FLOAT64, cpu_because=cpu_because, small_because=small_because)


def device_of(device: "str | torch.device | None") -> "torch.device":
    """Return the device to fit a head on, where naming none means the CPU; see `resolve_device`."""
    return resolve_device("cpu" if device is None else str(device), not_on_mps=NO_FLOAT64)


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


def why_not_mps(precision: object) -> str | None:
    """Say why MPS cannot compute in a precision; None if it can."""
    return ONLY_FP32 if precision in HALF else None


def resolve_precision(precision: str, device: "torch.device", *, has_fp16: bool = True) -> str:
    """Turn ``auto`` into a precision of 16 bits that the device multiplies in hardware, or into ``fp32``.

    ``bf16`` comes first, because it has the range of float32. GPUs before Ampere have ``fp16`` alone. CPUs
    compute in ``fp16`` too, several times as slowly as in ``fp32``: ``auto`` never takes it there.

    Parameters
    ----------
    precision : str
        ``fp32``, ``bf16``, ``fp16`` or ``auto``.
    device : torch.device
        The device that computes.
    has_fp16 : bool
        Whether the work can be done in ``fp16``.

    Raises
    ------
    InputError
        If the name is unknown, or the device does not compute in that precision.
    """
    known = ("fp32", "bf16", "fp16", "auto") if has_fp16 else ("fp32", "bf16", "auto")
    check_choice(precision, known, option="precision")
    if device.type == "mps":
        if precision in HALF:
            raise InputError(
                f"precision {precision!r} on device 'mps': {ONLY_FP32}; use --precision fp32, or --device "
                "cpu",
                option="precision",
            )
        return "fp32"
    if precision != "auto":
        return precision
    if device.type == "cuda":
        import torch

        # torch's own question is asked of the current device, which need not be the one that is named, and
        # counts devices that emulate bf16. ROCm's devices have bf16 and other numbers for their capability.
        with torch.cuda.device(device):
            if torch.cuda.is_bf16_supported(including_emulation=False):
                return "bf16"
        is_fast = torch.version.hip is None and torch.cuda.get_device_capability(device) >= FP16_CAPABILITY
        return "fp16" if has_fp16 and is_fast else "fp32"
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


def has_mps() -> bool:
    """Return whether torch can use Apple's GPU."""
    import torch

    return torch.backends.mps.is_available()


def choose_device(not_on_mps: str | None = None) -> tuple[str, str]:
    """Return the device that ``auto`` stands for, and why; see `resolve_device`."""
    import torch

    if count := _count_devices():
        name = torch.cuda.get_device_name(0)
        return "cuda", name if count == 1 else f"{count} CUDA devices, the first is {name}"
    if not has_mps():
        return "cpu", "torch sees no GPU here"
    return ("mps", "Apple's GPU") if not_on_mps is None else ("cpu", not_on_mps)


def _told(device: str, reason: str) -> str:
    device_logger.info("device auto takes %s: %s", device, reason)
    return device


def _devices_there() -> str:
    """List the devices of this machine as one would name them."""
    count = _count_devices()
    names = ["cpu", *(["mps"] if has_mps() else [])]
    names += [f"one of cuda:0 to cuda:{count - 1}"] if count else []
    return " or ".join(names)


def _count_devices() -> int:
    """Count the CUDA devices that torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
