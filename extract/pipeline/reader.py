"""`BatchReader`: threads read, decode and resize images ahead of the model, with bounded memory."""

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import starmap
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from toptune.errors import UnreadableImageError
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.images.decode import decode_image
from toptune.extract.images.source import ImageBytes
from toptune.extract.pipeline.transfers import pixel_buffer
from toptune.extract.request.request import ExtractRequest
from toptune.machine.ahead import ahead
from toptune.store.features.feature_cache import DIGEST_BYTES

# Batches whose images are read and decoded while the model computes. Each of them takes memory, which
# `make_plan` counts.
BATCHES_AHEAD = 2

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Batch:
    """Consecutive images, ready for the device.

    Attributes
    ----------
    rows : slice
        Rows of the data set.
    pixels : array (b, h, w, 3) of uint8
        The images. An image that failed is zeros in its own place, so that the other images of the batch keep
        their places.
    digests : array (b, 32) of uint8
        SHA-256 of the bytes of each image; zeros where the bytes could not be read.
    failed : dict of int to str
        Row number to reason, for each image that could not be used.
    """

    rows: slice
    pixels: Pixels
    digests: Pixels
    failed: dict[int, str]


class Geometry(Protocol):
    """Turns an RGB image into the pixels that a model sees."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    @property
    def draft_edge(self) -> int | None:
        """Least length of the shorter edge of a decoded JPEG; see `decode_image`."""
        ...

    def pixels(self, image: Image.Image) -> Pixels:
        """Resize and crop an image to ``(h, w, 3)`` bytes."""
        ...


# The digest of an image's bytes, and for each geometry the pixels, or the reason why there are none.
Read = tuple[Pixels, list[Pixels | str]]


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
    is_pinned : bool
        Whether pixels lie in page-locked memory, from which a CUDA device fetches them.
    """

    def __init__(
        self,
        source: ImageBytes,
        geometries: Sequence[Geometry],
        *,
        workers: int,
        max_pixels: int,
        is_pinned: bool = False,
    ) -> None:
        self._source, self._geometries, self._is_pinned = source, list(geometries), is_pinned
        self._max_pixels = max_pixels
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="toptune-read")
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
        """Seconds of reading and decoding so far, divided by the number of threads."""
        return self._busy_seconds / self._workers

    def batches(self, slices: Iterable[slice]) -> Iterator[list[Batch]]:
        """Yield a batch per geometry for each slice of rows, in order, while the next slices are read."""
        # `starmap` lets go of the images of a batch as soon as their pixels are copied.
        return starmap(self._collect, ahead(slices, self._submit, BATCHES_AHEAD))

    def _submit(self, rows: slice) -> list[Future[Read]]:
        return [self._pool.submit(self._read, row) for row in _numbers(rows)]

    def _collect(self, rows: slice, futures: list[Future[Read]]) -> list[Batch]:
        digests = np.zeros((len(futures), DIGEST_BYTES), dtype=np.uint8)
        batches = [
            Batch(
                rows,
                pixel_buffer((len(futures), *each.size, 3), is_pinned=self._is_pinned),
                digests,
                failed={},
            )
            for each in self._geometries
        ]
        for place, (row, future) in enumerate(zip(_numbers(rows), futures, strict=True)):
            digests[place], found = future.result()
            for batch, pixels in zip(batches, found, strict=True):
                if isinstance(pixels, str):
                    batch.failed[row] = pixels
                else:
                    batch.pixels[place] = pixels
        return batches

    def _read(self, row: int) -> Read:
        start = time.perf_counter()
        digest = np.zeros(DIGEST_BYTES, dtype=np.uint8)
        try:
            data = self._source.read(row)
            # The digest is taken of the bytes that are decoded here. A later pass over the files would take
            # twice the reading, and could see other bytes.
            digest = sha256(data)
            decoded = {
                edge: decode_image(data, max_pixels=self._max_pixels, draft_edge=edge)
                for edge in {each.draft_edge for each in self._geometries}
            }
            # An image may suit one model and not another, which has a longer edge: reasons are kept by
            # geometry.
            return digest, [_pixels(each, decoded[each.draft_edge]) for each in self._geometries]
        except UnreadableImageError as error:
            return digest, [str(error)] * len(self._geometries)
        finally:
            with self._lock:
                self._busy_seconds += time.perf_counter() - start


def _pixels(geometry: Geometry, image: Image.Image) -> Pixels | str:
    try:
        return geometry.pixels(image)
    except UnreadableImageError as error:
        return str(error)


def sha256(data: bytes) -> Pixels:
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
        is_pinned=any(backbone.device.type == "cuda" for backbone in backbones),
    )
