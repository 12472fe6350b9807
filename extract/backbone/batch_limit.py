"""`BatchLimit` cuts batches into parts that fit the memory of a device, and remembers the size that did."""

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from toptune.errors import DeviceMemoryError
from toptune.machine.device_memory import full_memory, is_out_of_memory

logger = logging.getLogger(__name__)

Part = TypeVar("Part")
Images = TypeVar("Images", bound="Sliceable")


class Sliceable(Protocol):
    """A batch of images that can be cut."""

    def __len__(self) -> int:
        """Count the images."""
        ...

    def __getitem__(self: Images, rows: slice, /) -> Images:
        """Return some of the images."""
        ...


class BatchLimit:
    """The most images that the memory of a device holds in one forward pass of a network.

    No limit is known before a batch does not fit. Such a batch is cut in halves until a part fits, with one
    warning; the parts of later batches have the size that fitted.

    Attributes
    ----------
    images : int or None
        Most images of a part; None while every batch has fitted.
    """

    def __init__(self) -> None:
        self.images: int | None = None
        # Images of the first batch that did not fit, and what was full then, until the warning is given.
        self._to_say: tuple[int, str] | None = None

    def compute(
        self,
        work: Callable[[Images], Part],
        images: Images,
        device: torch.device,
        *,
        one: str,
        knobs: str = "stop other programs there, take a smaller --model or --img-size, or compute on the CPU "
        "(--device cpu)",
    ) -> list[Part]:
        """Do work on a batch at once, or on parts of it where it does not fit.

        Parameters
        ----------
        work : callable
            Everything that takes memory of the device: copies to it, the pass, and copies back.
        images : array, tensor or list
            The batch.
        device : torch.device
            The device, for messages.
        one : str
            The work on one image, as the subject of a message.
        knobs : str
            What makes the work smaller, as an imperative.

        Returns
        -------
        list
            What `work` returns for each part, in order.

        Raises
        ------
        DeviceMemoryError
            If not even one image fits.
        """
        parts: list[Part] = []
        start = 0
        while start < len(images):
            size = min(len(images) - start, self.images or len(images))
            some = images[start : start + size]
            # The next attempt is made outside of the handler: the error's traceback keeps the activations of
            # the failed pass alive until the handler ends, and the device's memory would stay full.
            try:
                parts.append(work(some))
                start += size
                self._say()
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                full = full_memory(error, device)
            torch.cuda.empty_cache()
            if size == 1:
                raise DeviceMemoryError(f"{one} does not fit: {full}; {knobs}")
            self._lower(size, full)
        return parts

    def _lower(self, size: int, full: str) -> None:
        """Halve the limit after a part of a size did not fit; `full` says of which memory."""
        logger.info("%d images at once do not fit: %s", size, full)
        if self.images is None:
            self._to_say = size, full
        self.images = min(self.images or size, -(-size // 2))

    def _say(self) -> None:
        """Warn, once a part has fitted, of the batch that did not."""
        if self._to_say is not None:
            logger.warning(
                "%d images at once do not fit: %s; %d at once do, and are computed from here on [TT112]",
                *self._to_say, self.images,
            )  # fmt: skip
            self._to_say = None
