"""`ImageLoader` reads, augments and caches images for fine-tuning, ahead of the network."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from toptune.errors import UnreadableImageError
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.images.decode import decoding
from toptune.extract.images.narrow import NarrowImages
from toptune.extract.images.source import ImageSource, read_bytes
from toptune.machine.ahead import ahead
from toptune.train.rows.splits import hash_of
from toptune.workflows.finetuning.augmentation import Augmentation

# While the network takes a step, the threads work on the next two batches; more would only hold memory.
BATCHES_AHEAD = 2
# This many images are submitted beyond the image whose outcome is waited for.
_LOOKED_AHEAD = 64
# A training image is shrunk until its short edge has this many times the edge of the network's input. Most
# random crops then have at least as many pixels as the input, and thousands of images fit into memory.
KEPT_EDGES = 2

Pixels = npt.NDArray[np.uint8]


class ImageLoader:
    """Batches of pixels by row number, the same whether they come from memory or from files.

    Parameters
    ----------
    source : ImageSource
        The images.
    backbone : Backbone
        The network, whose decoding and evaluation transform are used.
    augmentation : Augmentation, optional
        Augmentation of training images; without one, they go through the evaluation transform.
    seed : int
        Seed of the augmentation.
    workers : int
        Number of threads that read and augment.
    cache_bytes : int
        Memory that decoded images may take.
    """

    def __init__(
        self,
        source: ImageSource,
        backbone: Backbone,
        augmentation: Augmentation | None,
        *,
        seed: int,
        workers: int,
        cache_bytes: int,
    ) -> None:
        self._source, self._backbone, self._augmentation = source, backbone, augmentation
        self._seed = seed
        self._edge = KEPT_EDGES * max(backbone.transform.size)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="toptune-read")
        self._cache: dict[tuple[int, bool], Pixels] = {}
        self._bytes_left = cache_bytes
        self._narrow: dict[int, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "ImageLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def cached_bytes(self) -> int:
        """Bytes of the decoded images that are held in memory."""
        return sum(pixels.nbytes for pixels in self._cache.values())

    @property
    def narrow(self) -> NarrowImages:
        """Images so far that use little of the range that their files declare."""
        return NarrowImages().with_rows(self._narrow, self._source.manifest().image_id)

    def look_at(
        self, rows: Sequence[int], *, is_training: bool, seen: Callable[[int], object]
    ) -> dict[int, str]:
        """Decode images and keep as many as fit into memory; return the reason for each image that fails.

        Parameters
        ----------
        rows : sequence of int
            Row numbers of the images.
        is_training : bool
            Whether the images are going to be augmented.
        seen : callable
            Called with 1 as each image is done.

        Returns
        -------
        dict of int to str
            Row number to reason.
        """
        failed = {}
        looked = ahead(
            rows, lambda row: self._pool.submit(self._outcome, int(row), is_training), _LOOKED_AHEAD
        )
        for row, future in looked:
            if (reason := future.result()) is not None:
                failed[int(row)] = reason
            seen(1)
        return failed

    def training_batches(self, batches: Sequence[Sequence[int]], *, epoch: int) -> Iterator[torch.Tensor]:
        """Yield augmented pixels ``(b, h, w, 3)`` of each batch of rows."""
        augmentation = self._augmentation
        if augmentation is None:
            yield from self.batches(batches)
            return

        def augmented(row: int) -> Pixels:
            image = Image.fromarray(self._decoded(row, True))
            return augmentation(image, hash_of(self._seed, f"augmentation\0{epoch}\0{row}"))

        yield from self._stacked(batches, augmented)

    def batches(self, batches: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
        """Yield pixels ``(b, h, w, 3)`` of each batch of rows, as the evaluation transform makes them."""
        yield from self._stacked(batches, lambda row: self._decoded(row, False))

    def _stacked(
        self, batches: Sequence[Sequence[int]], pixels: Callable[[int], Pixels]
    ) -> Iterator[torch.Tensor]:
        """Yield the pixels of each batch, while threads work on the next batches."""

        def submit(rows: Sequence[int]) -> list[Future[Pixels]]:
            return [self._pool.submit(pixels, int(row)) for row in rows]

        for rows, waiting in ahead(batches, submit, BATCHES_AHEAD):
            found = np.empty((len(rows), *self._backbone.transform.size, 3), dtype=np.uint8)
            for place, future in enumerate(waiting):
                found[place] = future.result()
            yield torch.from_numpy(found)

    def _outcome(self, row: int, is_training: bool) -> str | None:
        """Decode an image into the cache; return the reason if it cannot be used."""
        try:
            self._decoded(row, is_training)
        except UnreadableImageError as error:
            return str(error)
        return None

    def _decoded(self, row: int, is_training: bool) -> Pixels:
        """Return the pixels from which augmentation crops, or the pixels of the evaluation transform."""
        # A row may be read in both ways: with ``refit``, validation images are trained on later.
        key = (row, is_training and self._augmentation is not None)
        known = self._cache.get(key)
        if known is not None:
            return known
        transform = self._backbone.transform
        data = read_bytes(self._source, row)
        with decoding(data, transform.decoding, more=transform.resized_pixels) as decoded:
            transform.check_shape(decoded.image.size)
            assert isinstance(decoded.image, Image.Image), "networks that are fine-tuned take colors"
            found = np.array(self._shrunk(decoded.image)) if key[1] else transform.pixels(decoded.image)
            is_narrow = decoded.is_narrow(found)
        # An image that does not fit stays out and takes no place from another: every epoch reads every image
        # once, so that a replaced image would be missed just as often.
        with self._lock:
            if is_narrow and decoded.bits is not None:
                self._narrow[row] = decoded.bits
            if found.nbytes <= self._bytes_left:
                self._bytes_left -= found.nbytes
                self._cache[key] = found
        return found

    def _shrunk(self, image: Image.Image) -> Image.Image:
        """Shrink an image whose short edge is longer than `KEPT_EDGES` times the edge of the input."""
        short = min(image.size)
        if short <= self._edge:
            return image
        width, height = (max(1, round(side * self._edge / short)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BICUBIC)
