"""`Augmentation` is timm's training transform, with random choices that follow from a seed per image."""

import random
import threading
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image
from timm.data import create_transform
from torchvision.transforms.functional import hflip, resized_crop

# timm draws from Python's global generator, which threads share: a draw is seeded, made and undone by one
# thread at a time. Resizing, which takes the time, needs no lock.
_GENERATOR = threading.Lock()


class Augmentation:
    """Random resized crop and horizontal flip of timm's ``create_transform(is_training=True)``.

    The same image and seed give the same pixels, whichever thread asks and whatever was drawn before, so that
    an interrupted training resumes with the images that it would have seen.

    Parameters
    ----------
    config : mapping
        timm's resolved data configuration.
    flips : bool
        Whether half of the images, chosen at random, are flipped.
    least_scale : float
        Least share of the area that a crop keeps, in (0, 1].
    """

    def __init__(self, config: Mapping[str, object], *, flips: bool, least_scale: float) -> None:
        chain = create_transform(
            **config,
            is_training=True,
            color_jitter=None,
            scale=(least_scale, 1.0),
            hflip=0.5 if flips else 0.0,
        )
        # timm's chain starts with the crop and the flip. What follows turns bytes into normalized floats,
        # which the network's own transform does here.
        self._crop = chain.transforms[0]
        self._flip_share = float(chain.transforms[1].p) if flips else 0.0

    def __call__(self, image: Image.Image, seed: int) -> npt.NDArray[np.uint8]:
        """Crop and flip an RGB image; return ``(h, w, 3)`` bytes, not normalized."""
        with _GENERATOR:
            before = random.getstate()
            random.seed(seed)
            box = self._crop.get_params(image, self._crop.scale, self._crop.ratio)
            is_flipped = random.random() < self._flip_share  # noqa: S311
            random.setstate(before)
        cropped = resized_crop(image, *box, list(self._crop.size), self._crop.interpolation)
        return np.array(hflip(cropped) if is_flipped else cropped, dtype=np.uint8)
