"""A batch of pixels goes through one forward pass, and the results begin to move to main memory."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from toptune.extract.backbone.backbone import Backbone
from toptune.extract.backbone.taps import TapArray
from toptune.extract.pipeline.transfers import Transfer, start_transfer, to_device

logger = logging.getLogger(__name__)


def forward_pixels(
    backbone: Backbone,
    pixels: npt.NDArray[np.uint8],
    arrays: Sequence[TapArray],
    *,
    dtypes: Mapping[str, str] | None = None,
    may_halve: bool = True,
) -> Transfer:
    """Compute arrays of a batch of pixels ``(b, h, w, 3)``.

    Parameters
    ----------
    backbone : Backbone
        The network; its transform normalizes the pixels on the device.
    pixels : array (b, h, w, 3) of uint8
        Images as the backbone's transform resizes and crops them.
    arrays : sequence of TapArray
        Arrays that are computed.
    dtypes : mapping of str to str, optional
        Type of each array in the store: float16 arrays are converted before they leave the device, so that
        half as many bytes travel. By default every array is float32.
    may_halve : bool
        Cut a batch that does not fit into a CUDA device's memory in halves, with a warning. Measurements of
        batch sizes set False, because halves would hide that a size does not fit.

    Returns
    -------
    Transfer
        The values on their way to main memory.

    Raises
    ------
    torch.OutOfMemoryError
        If not even one image fits, or the batch does not and must not be cut.
    """

    def compute(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return backbone.forward(backbone.transform.normalize(pixels), arrays)

    # Bytes move to the device, and become floats there: a float32 image is four times as large on its way.
    with torch.inference_mode():
        there = to_device(pixels, backbone.device)
        return start_transfer(in_halves(compute, there) if may_halve else compute(there), dtypes or {})


def in_halves(
    compute: Callable[[torch.Tensor], dict[str, torch.Tensor]], pixels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Compute values of a batch at once, or in halves where it does not fit into the device's memory.

    Parameters
    ----------
    compute : callable
        From images ``(b, ...)`` to tensors ``(b, ...)`` by name.
    pixels : Tensor (b, ...)

    Raises
    ------
    torch.OutOfMemoryError
        If not even one image fits.
    """
    try:
        return compute(pixels)
    except torch.OutOfMemoryError:
        if len(pixels) == 1:
            raise
    # The halves are computed outside of the handler: the error's traceback keeps the activations of the
    # failed pass alive until the handler ends, and the device's memory would stay full.
    logger.warning("%d images at once do not fit the device's memory; computing halves", len(pixels))
    torch.cuda.empty_cache()
    halves = [in_halves(compute, half) for half in pixels.chunk(2)]
    return {name: torch.cat([half[name] for half in halves]) for name in halves[0]}
