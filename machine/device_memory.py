"""A full device is told in one sentence: which device, how much memory is free, and what to change."""

import contextlib
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING

from toptune.errors import DeviceMemoryError
from toptune.machine.devices import AUTO

if TYPE_CHECKING:  # the command line asks about every failure, also of commands that need no torch
    import torch

# torch has a class of its own only for its caching allocator. cuBLAS and cuDNN take workspaces of their own,
# page-locked memory is the driver's, and the allocator of main memory raises a plain RuntimeError.
_WORDS = ("out of memory", "STATUS_ALLOC_FAILED", "DEVICE_ALLOCATION_FAILED", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch failed for lack of memory: a device's, page-locked memory, or main memory."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _WORDS)


def full_memory(error: BaseException, device: "str | torch.device | None" = None) -> str:
    """Say which memory was full, and how much of it is free.

    Parameters
    ----------
    error : Exception
        An error for which `is_out_of_memory` holds.
    device : str or torch.device, optional
        Device that computed; by default the current CUDA device, if the error is about one.
    """
    import torch

    where = torch.device("cuda" if device is None or str(device) == AUTO else device)
    if "can't allocate memory" in str(error) or where.type == "cpu":
        return "main memory is full"
    free = ""
    if where.type == "cuda":
        # A driver that has just failed may fail again.
        with contextlib.suppress(RuntimeError, AssertionError):
            free_bytes, total_bytes = torch.cuda.mem_get_info(where)
            held = torch.cuda.memory_reserved(where)
            free = (
                f" ({free_bytes / 2**30:.1f} of {total_bytes / 2**30:.1f} GiB are free, and this process "
                f"holds {held / 2**30:.1f} GiB)"
            )
    # An error of the driver may be about page-locked memory, which only the driver can tell apart.
    name = "the device" if device is None else str(where)
    is_device = isinstance(error, torch.OutOfMemoryError)
    locked = "" if is_device else ", or the page-locked memory for copies to it,"
    return f"the memory of {name}{locked} is full{free}"


@contextlib.contextmanager
def explained_out_of_memory(what: str, *, device: "str | torch.device | None", knobs: str) -> Iterator[None]:
    """Turn torch's errors for lack of memory into one that tells what to change.

    Parameters
    ----------
    what : str
        What was being done, as the beginning of a sentence: ``"training"``.
    device : str or torch.device or None
        Device that computes; None is the CPU.
    knobs : str
        What makes the work smaller, as an imperative: ``"take fewer images at once (--batch-size)"``.

    Raises
    ------
    DeviceMemoryError
        In place of `torch.OutOfMemoryError` and its kin; other errors pass.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        where = "cpu" if device is None else str(device)
        elsewhere = "" if where == "cpu" else ", or compute on the CPU (--device cpu)"
        full = full_memory(error, where)
        # The traceback would keep the tensors of the failed work alive, and the memory full for what follows.
        traceback.clear_frames(error.__traceback__)
        raise DeviceMemoryError(f"{what}: {full}; {knobs}{elsewhere}") from error
