"""`DeviceDecoder`: nvJPEG decodes what threads have read, and a CUDA device resizes it, batch after batch."""

import io
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from PIL import Image

from toptune.costs.stages import PipelineProfile, timed
from toptune.errors import InputError, UnreadableImageError
from toptune.extract.backbone.batch_limit import BatchLimit
from toptune.extract.backbone.spec import check_decode_device
from toptune.extract.images.decode import MAX_PIXELS, Decoding, decoding
from toptune.extract.images.jpeg import PlainJpeg, plain_jpeg
from toptune.extract.images.samples import NARROW
from toptune.machine.device_memory import explained_out_of_memory, is_out_of_memory

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

# Pixels of JPEGs that are decoded at once and take 3 bytes each on the device: one of the largest images, or
# 14 photographs of 12 megapixels.
PIXELS_AT_ONCE = MAX_PIXELS
_NO_ROOM = "stop other programs there, lower --max-pixels, or decode on the CPU (--decode fast)"
# nvJPEG's own memory is not torch's: NVJPEG_STATUS_ALLOCATOR_FAILURE is 5, and torchvision tells the number.
_NVJPEG_IS_FULL = re.compile(r"JPEG images: .*: 5\b")
# What brings pixels (3, h, w) upright, by the EXIF tag: see `UPRIGHT`.
_TURNS: Mapping[int, Callable[[torch.Tensor], torch.Tensor]] = {
    2: lambda pixels: pixels.flip(2),
    3: lambda pixels: pixels.flip(1, 2),
    4: lambda pixels: pixels.flip(1),
    5: lambda pixels: pixels.transpose(1, 2),
    6: lambda pixels: pixels.transpose(1, 2).flip(2),
    7: lambda pixels: pixels.transpose(1, 2).flip(1, 2),
    8: lambda pixels: pixels.transpose(1, 2).flip(1),
}


class DeviceGeometry(Protocol):
    """Turns an image on a device into the pixels that a model sees."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def resized(self, image: torch.Tensor) -> torch.Tensor:
        """Resize and crop bytes ``(3, h, w)`` to bytes ``(h, w, 3)``."""
        ...


@dataclass(frozen=True)
class Encoded:
    """An image that was read, and is to be decoded.

    Attributes
    ----------
    data : bytes
        The bytes of the file.
    jpeg : PlainJpeg or None
        What its header says, if nvJPEG is to decode it.
    """

    data: bytes
    jpeg: PlainJpeg | None


@dataclass(frozen=True)
class DeviceBatch:
    """Images of a batch, decoded and resized.

    Attributes
    ----------
    pixels : list of Tensor (b, h, w, 3)
        For each geometry the images in uint8 on the device; zeros in the places of those that failed.
    failed : list of dict of int to str
        For each geometry the place in the batch and the reason, for each image that could not be used.
    narrow : dict of int to int
        Place to declared bits, for each image that uses little of the range that its file declares.
    """

    pixels: list[torch.Tensor]
    failed: list[dict[int, str]]
    narrow: dict[int, int] = field(default_factory=dict)

    def fail(self, place: int, reason: str) -> None:
        """Note that an image could not be decoded."""
        for failed in self.failed:
            failed[place] = reason


@dataclass(frozen=True)
class _Loaded:
    """An image that a thread decoded: pixels ``(h, w, 3)``, and its share of the pixel budget."""

    pixels: npt.NDArray[np.uint8]
    narrow_bits: int | None
    held: ExitStack


Submit = Callable[[Callable[[], _Loaded]], "Future[_Loaded]"]


class DeviceDecoder:
    """Decodes plain JPEGs by nvJPEG, and resizes them and all other images on the same CUDA device.

    Other images, and those that nvJPEG refuses, are decoded by threads of the CPU like those of the routes
    ``exact`` and ``fast``, which also say why an image cannot be decoded.

    Parameters
    ----------
    device : torch.device
        The device.
    geometries : sequence of DeviceGeometry
        Every image is decoded once, and resized for each of them.
    submit : callable
        Lets a thread do work, and returns its future.
    max_pixels : int
        Limit on an image's size.
    profile : PipelineProfile, optional
        Measures decoding and resizing.

    Attributes
    ----------
    seconds : float
        Seconds so far in which the calling thread decoded and resized, or waited for threads that decode.

    Raises
    ------
    InputError
        If the device is no CUDA device, or torchvision does not decode there.
    """

    def __init__(
        self,
        device: torch.device,
        geometries: Sequence[DeviceGeometry],
        *,
        submit: Submit,
        max_pixels: int,
        profile: PipelineProfile | None = None,
    ) -> None:
        check_decode_device("gpu", device.type)
        self.seconds = 0.0
        self._geometries = list(geometries)
        self._submit, self._max_pixels, self._profile = submit, max_pixels, profile
        self._limit = BatchLimit()
        self._has_told = False
        # The network computes in another stream meanwhile. torchvision decodes in a stream of its own, into
        # memory that torch gives to the stream in use here, and does not wait for what this stream has still
        # to do with that memory. Of the network's stream that would be a whole pass: so all work of this
        # class is done in one stream, which is waited for before the memory is used again.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._device = self._stream.device  # with its number, which torchvision may need
        _check_decoder(self._device)

    def read(self, data: bytes) -> Encoded:
        """Look at the header of an image; any thread may do so."""
        return Encoded(data, plain_jpeg(data, max_pixels=self._max_pixels))

    def decode(self, images: Mapping[int, Encoded], length: int) -> DeviceBatch:
        """Decode and resize images of a batch of some length, given by their places.

        Raises
        ------
        DeviceMemoryError
            If not even one image fits the device's memory.
        """
        start = time.perf_counter()
        with torch.cuda.stream(self._stream):
            pixels = [
                torch.zeros((length, *each.size, 3), dtype=torch.uint8, device=self._device)
                for each in self._geometries
            ]
            batch = DeviceBatch(pixels, [{} for _ in self._geometries])
            others = {place: image.data for place, image in images.items() if image.jpeg is None}
            jpegs = [(place, image.jpeg) for place, image in images.items() if image.jpeg is not None]
            for some in _cut(jpegs):
                refused = self._fitting(partial(self._decode_jpegs, batch), some)
                others |= {place: images[place].data for places in refused for place in places}
            self._decode_others(batch, others)
        network = torch.cuda.current_stream(self._device)
        # Where every image of a batch failed, nothing above has waited for the zeros.
        network.wait_stream(self._stream)
        for each in batch.pixels:
            each.record_stream(network)
        self.seconds += time.perf_counter() - start
        return batch

    def _fitting(self, work: Callable[[list[Item]], Result], items: list[Item]) -> list[Result]:
        """Do work on items at once, or on parts of them where they do not fit the device's memory."""
        return self._limit.compute(
            work, items, self._device, one="decoding and resizing 1 image", knobs=_NO_ROOM
        )

    def _decode_jpegs(self, batch: DeviceBatch, jpegs: list[tuple[int, PlainJpeg]]) -> list[int]:
        """Decode JPEGs by nvJPEG; return the places of those that nvJPEG refuses."""
        with timed(self._profile, "device decode", len(jpegs)):
            decoded = self._by_nvjpeg([jpeg for _, jpeg in jpegs])
        upright = {
            place: _TURNS.get(jpeg.orientation, _unturned)(pixels)
            for (place, jpeg), pixels in zip(jpegs, decoded, strict=True)
            if pixels is not None
        }
        with timed(self._profile, "device resize", len(upright)):
            for place, pixels in upright.items():
                self._resize(batch, place, pixels)
            # Values in main memory tell also that the stream has done its work.
            highest = torch.stack([pixels.amax() for pixels in upright.values()]).tolist() if upright else []
        batch.narrow.update(
            {place: 8 for place, high in zip(upright, highest, strict=True) if 0 < high < 256 // NARROW}
        )
        return [place for place, _ in jpegs if place not in upright]

    def _by_nvjpeg(self, jpegs: Sequence[PlainJpeg]) -> list[torch.Tensor | None]:
        """Decode JPEGs to ``(3, h, w)``; None where nvJPEG refuses one."""
        self._stream.synchronize()
        try:
            return [*_decode([jpeg.data for jpeg in jpegs], self._device)]
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[0]
        # The error does not say of which image it is.
        if len(jpegs) > 1:
            return [pixels for jpeg in jpegs for pixels in self._by_nvjpeg([jpeg])]
        if not self._has_told:
            logger.warning(
                "nvJPEG refuses an image (%s); the CPU decodes it, and others that are refused [TT108]",
                reason,
            )
            self._has_told = True
        return [None]

    def _decode_others(self, batch: DeviceBatch, others: Mapping[int, bytes]) -> None:
        """Decode images by threads, and resize each on the device as soon as its pixels are there."""
        places = {self._submit(partial(self._load, data)): place for place, data in others.items()}
        try:
            # In whatever order they come: a thread that waits for a share of the budget gets it from an image
            # that is taken here.
            for future in as_completed(places):
                try:
                    loaded = future.result()
                except UnreadableImageError as error:
                    batch.fail(places[future], str(error))
                    continue
                with loaded.held:
                    self._fitting(partial(self._put, batch, places[future]), [loaded.pixels])
                if loaded.narrow_bits is not None:
                    batch.narrow[places[future]] = loaded.narrow_bits
        finally:
            # After an error the shares of all others are given back.
            for future in places:
                future.cancel()
            for future in as_completed(places):
                if not (future.cancelled() or future.exception()):
                    future.result().held.close()

    def _load(self, data: bytes) -> _Loaded:
        """Decode an image on the CPU; its pixels count in the budget of all threads until `held` closes."""
        with ExitStack() as stack:
            with timed(self._profile, "decode"):
                decoded = stack.enter_context(decoding(data, Decoding(), max_pixels=self._max_pixels))
                try:
                    pixels = np.array(decoded.image)
                except MemoryError:
                    raise UnreadableImageError(
                        "there is not enough memory for its pixels; shrink it"
                    ) from None
            return _Loaded(pixels, decoded.bits if decoded.is_narrow(pixels) else None, stack.pop_all())

    def _put(self, batch: DeviceBatch, place: int, images: list[npt.NDArray[np.uint8]]) -> None:
        """Copy an image ``(h, w, 3)`` to the device, and resize it there."""
        with timed(self._profile, "device resize"):
            self._resize(batch, place, torch.from_numpy(images[0]).to(self._device).permute(2, 0, 1))
            self._stream.synchronize()

    def _resize(self, batch: DeviceBatch, place: int, image: torch.Tensor) -> None:
        for geometry, pixels, failed in zip(self._geometries, batch.pixels, batch.failed, strict=True):
            try:
                pixels[place] = geometry.resized(image)
            except UnreadableImageError as error:
                failed[place] = str(error)


def _check_decoder(device: torch.device) -> None:
    """Refuse a device on which torchvision does not decode a small JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    try:
        with explained_out_of_memory("decode gpu", device=device, knobs=_NO_ROOM):
            _decode([buffer.getvalue()], device)
    except (RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        lacks = "was built without nvJPEG" if "not compiled with" in reason else "decodes no JPEG"
        raise InputError(
            f"decode gpu: torchvision {torchvision.__version__} {lacks} on {device} ({reason}); use --decode "
            "fast, or install a torchvision that was built for CUDA",
            option="decode",
        ) from error


def _decode(files: Sequence[bytes], device: torch.device) -> Sequence[torch.Tensor]:
    """Decode JPEGs to RGB ``(3, h, w)`` of uint8 on a device, all or none."""
    # A copy, because torch takes no memory that cannot be written to.
    data = [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in files]
    try:
        found: Sequence[torch.Tensor] = torchvision.io.decode_jpeg(
            data, mode=torchvision.io.ImageReadMode.RGB, device=device
        )
    except RuntimeError as error:
        if _NVJPEG_IS_FULL.search(str(error)):
            raise torch.OutOfMemoryError(f"CUDA out of memory: {error}") from error
        raise
    return found


def _unturned(pixels: torch.Tensor) -> torch.Tensor:
    return pixels


def _cut(jpegs: Sequence[tuple[int, PlainJpeg]]) -> Iterator[list[tuple[int, PlainJpeg]]]:
    """Cut images into runs of at most `PIXELS_AT_ONCE` pixels, or of one image."""
    run: list[tuple[int, PlainJpeg]] = []
    for place, jpeg in jpegs:
        if run and sum(each.pixels for _, each in run) + jpeg.pixels > PIXELS_AT_ONCE:
            yield run
            run = []
        run.append((place, jpeg))
    if run:
        yield run
