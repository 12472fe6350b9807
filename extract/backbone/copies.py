"""Copies to a CUDA device and back run beside the network, and events time what the device does."""

import contextlib
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

# Types of what leaves a device.
_NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.bool: np.bool_}


class _Lent:
    """Memory that numpy sees as an array; the array and all views of it keep this object alive."""

    def __init__(self, memory: torch.Tensor, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.memory = memory
        self.__array_interface__ = {
            "data": (memory.data_ptr(), False),
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "version": 3,
        }


class StagingRing:
    """Page-locked memory in which batches wait for a copy.

    To lock memory takes milliseconds, and the system limits how much may be locked. A piece is lent again
    once nobody holds the array that it was lent as, nor a view or a tensor of the array. Whoever begins a
    copy holds the array until the copy is done.

    Attributes
    ----------
    n_pieces : int
        Pieces that were locked so far.
    """

    def __init__(self) -> None:
        self.n_pieces = 0
        # The memory, and who has it, by its bytes.
        self._pieces: dict[int, list[tuple[torch.Tensor, weakref.ref[_Lent]]]] = {}

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array in page-locked memory, which holds whatever was there before.

        Raises
        ------
        RuntimeError
            If no more memory can be locked; see `is_out_of_memory`.
        """
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        # Batches of other lengths share pieces. torch locks powers of two too.
        size = 1 << max(0, n_bytes - 1).bit_length()
        pieces = self._pieces.setdefault(size, [])
        place = next((i for i, (_, lent) in enumerate(pieces) if lent() is None), len(pieces))
        if place < len(pieces):
            memory = pieces[place][0]
        else:
            memory = torch.empty(size, dtype=torch.uint8, pin_memory=True)
            self.n_pieces += 1
        lent = _Lent(memory, shape, dtype)
        pieces[place : place + 1] = [(memory, weakref.ref(lent))]
        return np.asarray(lent)


class DeviceTimer:
    """Events of a CUDA device before and behind parts of its work, which the device's own clock times.

    Nobody waits for them: the seconds are asked for when the work is known to be done. Kernels that are not
    launched in time are waited for inside of a part, and counted.
    """

    def __init__(self) -> None:
        self._marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what the current stream is given inside."""
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record()
        yield
        ended.record()
        self._marks.append((name, began, ended))

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each part; the work must be done."""
        found: dict[str, float] = {}
        for name, began, ended in self._marks:
            found[name] = found.get(name, 0.0) + began.elapsed_time(ended) / 1e3
        return found


class CopyStreams:
    """Two streams beside that of the network: one for batches on their way in, one for features out.

    Work of one stream is done in order, so that a copy in the network's own stream would begin when all
    passes that were launched before have ended. In streams of their own, the pixels of the next batch arrive
    while the network computes this one, and features leave while it computes the next.

    Parameters
    ----------
    device : torch.device
        A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._ring = StagingRing()
        self._into = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._out = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def to_device(self, values: torch.Tensor) -> torch.Tensor:
        """Begin a copy to the device, for which work launched later in the current stream waits.

        The caller holds `values`, in page-locked memory, until that work is done.
        """
        network = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._into):
            there = values.to(self.device, non_blocking=True)
        network.wait_stream(self._into)
        # The memory belongs to the stream of the copy, and must not be given away before the network is done.
        there.record_stream(network)
        return there

    def to_host(self, values: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], torch.cuda.Event]:
        """Begin copies to main memory of what the current stream computes.

        Returns
        -------
        copies : list of Tensor
            Tensors in page-locked memory; they hold the values once the event is done.
        done : torch.cuda.Event
            Event behind the last copy.
        """
        self._out.wait_stream(torch.cuda.current_stream(self.device))
        copies = []
        with torch.cuda.stream(self._out):
            for each in values:
                # A copy into memory that is not locked would make the caller wait.
                here = torch.from_numpy(self._ring.take(tuple(each.shape), _NUMPY[each.dtype]))
                copies.append(here.copy_(each, non_blocking=True))
                each.record_stream(self._out)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._out)
        return copies, done
