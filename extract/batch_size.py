"""The number of images of a forward pass: what a device holds, or with ``auto`` what is fastest."""

import gc
import logging
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from toptune.extract.backbone.backbone import Backbone
from toptune.extract.backbone.taps import TapArray
from toptune.extract.pipeline.forwarding import forward_pixels
from toptune.extract.pipeline.streams import Streams, count_streams
from toptune.machine.device_memory import is_out_of_memory
from toptune.machine.memory import shown_bytes

logger = logging.getLogger(__name__)

# Images of a forward pass by device. 16 was the fastest size for ResNet-50 and ViT-S/16 on the CPUs measured;
# 128 keeps a GPU busy, and is the most that is taken where the memory of a GPU allows. The sizes are fixed,
# because a size that was measured at the start would depend on the load of the machine, and the last bits of
# features depend on the size.
# No machine with MPS was at hand.
BATCH_SIZES = {"cpu": 16, "cuda": 128, "mps": 32}
CANDIDATES = {"cpu": (8, 16, 32, 64), "cuda": (32, 64, 128, 256, 512), "mps": (8, 16, 32, 64, 128)}
# Part of a CUDA device's memory that a pass may take. The rest is for what torch holds in pieces of other
# sizes, for batches on their way, and for what else runs there.
SHARE = 0.7
# Images of the passes by which the memory of an image is measured.
_FEW, _MORE = 1, 8
# A larger batch must be this much faster than a smaller one to be worth its memory.
WORTH = 1.03


def default_batch_size(backbone: Backbone, arrays: Sequence[TapArray]) -> int:
    """Return the fixed size of the kind of device, or on a CUDA device with less memory a size that fits.

    The peaks of passes over few images tell what an image takes. They are held against all of the device's
    memory, not against what is free at the moment: two runs of one command must not differ. The size is a
    power of two.

    Raises
    ------
    DeviceMemoryError
        If not even one image fits.
    """
    device, most = backbone.device, BATCH_SIZES[backbone.device.type]
    if device.type != "cuda":
        return most
    # What earlier networks left, and nobody uses, would leave the device between two passes.
    gc.collect()
    _pass_bytes(backbone, arrays, _FEW)  # libraries take their memory here
    few, more = (_pass_bytes(backbone, arrays, size) for size in (_FEW, _MORE))
    if backbone.batch_limit.images is not None:
        return min(most, backbone.batch_limit.images)
    an_image = max(1, (more - few) // (_MORE - _FEW))
    weights = sum(each.nbytes for each in (*backbone.model.parameters(), *backbone.model.buffers()))
    room = SHARE * torch.cuda.mem_get_info(device)[1] - weights
    size = min(most, 1 << max(0, int(max(1, room // an_image)).bit_length() - 1))
    told = logger.warning if size < most else logger.info
    told(
        "%s: batches of %d, because an image takes %s of the %s of %s; --batch-size changes that [TT113]",
        backbone.given,
        size,
        shown_bytes(an_image),
        shown_bytes(torch.cuda.mem_get_info(device)[1]),
        device,
    )
    return size


def _pass_bytes(backbone: Backbone, arrays: Sequence[TapArray], size: int) -> int:
    """Return the most bytes of the device that tensors of a pass take, beside what lies there before."""
    pixels = np.zeros((size, *backbone.transform.size, backbone.transform.n_channels), dtype=np.uint8)
    torch.cuda.reset_peak_memory_stats(backbone.device)
    before = torch.cuda.memory_allocated(backbone.device)
    forward_pixels(backbone, pixels, arrays).result()
    return torch.cuda.max_memory_allocated(backbone.device) - before


def measure_batch_size(backbone: Backbone, arrays: Sequence[TapArray]) -> int:
    """Time passes on noise, side by side as in `extract`; return the smallest size with nearly the best rate.

    A size that does not fit into the memory of a CUDA device ends the search. Where even the smallest
    candidate does not fit, the size is one that does.
    """
    kind = backbone.device.type
    chosen, best = CANDIDATES[kind][0], 0.0
    rng = np.random.default_rng(0)
    with Streams(count_streams(backbone)) as streams:
        for size in CANDIDATES[kind]:
            shape = (size, *backbone.transform.size, backbone.transform.n_channels)
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            seconds = _least_seconds(backbone, pixels, arrays, streams)
            if seconds is None:
                torch.cuda.empty_cache()
                break
            rate = size * streams.n / seconds
            logger.info("batches of %d: %.1f images/s", size, rate)
            if rate > WORTH * best:
                chosen, best = size, rate
    if not best:
        # Not even the first candidate fits: the size is that of the parts that it has to be cut into.
        forward_pixels(backbone, pixels, arrays).result()
        chosen = backbone.batch_limit.images or chosen
    return chosen


def _least_seconds(
    backbone: Backbone, pixels: npt.NDArray[np.uint8], arrays: Sequence[TapArray], streams: Streams
) -> float | None:
    """Time a size of batches three times; None if the size does not fit the device's memory."""
    try:
        # The least of three times is the time without other load on the machine, and without the warm-up.
        return min(_seconds(backbone, pixels, arrays, streams) for _ in range(3))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None


def _seconds(
    backbone: Backbone, pixels: npt.NDArray[np.uint8], arrays: Sequence[TapArray], streams: Streams
) -> float:
    start = time.perf_counter()
    work = partial(forward_pixels, backbone, pixels, arrays, may_cut=False)
    for launched in [streams.launch(work) for _ in range(streams.n)]:
        transfer, _ = launched.result()
        transfer.result()
    return time.perf_counter() - start
