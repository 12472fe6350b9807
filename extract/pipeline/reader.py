"""`BatchReader`: images are read, decoded and resized ahead of the model, with bounded memory."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import starmap
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from toptune.costs.stages import PipelineProfile, timed
from toptune.errors import UnreadableImageError
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.images.decode import Decoding, decoding
from toptune.extract.images.kinds.band_image import AnyImage
from toptune.extract.images.source import ImageBytes, read_bytes
from toptune.extract.pipeline.device_decoder import DeviceDecoder, DeviceGeometry, Encoded
from toptune.extract.pipeline.thread_pools import pool_of_shares
from toptune.extract.pipeline.transfers import PixelBuffers, Pixels
from toptune.extract.request.request import ExtractRequest
from toptune.machine.ahead import ahead
from toptune.store.features.feature_cache import DIGEST_BYTES

# Batches whose images are read and decoded while the model computes. Each of them takes memory, which
# `make_plan` counts.
BATCHES_AHEAD = 2

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Batch:
    """Consecutive images, ready for the device.

    Attributes
    ----------
    rows : slice
        Rows of the data set.
    pixels : array or Tensor (b, h, w, c) of uint8
        The images, in main memory or on the device that decoded them. An image that failed is zeros in its
        own place, so that the other images of the batch keep their places.
    digests : array (b, 32) of uint8
        SHA-256 of the bytes of each image; zeros where the bytes could not be read.
    failed : dict of int to str
        Row number to reason, for each image that could not be used.
    narrow : dict of int to int
        Row number to declared bits, for each image that uses little of the range that its file declares.
    """

    rows: slice
    pixels: Pixels
    digests: Bytes
    failed: dict[int, str]
    narrow: dict[int, int]


class Geometry(DeviceGeometry, Protocol):
    """Turns a decoded image into the pixels that a model sees."""

    @property
    def is_on_device(self) -> bool:
        """Whether batches are decoded and resized on a CUDA device; by threads otherwise."""
        ...

    @property
    def decoding(self) -> Decoding:
        """How images are decoded."""
        ...

    @property
    def n_channels(self) -> int:
        """Bands of the pixels."""
        ...

    def resized_pixels(self, size: tuple[int, int]) -> int:
        """Pixels of an image, by width and height, after it was resized and before it is cropped."""
        ...

    def pixels(self, image: AnyImage) -> Bytes:
        """Resize and crop an image to ``(h, w, c)`` bytes."""
        ...


@dataclass(frozen=True)
class _Read:
    """One image.

    Attributes
    ----------
    digest : array (32,) of uint8
        The digest of the bytes.
    found : list of array, Encoded or str
        For each geometry the pixels, what is to be decoded on a device, or the reason why there are none.
    narrow_bits : int or None
        Declared bits, if the image uses little of the range that its file declares.
    """

    digest: Bytes
    found: list[Bytes | Encoded | str]
    narrow_bits: int | None = None


class BatchReader:
    """Threads that read a few batches ahead.

    Parameters
    ----------
    source : ImageBytes
        The images.
    geometries : sequence of Geometry
        Each image is read and decoded once, and resized for each of them.
    workers : int
        Threads.
    max_pixels : int
        Limit on an image's size.
    device : torch.device, optional
        Device that computes, the CPU by default. A CUDA device fetches pixels from page-locked memory, and
        decodes images for geometries that are on it.
    profile : PipelineProfile, optional
        Measures reading, decoding and resizing.
    """

    def __init__(
        self,
        source: ImageBytes,
        geometries: Sequence[Geometry],
        *,
        workers: int,
        max_pixels: int,
        device: torch.device | None = None,
        profile: PipelineProfile | None = None,
    ) -> None:
        device = device or torch.device("cpu")
        self._source, self._geometries = source, list(geometries)
        self._buffers = PixelBuffers(is_pinned=device.type == "cuda")
        self._max_pixels = max_pixels
        self._workers = workers
        self._profile = profile
        self._decoder: DeviceDecoder | None = None
        if on_device := [each for each in self._geometries if each.is_on_device]:
            self._decoder = DeviceDecoder(
                device,
                on_device,
                submit=lambda work: self._pool.submit(work),
                max_pixels=max_pixels,
                profile=profile,
            )
        # The threads share out the cores among themselves: one that resized on several of them would only
        # take them from the others and from the forward passes.
        self._pool = pool_of_shares([1] * workers, "toptune-read")
        self._lock = threading.Lock()
        self._busy_seconds = 0.0

    def __enter__(self) -> "BatchReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def seconds(self) -> float:
        """Seconds of reading and decoding so far: those of the threads by their number, and a device's."""
        on_device = 0.0 if self._decoder is None else self._decoder.seconds
        return self._busy_seconds / self._workers + on_device

    def batches(self, slices: Iterable[slice]) -> Iterator[list[Batch]]:
        """Yield a batch per geometry for each slice of rows, in order, while the next slices are read."""
        # `starmap` lets go of the images of a batch as soon as their pixels are copied.
        return starmap(self._collect, ahead(slices, self._submit, BATCHES_AHEAD))

    def _submit(self, rows: slice) -> list[Future[_Read]]:
        return [self._pool.submit(self._read, row) for row in _numbers(rows)]

    def _collect(self, rows: slice, futures: list[Future[_Read]]) -> list[Batch]:
        if self._profile is not None:
            self._profile.ask("forward", is_ready=all(future.done() for future in futures))
        digests = np.zeros((len(futures), DIGEST_BYTES), dtype=np.uint8)
        narrow: dict[int, int] = {}
        buffers = [
            self._buffers.make((0 if each.is_on_device else len(futures), *each.size, each.n_channels))
            for each in self._geometries
        ]
        batches = [Batch(rows, buffer, digests, failed={}, narrow=narrow) for buffer in buffers]
        encoded: dict[int, Encoded] = {}
        for place, (row, future) in enumerate(zip(_numbers(rows), futures, strict=True)):
            read = future.result()
            digests[place] = read.digest
            if read.narrow_bits is not None:
                narrow[row] = read.narrow_bits
            for batch, buffer, pixels in zip(batches, buffers, read.found, strict=True):
                if isinstance(pixels, str):
                    batch.failed[row] = pixels
                    buffer[place : place + 1] = 0  # an earlier batch may have left its image there
                elif isinstance(pixels, Encoded):
                    encoded[place] = pixels
                else:
                    buffer[place] = pixels
        if self._decoder is None:
            return batches
        decoded = self._decoder.decode(encoded, len(futures))
        narrow.update({rows.start + place: bits for place, bits in sorted(decoded.narrow.items())})
        views = iter(zip(decoded.pixels, decoded.failed, strict=True))
        return [
            _filled(batch, *next(views)) if each.is_on_device else batch
            for batch, each in zip(batches, self._geometries, strict=True)
        ]

    def _read(self, row: int) -> _Read:
        start = time.perf_counter()
        digest = np.zeros(DIGEST_BYTES, dtype=np.uint8)
        try:
            with timed(self._profile, "read"):
                data = read_bytes(self._source, row)
            # The digest is taken of the bytes that are decoded here. A later pass over the files would take
            # twice the reading, and could see other bytes.
            digest = sha256(data)
            return self._decode(data, digest)
        except UnreadableImageError as error:
            return _Read(digest, [str(error)] * len(self._geometries))
        finally:
            with self._lock:
                self._busy_seconds += time.perf_counter() - start

    def _decode(self, data: bytes, digest: Bytes) -> _Read:
        """Decode an image once for all geometries of one route, and resize it for each of them.

        For geometries on a device only the header is read.
        """
        encoded = None if self._decoder is None else self._decoder.read(data)
        found: list[Bytes | Encoded | str] = [encoded or ""] * len(self._geometries)
        narrow_bits = None
        here = [(place, each) for place, each in enumerate(self._geometries) if not each.is_on_device]
        for how in {each.decoding for _, each in here}:
            mine = [(place, each) for place, each in here if each.decoding == how]
            resized = [each.resized_pixels for _, each in mine]
            most = partial(_largest, resized)
            try:
                with ExitStack() as stack:
                    with timed(self._profile, "decode"):
                        decoded = stack.enter_context(
                            decoding(data, how, max_pixels=self._max_pixels, more=most)
                        )
                    # An image may suit one model and not another, which has a longer edge: reasons are kept
                    # by geometry.
                    for place, each in mine:
                        with timed(self._profile, "resize"):
                            found[place] = _pixels(each, decoded.image)
                    seen = [pixels for pixels in found if isinstance(pixels, np.ndarray)]
                    if seen and decoded.is_narrow(seen[0]):
                        narrow_bits = decoded.bits
            except UnreadableImageError as error:
                for place, _ in mine:
                    found[place] = str(error)
        return _Read(digest, found, narrow_bits)


def _largest(counts: Sequence[Callable[[tuple[int, int]], int]], size: tuple[int, int]) -> int:
    return max(count(size) for count in counts)


def _filled(batch: Batch, pixels: Pixels, failed: Mapping[int, str]) -> Batch:
    """Return a batch with the pixels of a device, and with the places of images that failed there."""
    rows = batch.failed | {batch.rows.start + place: reason for place, reason in failed.items()}
    return replace(batch, pixels=pixels, failed=dict(sorted(rows.items())))


def _pixels(geometry: Geometry, image: AnyImage) -> Bytes | str:
    try:
        return geometry.pixels(image)
    except UnreadableImageError as error:
        return str(error)


def sha256(data: bytes) -> Bytes:
    """Return the digest of an image's bytes, ``(32,)``."""
    return np.frombuffer(hashlib.sha256(data).digest(), dtype=np.uint8)


def _numbers(rows: slice) -> range:
    return range(rows.start, rows.stop)


def open_reader(request: ExtractRequest, backbones: Sequence[Backbone]) -> BatchReader:
    """Open a reader of a request's images, with one geometry for each backbone."""
    return BatchReader(
        request.source,
        [backbone.transform for backbone in backbones],
        workers=request.options.n_workers,
        max_pixels=request.options.pixel_limit,
        device=backbones[0].device,
        profile=request.options.profile,
    )
