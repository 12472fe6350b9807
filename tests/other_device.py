"""Existing tests on another device: ``pytest --on cuda FILES``, or ``pytest --on fake-cuda FILES`` anywhere.

Wherever a test leaves the device at its default or calls it ``cpu``, estimators, extraction and fine-tuning
compute on the device of ``--on``. Tests that make tensors of their own compute with them on the CPU, as ever,
and so do other processes that a test starts. A test that is about the CPU itself may fail here without a
fault of the program.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch

from toptune.machine.devices import device_of, resolve_device

_device_of, _resolve_device = device_of, resolve_device


def use_device() -> None:
    """Let CUDA take the CPU's place wherever toptune looks up a device by its name."""

    def of(device: str | torch.device | None) -> torch.device:
        return _device_of("cuda" if device in (None, "cpu") else device)

    def resolve(device: str, **options: Any) -> torch.device:
        return _resolve_device("cuda" if device == "cpu" else device, **options)

    # Modules that were loaded keep the function that they imported; later ones will import from those.
    taking: tuple[tuple[Callable[..., Any], Callable[..., Any]], ...] = (
        (_device_of, of),
        (_resolve_device, resolve),
    )
    for name, module in list(sys.modules.items()):
        if name.startswith("toptune."):
            for attribute, value in list(vars(module).items()):
                for old, new in taking:
                    if value is old:
                        setattr(module, attribute, new)
