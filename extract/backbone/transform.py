"""timm's evaluation transform, cut where pixels are still bytes."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from timm.data import create_transform
from torchvision import transforms

from toptune.errors import InputError, UnreadableImageError
from toptune.extract.backbone.libraries.data_config import CENTER_FLOOR, FloorCrop
from toptune.extract.backbone.torch_resize import FloatResize, TorchResize, can_resize
from toptune.extract.images.decode import Decoding
from toptune.extract.images.kinds.band_image import AnyImage, BandImage
from toptune.extract.images.kinds.reading import Reading

# A strip of 1 x 100000 pixels is a small file, and with its short edge resized to 256 it has 6.5 billion
# pixels.
MAX_RESIZED_PIXELS = 2**26
# What a recipe says of the reading of images, and timm's transform does not know.
_OF_READING = ("bands", "scale")
_COLORS = 3


class EvalTransform:
    """Turns an image into the tensor that timm's ``create_transform(**config, is_training=False)`` gives.

    The two halves serve extraction: workers resize and crop (`pixels`, bytes), the device turns
    a whole batch into normalized floats (`normalize`). Together they do the same operations.

    Parameters
    ----------
    config : mapping
        timm's resolved data configuration, and what is stated of bands and their scale.
    route : str
        One of `toptune.store.features.recipe.ROUTES`: ``draft`` lets JPEGs be decoded at a fraction of their
        size that is still twice what resizing asks for; ``fast`` resizes by torch where torch has the
        model's steps, and is the exact route elsewhere; ``gpu`` decodes and resizes whole batches on a CUDA
        device, see `DeviceDecoder`. Of single images on the CPU it resizes by the same arithmetic.

    Raises
    ------
    InputError
        If ``gpu`` is asked for, and torch does not have the model's steps.

    Attributes
    ----------
    is_on_device : bool
        Whether batches are decoded and resized on a CUDA device.
    """

    def __init__(self, config: Mapping[str, Any], *, route: str = "exact") -> None:
        self.config = dict(config)
        # At twice the edge, pixels differ by 0.3 of 255 on average; at the edge itself by more than 1.
        draft_edge = 2 * self._edge if route.startswith("draft") else None
        reading = Reading.of_config(self.config)
        self.decoding = Decoding(draft_edge, version=1 if route.endswith("-1") else 2, reading=reading)
        # The transform is cut before its last two steps, because bytes are a quarter of floats on their way
        # to the device. A version of timm that ends in other steps must not be cut there.
        steps = self._steps()
        if not (isinstance(steps[-2], transforms.ToTensor) and isinstance(steps[-1], transforms.Normalize)):
            raise InputError(
                f"timm's transform ends in {steps[-2:]}, which this version of toptune does not know"
            )
        if self.config["crop_mode"] == CENTER_FLOOR:
            # timm takes a mode that it does not know for its default, the center.
            steps[1] = FloorCrop(self.size)
        is_fast = route == "fast" and can_resize(steps[:-2])
        self._geometry: Callable[[Any], Any]
        if route == "gpu":
            self._geometry = FloatResize(self._resizable(steps[:-2]))
        else:
            self._geometry = TorchResize(steps[:-2]) if is_fast else transforms.Compose(steps[:-2])
        self.is_on_device = route == "gpu"
        self.route = "exact" if route == "fast" and not is_fast else route
        # Mean and standard deviation by the device on which they lie.
        self._moments: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def _steps(self) -> list[Any]:
        """Return timm's steps, those of three channels, which hold for every band alike but for moments."""
        config = {name: value for name, value in self.config.items() if name not in _OF_READING}
        if self.n_channels != _COLORS:
            config |= {"input_size": (_COLORS, *self.size), "mean": (0.5,) * _COLORS, "std": (0.5,) * _COLORS}
        steps: list[Any] = create_transform(**config, is_training=False).transforms
        return steps

    @property
    def n_channels(self) -> int:
        """Bands of an image that the model takes."""
        return int(self.config["input_size"][0])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input in pixels."""
        return int(self.config["input_size"][1]), int(self.config["input_size"][2])

    @property
    def resized_to(self) -> int | list[int] | None:
        """What timm's step ``Resize`` is given: the shorter edge, or height and width; None without one."""
        steps = self._steps()
        wanted = steps[0].size if isinstance(steps[0], transforms.Resize) else None
        return wanted if wanted is None or isinstance(wanted, int) else list(wanted)

    @property
    def geometry(self) -> dict[str, Any]:
        """Options that decide the result of `pixels`; models of equal geometry see the same pixels."""
        # Borders are filled with the mean.
        unseen = ("std",) if self.config["crop_mode"] == "border" else ("mean", "std")
        shape = {key: value for key, value in self.config.items() if key not in unseen}
        return shape | dataclasses.asdict(self.decoding) | {"route": self.route}

    def exact(self) -> "EvalTransform":
        """Return the transform that decodes and resizes all that an image has, by the same version."""
        return EvalTransform(self.config, route="exact-1" if self.decoding.version == 1 else "exact")

    def off_device(self) -> "EvalTransform":
        """Return a transform of the same arithmetic for images that the CPU decodes and resizes."""
        other = EvalTransform(self.config, route=self.route)
        other.is_on_device = False
        return other

    def pixels(self, image: AnyImage) -> npt.NDArray[np.uint8]:
        """Resize and crop an image to ``(h, w, c)`` bytes, each band as Pillow or torch does a gray image.

        Raises
        ------
        UnreadableImageError
            If the image is so long and thin that resizing its short edge would explode, or the steps fail on
            it for another reason.
        """
        self.check_shape(image.size)
        try:
            if isinstance(image, BandImage) and not isinstance(self._geometry, TorchResize):
                bands = [np.array(self._geometry(band), dtype=np.uint8) for band in image.bands]
                pixels = np.stack(bands, axis=-1)
            else:
                pixels = np.array(self._geometry(image), dtype=np.uint8)
        except Exception as error:  # a step of any model's transform may raise anything on an odd shape
            raise UnreadableImageError(
                f"the model's transform cannot use {image.width} x {image.height} pixels: "
                f"{str(error) or type(error).__name__}"
            ) from error
        if pixels.shape != (*self.size, self.n_channels):
            raise UnreadableImageError(
                f"the model's transform turns {image.width} x {image.height} pixels into an array of shape "
                f"{pixels.shape}, not {(*self.size, self.n_channels)}"
            )
        return pixels

    def resized(self, image: torch.Tensor) -> torch.Tensor:
        """Do as `pixels` on the device of an image ``(3, h, w)`` of bytes; only on the route ``gpu``."""
        self.check_shape((image.shape[2], image.shape[1]))
        assert isinstance(self._geometry, FloatResize), "no other route is on a device"
        return self._geometry.resized(image)

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn bytes ``(b, h, w, c)`` into floats ``(b, c, h, w)`` on the same device."""
        mean, std = self._moments_on(pixels.device)
        # These are the operations of ToTensor and Normalize, so that the result equals theirs to the bit.
        return pixels.permute(0, 3, 1, 2).to(torch.float32).div(255).sub_(mean).div_(std)

    def _moments_on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation ``(c, 1, 1)`` on a device."""
        # A copy to a CUDA device makes the caller wait until the device has done all that it was given, so
        # that no batch could be launched ahead: the values are copied once.
        if device not in self._moments:
            # Training takes the same tensors as inference, whose own may take no part in gradients.
            with torch.inference_mode(False):
                mean, std = (torch.tensor(self.config[name]).view(-1, 1, 1) for name in ("mean", "std"))
                self._moments[device] = mean.to(device), std.to(device)
        return self._moments[device]

    def __call__(self, image: AnyImage) -> torch.Tensor:
        """Turn a decoded image into ``(c, h, w)`` floats."""
        return self.normalize(torch.from_numpy(self.pixels(image))[None])[0].contiguous()

    def check_shape(self, size: tuple[int, int]) -> None:
        """Refuse an image, by width and height, that resizing would make larger than the limit.

        Raises
        ------
        UnreadableImageError
            If the resized image would have more than `MAX_RESIZED_PIXELS`.
        """
        n_pixels = self.resized_pixels(size)
        if n_pixels > MAX_RESIZED_PIXELS:
            raise UnreadableImageError(
                f"{size[0]} x {size[1]} is too long and thin: with its short edge at {self._edge} it would "
                f"have {n_pixels} pixels, more than the limit of {MAX_RESIZED_PIXELS}; crop it"
            )

    def resized_pixels(self, size: tuple[int, int]) -> int:
        """Return how many pixels an image, by width and height, has when it is resized and not cropped."""
        # Other modes of cropping do not scale an image by the short edge.
        if self.config["crop_mode"] not in ("center", CENTER_FLOOR):
            return self.size[0] * self.size[1]
        return self._edge * self._edge * max(size) // max(1, min(size))

    def _resizable(self, steps: Sequence[Any]) -> Sequence[Any]:
        """Return the steps that are to be done on a device; refuse those that it does not have."""
        if not can_resize(steps):
            height, width = self.size
            raise InputError(
                "decode gpu does not have this model's resizing: interpolation "
                f"{self.config['interpolation']!r} and crop_mode {self.config['crop_mode']!r} to {height} x "
                f"{width} pixels; it has bilinear and bicubic interpolation, with crop_mode squash, or with "
                "center for square inputs; use --decode exact",
                option="decode",
            )
        return steps

    @property
    def _edge(self) -> int:
        """Length of the shorter edge of the resized image in pixels."""
        return math.floor(max(self.size) / float(self.config["crop_pct"]))
