"""Reading, decoding and resizing in threads ahead of the model, with bounded memory."""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import numpy.typing as npt
from PIL import Image

from toptune.extract.decode import decode_image
from toptune.extract.source import ImageSource
from toptune.store import UnreadableImageError

BATCHES_AHEAD = 2
DIGEST_BYTES = 32

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Batch:
    """Consecutive pictures, ready for the device.

    Attributes
    ----------
    rows : slice
        Of the data set.
    pixels : array (b, h, w, 3) of uint8
        Zeros where a picture failed: it keeps its place, so that the others' batch mates do not change.
    digests : array (b, 32) of uint8
        SHA-256 of each file's bytes; zeros where they could not be read.
    failed : dict of int to str
        Row to reason.
    """

    rows: slice
    pixels: Pixels
    digests: Pixels
    failed: dict[int, str]


class BatchReader:
    """Threads that read a few batches ahead.

    Parameters
    ----------
    source : ImageSource
        Where pictures come from.
    to_pixels : callable
        RGB picture to ``(h, w, 3)`` bytes.
    size : tuple of int
        ``(h, w)``.
    workers : int
        Threads.
    max_pixels : int
        Limit on a picture's size.
    """

    def __init__(
        self,
        source: ImageSource,
        to_pixels: Callable[[Image.Image], Pixels],
        *,
        size: tuple[int, int],
        workers: int,
        max_pixels: int,
    ) -> None:
        self._source, self._to_pixels, self._size = source, to_pixels, size
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
        """Time that reading took so far, shared by the threads."""
        return self._busy_seconds / self._workers

    def batches(self, slices: Iterable[slice]) -> Iterator[Batch]:
        """Yield one batch a slice of rows, in order, while the next ones are being read."""
        waiting: deque[tuple[slice, list[Future[tuple[Pixels, Pixels | None, str]]]]] = deque()
        for rows in slices:
            waiting.append((rows, [self._pool.submit(self._read, row) for row in _numbers(rows)]))
            if len(waiting) > BATCHES_AHEAD:
                yield self._collect(*waiting.popleft())
        while waiting:
            yield self._collect(*waiting.popleft())

    def _collect(self, rows: slice, futures: list[Future[tuple[Pixels, Pixels | None, str]]]) -> Batch:
        pixels = np.zeros((len(futures), *self._size, 3), dtype=np.uint8)
        digests = np.zeros((len(futures), DIGEST_BYTES), dtype=np.uint8)
        failed = {}
        for place, (row, future) in enumerate(zip(_numbers(rows), futures, strict=True)):
            digests[place], found, reason = future.result()
            if found is None:
                failed[row] = reason
            else:
                pixels[place] = found
        return Batch(rows, pixels, digests, failed)

    def _read(self, row: int) -> tuple[Pixels, Pixels | None, str]:
        start = time.perf_counter()
        digest = np.zeros(DIGEST_BYTES, dtype=np.uint8)
        try:
            data = self._source.read(row)
            digest = sha256(data)
            return digest, self._to_pixels(decode_image(data, max_pixels=self._max_pixels)), ""
        except UnreadableImageError as error:
            return digest, None, str(error)
        finally:
            with self._lock:
                self._busy_seconds += time.perf_counter() - start


def sha256(data: bytes) -> Pixels:
    """Digest of a picture's bytes, ``(32,)``."""
    return np.frombuffer(hashlib.sha256(data).digest(), dtype=np.uint8)


def _numbers(rows: slice) -> range:
    return range(rows.start, rows.stop)
