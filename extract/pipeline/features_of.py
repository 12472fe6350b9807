"""Features of any images, read and computed as an extraction does it, without a store."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from toptune.extract.backbone.backbone import Backbone
from toptune.extract.backbone.taps import TapArray
from toptune.extract.images.decode import MAX_PIXELS
from toptune.extract.images.source import ImageBytes
from toptune.extract.pipeline.forwarding import forward_pixels
from toptune.extract.pipeline.reader import Batch, BatchReader
from toptune.extract.pipeline.streams import Streams, count_streams
from toptune.extract.pipeline.transfers import Transfer
from toptune.machine.ahead import ahead


@dataclass(frozen=True, kw_only=True)
class FeatureBatch:
    """Features of a batch of images.

    Attributes
    ----------
    rows : array (k,) of int
        Row numbers of the images that could be used, ascending.
    values : mapping of str to array (k, dim) of float32
        Features by array name; empty where no image of the batch could be used.
    failed : mapping of int to str
        Row number to reason, for each image of the batch that could not be used.
    """

    rows: npt.NDArray[np.intp]
    values: Mapping[str, npt.NDArray[np.float32]]
    failed: Mapping[int, str]


def features_of(
    source: ImageBytes,
    n_images: int,
    backbone: Backbone,
    arrays: Sequence[TapArray],
    *,
    batch_size: int = 32,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[FeatureBatch]:
    """Compute features of images, batch after batch, while the next images are read and decoded.

    Reading, decoding, resizing and the forward passes are those of `toptune.extract.extract`: threads read a
    few batches ahead, passes run side by side on a CPU, and a batch that does not fit into a CUDA device's
    memory is computed in halves. Images that cannot be used are left out of the forward pass.

    Parameters
    ----------
    source : ImageBytes
        Where images come from; an `ImageSource` or anything else with its ``read``.
    n_images : int
        Number of images; rows 0 to ``n_images - 1`` are read.
    backbone : Backbone
        The network, with the transform of its images.
    arrays : sequence of TapArray
        What is computed; see `Backbone.arrays` and `Backbone.resolve`.
    batch_size : int
        Images of a forward pass.
    workers : int, optional
        Threads that read and decode; by default one a CPU, at most 4.
    max_pixels : int
        Larger images count as unreadable.

    Yields
    ------
    FeatureBatch
        In the order of the rows.
    """
    slices = [
        slice(start, min(start + batch_size, n_images)) for start in range(0, n_images, max(1, batch_size))
    ]
    with ExitStack() as stack:
        reader = stack.enter_context(
            BatchReader(
                source,
                [backbone.transform],
                workers=workers or min(4, os.cpu_count() or 1),
                max_pixels=max_pixels,
                is_pinned=backbone.device.type == "cuda",
            )
        )
        # Passes that nothing would keep busy would only take cores from the others.
        streams = stack.enter_context(Streams(min(count_streams(backbone), max(1, len(slices)))))
        batches = (batch for (batch,) in reader.batches(slices))
        for batch, launched in ahead(
            batches,
            lambda batch: streams.launch(partial(_forward_usable, backbone, batch, arrays)),
            streams.n,
        ):
            transfer, _ = launched.result()
            yield FeatureBatch(
                rows=_usable(batch) + batch.rows.start,
                values={} if transfer is None else transfer.result(),
                failed=batch.failed,
            )


def _usable(batch: Batch) -> npt.NDArray[np.intp]:
    """Return the places, in a batch, of the images that could be used."""
    n = batch.rows.stop - batch.rows.start
    return np.array([at for at in range(n) if batch.rows.start + at not in batch.failed], dtype=np.intp)


def _forward_usable(backbone: Backbone, batch: Batch, arrays: Sequence[TapArray]) -> Transfer | None:
    usable = _usable(batch)
    if not len(usable):
        return None
    pixels = batch.pixels if not batch.failed else batch.pixels[usable]
    return forward_pixels(backbone, pixels, arrays)
