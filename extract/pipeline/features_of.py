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
from toptune.store.files.json_values import canonical_json

# Features of one backbone, by array name.
Values = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class UsableBatch:
    """Pixels of those images of a batch that could be used.

    Attributes
    ----------
    rows : array (k,) of int
        Row numbers of the images that could be used, ascending.
    pixels : tuple of array or Tensor (k, h, w, 3) of uint8
        For each backbone the images as its transform resizes and crops them.
    failed : mapping of int to str
        Row number to reason, for each image of the batch that could not be used.
    narrow : mapping of int to int
        Row number to declared bits, for each image that uses little of the range that its file declares.
    """

    rows: npt.NDArray[np.intp]
    pixels: tuple[Pixels, ...]
    failed: Mapping[int, str]
    narrow: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FeatureBatch:
    """Features of a batch of images.

    Attributes
    ----------
    rows : array (k,) of int
        Row numbers of the images that could be used, ascending.
    values : tuple of mapping of str to array (k, dim) of float32
        For each backbone the features by array name; empty where no image of the batch could be used.
    failed : mapping of int to str
        Row number to reason, for each image of the batch that could not be used.
    narrow : mapping of int to int
        Row number to declared bits, for each image that uses little of the range that its file declares.
    """

    rows: npt.NDArray[np.intp]
    values: tuple[Values, ...]
    failed: Mapping[int, str]
    narrow: Mapping[int, int] = field(default_factory=dict)


def features_of(
    source: ImageBytes,
    n_images: int,
    wanted: Sequence[tuple[Backbone, Sequence[TapArray]]],
    *,
    batch_size: int = 32,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[FeatureBatch]:
    """Compute features of images, batch after batch, while the next images are read and decoded.

    Reading, decoding, resizing and the forward passes are those of `toptune.extract.extract`: threads read a
    few batches ahead, passes run side by side on a CPU, and a batch that does not fit into a CUDA device's
    memory is computed in parts. Several backbones share what is read and decoded. Images that one of them
    cannot use are left out of all forward passes.

    Parameters
    ----------
    source : ImageBytes
        The images; an `ImageSource`, or any object with the method ``read`` of one.
    n_images : int
        Number of images; rows 0 to ``n_images - 1`` are read.
    wanted : sequence of (Backbone, sequence of TapArray)
        The networks, with the transforms of their images, and the arrays that each computes; see
        `Backbone.arrays` and `Backbone.resolve`.
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
    backbones = [backbone for backbone, _ in wanted]
    n_passes = -(-n_images // batch_size) * len(wanted)
    # Passes that nothing would keep busy would only take cores from the others.
    n, n_ahead = (min(max(1, n_passes), *map(count, backbones)) for count in (count_streams, count_ahead))
    with Streams(n, n_ahead) as streams:

        def launch(batch: UsableBatch) -> list[Future[Timed[BatchTransfer]]]:
            if not len(batch.rows):
                return []
            return [
                streams.launch(partial(forward_pixels, backbone, pixels, arrays))
                for (backbone, arrays), pixels in zip(wanted, batch.pixels, strict=True)
            ]

        batches = usable_batches(
            source, n_images, backbones, batch_size=batch_size, workers=workers, max_pixels=max_pixels
        )
        # A batch is a pass for each network, so that fewer batches ahead keep all streams busy.
        for batch, launched in ahead(batches, launch, -(-streams.ahead // len(wanted))):
            values = tuple(each.result()[0].result() for each in launched) or ({},) * len(wanted)
            yield _usable(backbones, batch, values)


def _usable(backbones: Sequence[Backbone], batch: UsableBatch, values: tuple[Values, ...]) -> FeatureBatch:
    """Put features beside their images, and images whose features left the range of fp16 to the failures."""
    rows, failed = batch.rows, batch.failed
    overflows = [find_overflows(backbone, own) for backbone, own in zip(backbones, values, strict=True)]
    for reason, places in reversed(overflows):
        failed = {**failed, **{int(rows[place]): f"its features {reason}" for place in places}}
    gone = sorted({int(place) for _, places in overflows for place in places})
    if gone:
        rows = np.delete(rows, gone)
        values = tuple({name: np.delete(each, gone, 0) for name, each in own.items()} for own in values)
    return FeatureBatch(rows=rows, values=values, failed=failed, narrow=batch.narrow)


def usable_batches(
    source: ImageBytes,
    n_images: int,
    backbones: Sequence[Backbone],
    *,
    batch_size: int = 32,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[UsableBatch]:
    """Read, decode and resize images, batch after batch, while the next ones are being read.

    Parameters
    ----------
    source, n_images, batch_size, workers, max_pixels
        As in `features_of`.
    backbones : sequence of Backbone
        Each image is read and decoded once for all of them; they compute on one device.

    Yields
    ------
    UsableBatch
        Pixels of the next images, in the order of the rows.
    """
    # Backbones that see the same pixels share them, as they do in an extraction.
    keys = [canonical_json(backbone.transform.geometry) for backbone in backbones]
    places = list(dict.fromkeys(keys))
    slices = [slice(start, min(start + batch_size, n_images)) for start in range(0, n_images, batch_size)]
    with BatchReader(
        source,
        [backbones[keys.index(key)].transform for key in places],
        workers=workers or reading_threads(),
        max_pixels=max_pixels,
        device=backbones[0].device,
    ) as reader:
        for batches in reader.batches(slices):
            first = batches[0]
            # An image may suit one geometry and not another; the first reason stands for all.
            failed = {row: why for batch in reversed(batches) for row, why in batch.failed.items()}
            at = np.array(
                [place for place, row in enumerate(_numbers(first)) if row not in failed], dtype=np.intp
            )
            # Without failures the whole pinned array is sent; selecting rows would make an unpinned copy.
            pixels = [batch.pixels[at] if failed else batch.pixels for batch in batches]
            yield UsableBatch(
                rows=at + first.rows.start,
                pixels=tuple(pixels[places.index(key)] for key in keys),
                failed=failed,
                narrow=first.narrow,
            )


def _numbers(batch: Batch) -> range:
    return range(batch.rows.start, batch.rows.stop)
