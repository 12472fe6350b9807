"""Pictures a forward pass, by measuring."""

import logging
import time
from collections.abc import Sequence

import torch

from toptune.extract.backbone import Backbone
from toptune.extract.taps import TapArray

logger = logging.getLogger(__name__)

# By device: what the caches of CPUs still hold, and what keeps a GPU busy.
BATCH_SIZES = {"cpu": 16, "cuda": 128}
CANDIDATES = {"cpu": (8, 16, 32, 64), "cuda": (32, 64, 128, 256, 512)}
# A larger batch must be this much faster than a smaller one to be worth its memory.
WORTH = 1.03


def measure_batch_size(backbone: Backbone, arrays: Sequence[TapArray]) -> int:
    """Time forward passes on noise and return the smallest size whose rate is near the best.

    Sizes that do not fit a CUDA device's memory end the search.
    """
    kind = backbone.device.type
    chosen, best = CANDIDATES[kind][0], 0.0
    generator = torch.Generator().manual_seed(0)
    for size in CANDIDATES[kind]:
        pixels = torch.randint(
            0, 256, (size, *backbone.transform.size, 3), dtype=torch.uint8, generator=generator
        )
        try:
            rate = size / min(_seconds(backbone, pixels, arrays) for _ in range(3))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        logger.info("batches of %d: %.1f images/s", size, rate)
        if rate > WORTH * best:
            chosen, best = size, rate
    return chosen


def _seconds(backbone: Backbone, pixels: torch.Tensor, arrays: Sequence[TapArray]) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        outputs = backbone.forward(backbone.transform.normalize(pixels.to(backbone.device)), arrays)
        for output in outputs.values():
            output.sum().item()  # waits for the device
    return time.perf_counter() - start
