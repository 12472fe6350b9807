"""Batches move to the device and features back without a wait of the thread that launches the passes.

A CUDA device takes copies and kernels of one stream in the order in which they were launched: the next batch
is copied once the device has computed the batch before. What overlaps is the work of the CPU, which reads,
decodes and launches meanwhile.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from toptune.machine.device_memory import is_out_of_memory

logger = logging.getLogger(__name__)

# Images (b, h, w, 3) of uint8, in main memory or on a device that decoded them.
Pixels = npt.NDArray[np.uint8] | torch.Tensor

# Largest finite value of IEEE 754 binary16.
FLOAT16_LARGEST = 65504


def to_device(pixels: Pixels, device: torch.device) -> torch.Tensor:
    """Move a batch of bytes; the caller does not wait for a copy from pinned memory (`PixelBuffers`)."""
    if isinstance(pixels, torch.Tensor):
        return pixels.to(device)
    return torch.from_numpy(pixels).to(device, non_blocking=device.type == "cuda")


def in_memory(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """Return a batch of bytes in main memory."""
    return pixels.cpu().numpy() if isinstance(pixels, torch.Tensor) else pixels


class PixelBuffers:
    """Makes the arrays that batches are read into.

    Parameters
    ----------
    is_pinned : bool
        Whether the arrays lie in page-locked memory, because a CUDA device is going to fetch them.
    """

    def __init__(self, *, is_pinned: bool) -> None:
        self._is_pinned = is_pinned

    def make(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Make an array of zero bytes."""
        if self._is_pinned:
            try:
                pinned: npt.NDArray[np.uint8] = torch.zeros(shape, dtype=torch.uint8, pin_memory=True).numpy()
                return pinned
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                # The system limits how much memory may be page-locked; other memory holds the same bytes.
                self._is_pinned = False
                logger.warning(
                    "no page-locked memory is left for batches (%s), which are copied to the device more "
                    "slowly",
                    str(error).splitlines()[0],
                )
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


@dataclass(frozen=True)
class BatchTransfer:
    """Arrays of a batch on their way from the device, in one part or in several.

    Attributes
    ----------
    parts : tuple of Transfer
        The parts in the order of their images; several where the batch did not fit into the device's memory.
    pixels : array or Tensor (b, h, w, 3) of uint8
        The batch, held here until the device has fetched it.
    """

    parts: tuple[Transfer, ...]
    pixels: Pixels

    def result(self) -> dict[str, npt.NDArray[np.float32]]:
        """Wait, and return arrays ``(b, dim)`` in main memory by name; see `Transfer.result`."""
        found = [part.result() for part in self.parts]
        if len(found) == 1:
            return found[0]
        # Where a part overflows float16, the array of the whole batch becomes float32.
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


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
