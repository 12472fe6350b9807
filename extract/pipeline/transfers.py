"""Batches move to the device and features back without a wait of the thread that launches the passes.

On a CUDA device copies run in streams of their own (`CopyStreams`): the next batch arrives while the network
computes this one. The only wait for a batch is that for its features.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from toptune.extract.backbone.copies import CopyStreams, DeviceTimer, StagingRing
from toptune.machine.device_memory import is_out_of_memory

logger = logging.getLogger(__name__)

# Images (b, h, w, 3) of uint8, in main memory or on a device that decoded them.
Pixels = npt.NDArray[np.uint8] | torch.Tensor

# Largest finite value of IEEE 754 binary16.
FLOAT16_LARGEST = 65504


def to_device(pixels: Pixels, device: torch.device, copies: CopyStreams | None = None) -> torch.Tensor:
    """Move a batch of bytes; the caller does not wait for a copy from pinned memory (`PixelBuffers`).

    With `copies`, the copy runs beside the network, and the caller holds `pixels` until the pass is done.
    """
    if isinstance(pixels, torch.Tensor):
        return pixels.to(device)
    here = torch.from_numpy(pixels)
    return here.to(device, non_blocking=device.type == "cuda") if copies is None else copies.to_device(here)


def in_memory(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """Return a batch of bytes in main memory."""
    return pixels.cpu().numpy() if isinstance(pixels, torch.Tensor) else pixels


class PixelBuffers:
    """Makes the arrays that batches are read into.

    Parameters
    ----------
    is_pinned : bool
        Whether the arrays lie in page-locked memory, because a CUDA device is going to fetch them. The memory
        of an array is used again once nobody holds the array.
    """

    def __init__(self, *, is_pinned: bool) -> None:
        self._ring = StagingRing() if is_pinned else None

    def make(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Make an array, of zeros or, in page-locked memory, of whatever an earlier batch left there."""
        if self._ring is not None:
            try:
                return self._ring.take(shape, np.uint8)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                # The system limits how much memory may be page-locked; other memory holds the same bytes.
                self._ring = None
                logger.warning(
                    "no page-locked memory is left for batches (%s), which are copied to the device more "
                    "slowly [TT109]",
                    str(error).splitlines()[0],
                )
        return np.zeros(shape, dtype=np.uint8)


class Waitable(Protocol):
    """Something to wait for, such as `torch.cuda.Event`."""

    def query(self) -> bool:
        """Say whether the device has done everything before the event."""
        ...

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
    timer: DeviceTimer | None = None

    def is_done(self) -> bool:
        """Say whether everything has arrived."""
        return self.done is None or self.done.query()

    def wait(self) -> None:
        """Wait until everything has arrived."""
        if self.done is not None and not self.done.query():
            self.done.synchronize()

    def result(self) -> dict[str, npt.NDArray[np.float32]]:
        """Wait, and return arrays ``(b, dim)`` in main memory by name.

        Arrays that are to be float16 come as float16. An array that would overflow stays float32, so that the
        store can name the image.
        """
        self.wait()
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

    def is_done(self) -> bool:
        """Say whether everything has arrived."""
        return all(part.is_done() for part in self.parts)

    def wait(self) -> None:
        """Wait until everything has arrived."""
        for part in self.parts:
            part.wait()

    def device_seconds(self) -> dict[str, float]:
        """Return what a CUDA device took for the pass and, in it, for the poolings; nothing elsewhere.

        The values must have arrived.
        """
        found: dict[str, float] = {}
        for part in self.parts:
            for name, seconds in ({} if part.timer is None else part.timer.seconds()).items():
                found[name] = found.get(name, 0.0) + seconds
        return found

    def result(self) -> dict[str, npt.NDArray[np.float32]]:
        """Wait, and return arrays ``(b, dim)`` in main memory by name; see `Transfer.result`."""
        found = [part.result() for part in self.parts]
        if len(found) == 1:
            return found[0]
        # Where a part overflows float16, the array of the whole batch becomes float32.
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def start_transfer(
    outputs: Mapping[str, torch.Tensor],
    dtypes: Mapping[str, str],
    copies: CopyStreams | None = None,
    timer: DeviceTimer | None = None,
) -> Transfer:
    """Convert what is to be float16 on the device, and begin to move everything to main memory.

    Parameters
    ----------
    outputs : mapping of str to Tensor (b, dim)
        Arrays of float32.
    dtypes : mapping of str to str
        Types in the store; arrays without one stay float32.
    copies : CopyStreams, optional
        Streams of the device that computes, if the device is a CUDA device.
    timer : DeviceTimer, optional
        Has timed the pass.
    """
    narrow: dict[str, torch.Tensor] = {}
    overflows: dict[str, torch.Tensor] = {}
    for name, output in outputs.items():
        if dtypes.get(name) == "float16":
            # The question is answered on the device and fetched later. To ask here would wait for the pass.
            overflows[name] = (output.abs() > FLOAT16_LARGEST).any()
            narrow[name] = output.to(torch.float16)
    if copies is None:
        return Transfer(dict(outputs), narrow, overflows, None)
    # What is narrowed stays on the device, because only an overflow needs it.
    wide = {name: output for name, output in outputs.items() if name not in narrow}
    parts = (narrow, overflows, wide)
    moved, done = copies.to_host([values for part in parts for values in part.values()])
    arriving = iter(moved)
    narrow, overflows, wide = ({name: next(arriving) for name in part} for part in parts)
    return Transfer({**outputs, **wide}, narrow, overflows, done, timer)
