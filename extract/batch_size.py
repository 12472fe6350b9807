"""The number of images of a forward pass is measured, for ``--batch-size auto``."""

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

logger = logging.getLogger(__name__)

# Images of a forward pass by device. 16 was the fastest size for ResNet-50 and ViT-S/16 on the CPUs measured;
# 128 keeps a GPU busy. The sizes are fixed, because a size that was measured at the start would depend on the
# load of the machine, and the last bits of features depend on the size.
# No machine with MPS was at hand.
BATCH_SIZES = {"cpu": 16, "cuda": 128, "mps": 32}
CANDIDATES = {"cpu": (8, 16, 32, 64), "cuda": (32, 64, 128, 256, 512), "mps": (8, 16, 32, 64, 128)}
# A larger batch must be this much faster than a smaller one to be worth its memory.
WORTH = 1.03


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
            pixels = rng.integers(0, 256, (size, *backbone.transform.size, 3), dtype=np.uint8)
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
