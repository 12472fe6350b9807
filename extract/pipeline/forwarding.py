"""A batch of pixels goes through one forward pass, and the results begin to move to main memory."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import torch

from toptune.costs.stages import PipelineProfile, timed
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.backbone.copies import DeviceTimer
from toptune.extract.backbone.forward import Around
from toptune.extract.backbone.taps import TapArray
from toptune.extract.pipeline.transfers import BatchTransfer, Pixels, Transfer, start_transfer, to_device
from toptune.store.arrays.unit_values import all_finite


def forward_pixels(
    backbone: Backbone,
    pixels: Pixels,
    arrays: Sequence[TapArray],
    *,
    dtypes: Mapping[str, str] | None = None,
    may_cut: bool = True,
    profile: PipelineProfile | None = None,
) -> BatchTransfer:
    """Compute arrays of a batch of pixels ``(b, h, w, 3)``.

    Parameters
    ----------
    backbone : Backbone
        The network; its transform normalizes the pixels on the device, and its `batch_limit` remembers how
        many images fit the device's memory.
    pixels : array or Tensor (b, h, w, 3) of uint8
        Images as the backbone's transform resizes and crops them.
    arrays : sequence of TapArray
        Arrays that are computed.
    dtypes : mapping of str to str, optional
        Type of each array in the store: float16 arrays are converted before they leave the device, so that
        half as many bytes travel. By default every array is float32.
    may_cut : bool
        Cut a batch that does not fit into the device's memory into parts, with a warning. Measurements of
        batch sizes set False, because parts would hide that a size does not fit.
    profile : PipelineProfile, optional
        Measures the pass and the poolings, or on a CUDA device how long they are launched; see
        `BatchTransfer.device_seconds` for what the device takes.

    Returns
    -------
    BatchTransfer
        The values on their way to main memory.

    Raises
    ------
    DeviceMemoryError
        If not even one image fits.
    RuntimeError
        If the batch does not fit and must not be cut; see `is_out_of_memory`.
    """

    # All that takes memory of the device is done here, so that a part can be tried as a whole.
    def work(pixels: Pixels) -> Transfer:
        # Bytes move to the device, and become floats there: a float32 image is four times as large on its
        # way.
        timer = None if backbone.copies is None else DeviceTimer()
        with timed(profile, "forward" if timer is None else "launch", len(pixels)):
            there = to_device(pixels, backbone.device, backbone.copies)
            with nullcontext() if timer is None else timer.part("forward"):
                there = backbone.transform.normalize(there)
                outputs = backbone.forward(there, arrays, _around_pooling(profile, timer))
        return start_transfer(outputs, dtypes or {}, backbone.copies, timer)

    with torch.inference_mode():
        if not may_cut:
            return BatchTransfer((work(pixels),), pixels)
        parts = backbone.batch_limit.compute(work, pixels, backbone.device, one=one_pass(pixels))
        return BatchTransfer(tuple(parts), pixels)


def _around_pooling(profile: PipelineProfile | None, timer: DeviceTimer | None) -> Around | None:
    """Measure poolings apart from the pass around them, where there is a profile."""
    if profile is None:
        return None
    if timer is not None:
        return lambda _: timer.part("pool")
    return lambda n_images: timed(profile, "pool", n_images, within="forward")


def find_overflows(
    backbone: Backbone, values: Mapping[str, npt.NDArray[np.floating]]
) -> tuple[str, npt.NDArray[np.intp]]:
    """Find images whose features left the range of fp16 on their way through a network of that precision.

    Parameters
    ----------
    backbone : Backbone
        The network; only one in fp16 is looked at.
    values : mapping of str to array (b, dim)
        Features of a batch of images that could be read.

    Returns
    -------
    reason : str
        What happened and what to do, as the end of a sentence.
    places : array (k,) of int
        Places in the batch, ascending.
    """
    at = np.zeros(0, dtype=np.intp)
    if backbone.recipe.precision == "fp16":
        odd = [~np.isfinite(found).all(axis=1) for found in values.values() if not all_finite(found)]
        at = np.flatnonzero(np.any(odd, axis=0)) if odd else at
    return "left the range of fp16, which ends at 65504; use --precision fp32, or bf16", at


def one_pass(pixels: Pixels) -> str:
    """Name the least work of a forward pass, for the message that it does not fit."""
    return f"a forward pass of 1 image of {pixels.shape[1]} x {pixels.shape[2]} pixels"
