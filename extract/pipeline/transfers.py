"""Batches move to the device and features back while the device computes, where the hardware allows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

# Largest finite value of IEEE 754 binary16.
FLOAT16_LARGEST = 65504


def to_device(pixels: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Move a batch of bytes; from pinned memory (`pixel_buffer`) the copy overlaps what the device does."""
    return torch.from_numpy(pixels).to(device, non_blocking=device.type == "cuda")


def pixel_buffer(shape: tuple[int, ...], *, is_pinned: bool) -> npt.NDArray[np.uint8]:
    """Make an array of zero bytes, pinned where a CUDA device is going to fetch it."""
    if is_pinned:
        pinned: npt.NDArray[np.uint8] = torch.zeros(shape, dtype=torch.uint8, pin_memory=True).numpy()
        return pinned
    return np.zeros(shape, dtype=np.uint8)


class Waitable(Protocol):
    """Something to wait for, such as `torch.cuda.Event`."""

    def synchronize(self) -> None:
        """Wait until the device has done everything before the event."""
        ...


@dataclass(frozen=True)
class Transfer:
    """Arrays of a batch on their way from the device.

    Made by `start_transfer`; the device may go on with the next batch until `result` is asked for.
    """

    outputs: Mapping[str, torch.Tensor]
    narrow: Mapping[str, torch.Tensor]
    overflows: Mapping[str, torch.Tensor]
    done: Waitable | None

    def result(self) -> dict[str, npt.NDArray[np.float32]]:
        """Wait, and return arrays ``(b, dim)`` in main memory by name.

        Arrays that are to be float16 come as float16. An array that would overflow stays float32, so that the
        store can name the image.
        """
        if self.done is not None:
            self.done.synchronize()
        found: dict[str, npt.NDArray[np.float32]] = {}
        for name, wide in self.outputs.items():
            overflow = self.overflows.get(name)
            is_narrow = overflow is not None and not bool(overflow)
            found[name] = (self.narrow[name] if is_narrow else wide.cpu()).numpy()
        return found


def start_transfer(outputs: Mapping[str, torch.Tensor], dtypes: Mapping[str, str]) -> Transfer:
    """Convert what is to be float16 on the device, and begin to move everything to main memory."""
    narrow: dict[str, torch.Tensor] = {}
    overflows: dict[str, torch.Tensor] = {}
    kept: dict[str, torch.Tensor] = {}
    is_cuda = any(output.is_cuda for output in outputs.values())
    for name, output in outputs.items():
        if dtypes.get(name) == "float16":
            # The question is answered on the device and fetched later. To ask here would wait for the pass.
            overflows[name] = _fetch((output.abs() > FLOAT16_LARGEST).any(), is_cuda)
            narrow[name] = _fetch(output.to(torch.float16), is_cuda)
            kept[name] = output  # stays on the device, because only an overflow needs it
        else:
            kept[name] = _fetch(output, is_cuda)
    done = None
    if is_cuda:
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        # The event belongs to the device that computes, which with --device cuda:1 is not the current one.
        done.record(torch.cuda.current_stream(next(iter(outputs.values())).device))
    return Transfer(kept, narrow, overflows, done)


def _fetch(values: torch.Tensor, is_cuda: bool) -> torch.Tensor:
    if not is_cuda:
        return values
    # A copy into pageable memory would make the caller wait, whatever `non_blocking` says.
    pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return pinned.copy_(values, non_blocking=True)
