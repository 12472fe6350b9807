"""Where a model runs, and in which arithmetic."""

import re
from pathlib import Path

import torch

from toptune.errors import InputError

_CUDA = re.compile(r"cuda(?::([0-9]+))?\Z")
# What makes bf16 faster than fp32 on x86; without either it is emulated.
CPU_FLAGS = ("amx_bf16", "avx512_bf16")


def resolve_device(device: str) -> torch.device:
    """Return the device of that name.

    Raises
    ------
    InputError
        If the name is unknown or this machine has no such device; nothing else is taken in its place.
    """
    if device == "cpu":
        return torch.device("cpu")
    match = _CUDA.match(device)
    if not match:
        raise InputError(f"device {device!r} is none of cpu, cuda, cuda:N")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(match[1] or 0) >= count:
        raise InputError(f"device {device!r} is not there: torch sees {count} CUDA devices; use --device cpu")
    return torch.device(device)


def list_devices(device: str) -> list[str]:
    """Name each device that is meant: ``cuda`` is all that are visible, and commas stand between several.

    Raises
    ------
    InputError
        If a name is unknown or this machine has no such device.
    """
    if device == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [f"cuda:{i}" for i in range(count)] if count > 1 else [device]
    names = [name.strip() for name in device.split(",")]
    if len(names) > 1:
        for name in names:
            resolve_device(name)
    return names


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turn ``auto`` into ``bf16`` where the device computes in it, and ``fp32`` elsewhere.

    Raises
    ------
    InputError
        If the name is unknown.
    """
    if precision not in ("fp32", "bf16", "auto"):
        raise InputError(f"precision {precision!r} is none of fp32, bf16, auto")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if has_fast_bf16() else "fp32"


def has_fast_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Say whether this CPU multiplies bf16 matrices in hardware."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return any(flag in flags for flag in CPU_FLAGS)


def device_of(device: str | torch.device | None) -> torch.device:
    """Return the device to compute on: the one named, else the CPU."""
    try:
        chosen = torch.device("cpu" if device is None else device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is unknown to torch: {error}") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {device!r} was asked for, but torch finds no CUDA device; use 'cpu'")
    return chosen
