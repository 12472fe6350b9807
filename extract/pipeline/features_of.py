"""Features of any images are computed here as an extraction computes them, without a store."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from toptune.extract.backbone.backbone import Backbone
from toptune.extract.backbone.taps import TapArray
from toptune.extract.images.decode import MAX_PIXELS
from toptune.extract.images.source import ImageBytes
from toptune.extract.pipeline.forwarding import find_overflows, forward_pixels
from toptune.extract.pipeline.reader import Batch, BatchReader
from toptune.extract.pipeline.streams import Streams, Timed, count_ahead, count_streams
from toptune.extract.pipeline.transfers import BatchTransfer, Pixels
from toptune.machine.ahead import ahead
from toptune.machine.cores import reading_threads


@dataclass(frozen=True, kw_only=True)
class UsableBatch:
    """Pixels of those images of a batch that could be used.

    Attributes
    ----------
    rows : array (k,) of int
        Row numbers of the images that could be used, ascending.
    pixels : array or Tensor (k, h, w, 3) of uint8
        The images as the backbone's transform resizes and crops them.
    failed : mapping of int to str
        Row number to reason, for each image of the batch that could not be used.
    narrow : mapping of int to int
        Row number to declared bits, for each image that uses little of the range that its file declares.
    """

    rows: npt.NDArray[np.intp]
    pixels: Pixels
    failed: Mapping[int, str]
    narrow: Mapping[int, int] = field(default_factory=dict)


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
    narrow : mapping of int to int
        Row number to declared bits, for each image that uses little of the range that its file declares.
    """

    rows: npt.NDArray[np.intp]
    values: Mapping[str, npt.NDArray[np.float32]]
    failed: Mapping[int, str]
    narrow: Mapping[int, int] = field(default_factory=dict)


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
    memory is computed in parts. Images that cannot be used are left out of the forward pass.

    Parameters
    ----------
    source : ImageBytes
        The images; an `ImageSource`, or any object with the method ``read`` of one.
    n_images : int
        Number of images; rows 0 to ``n_images - 1`` are read.
    backbone : Backbone
        The network, with the transform of its images.
    arrays : sequence of TapArray
        Arrays that are computed; see `Backbone.arrays` and `Backbone.resolve`.
    batch_size : int
        Images of a forward pass.
    workers : int, optional
        Threads that read and decode; by default one for each core that this process may use, at most 32.
    max_pixels : int
        Larger images count as unreadable.

    Yields
    ------
    FeatureBatch
        Features of the next images, in the order of the rows.
    """
    n_batches = -(-n_images // batch_size)
    # Passes that nothing would keep busy would only take cores from the others.
    n, n_ahead = (min(count(backbone), max(1, n_batches)) for count in (count_streams, count_ahead))
    with Streams(n, n_ahead) as streams:

        def launch(batch: UsableBatch) -> Future[Timed[BatchTransfer]] | None:
            if not len(batch.rows):
                return None
            return streams.launch(partial(forward_pixels, backbone, batch.pixels, arrays))

        batches = usable_batches(
            source, n_images, backbone, batch_size=batch_size, workers=workers, max_pixels=max_pixels
        )
        for batch, launched in ahead(batches, launch, streams.ahead):
            values = {} if launched is None else launched.result()[0].result()
            yield _usable(backbone, batch, values)


def _usable(
    backbone: Backbone, batch: UsableBatch, values: Mapping[str, npt.NDArray[np.float32]]
) -> FeatureBatch:
    """Put features beside their images, and images whose features left the range of fp16 to the failures."""
    rows, failed = batch.rows, batch.failed
    reason, places = find_overflows(backbone, values)
    if len(places):
        failed = {**failed, **{int(rows[place]): f"its features {reason}" for place in places}}
        rows, values = np.delete(rows, places), {k: np.delete(v, places, 0) for k, v in values.items()}
    return FeatureBatch(rows=rows, values=values, failed=failed, narrow=batch.narrow)


def usable_batches(
    source: ImageBytes,
    n_images: int,
    backbone: Backbone,
    *,
    batch_size: int = 32,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[UsableBatch]:
    """Read, decode and resize images, batch after batch, while the next ones are being read.

    Parameters
    ----------
    source, n_images, backbone, batch_size, workers, max_pixels
        As in `features_of`.

    Yields
    ------
    UsableBatch
        Pixels of the next images, in the order of the rows.
    """
    slices = [slice(start, min(start + batch_size, n_images)) for start in range(0, n_images, batch_size)]
    with BatchReader(
        source,
        [backbone.transform],
        workers=workers or reading_threads(),
        max_pixels=max_pixels,
        device=backbone.device,
    ) as reader:
        for (batch,) in reader.batches(slices):
            at = np.array(
                [place for place, row in enumerate(_numbers(batch)) if row not in batch.failed], dtype=np.intp
            )
            # Without failures the whole pinned array is sent; selecting rows would make an unpinned copy.
            pixels = batch.pixels[at] if batch.failed else batch.pixels
            yield UsableBatch(
                rows=at + batch.rows.start, pixels=pixels, failed=batch.failed, narrow=batch.narrow
            )


def _numbers(batch: Batch) -> range:
    return range(batch.rows.start, batch.rows.stop)
