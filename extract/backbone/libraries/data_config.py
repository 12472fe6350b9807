"""Transforms of other libraries, said as timm's data configuration."""

import math
from collections.abc import Sequence
from typing import Any

from torchvision.transforms import CenterCrop, InterpolationMode
from torchvision.transforms.functional import crop, get_dimensions

from toptune.errors import InputError

# The crop of libraries that round half a pixel down; torchvision, and timm with it, round it to even.
CENTER_FLOOR = "center-floor"


class FloorCrop(CenterCrop):  # type: ignore[misc]
    """A center crop that rounds half a pixel down; the image is at least as large as the crop."""

    def forward(self, img: Any) -> Any:
        _, height, width = get_dimensions(img)
        tall, wide = self.size
        return crop(img, (height - tall) // 2, (width - wide) // 2, tall, wide)


def data_config(
    size: tuple[int, int],
    *,
    resized: int | tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str,
    where: str,
    is_floored: bool = False,
) -> dict[str, Any]:
    """Say a resize and a center crop as timm does.

    Parameters
    ----------
    size : tuple of int
        Height and width of the network's input in pixels.
    resized : int or tuple of int
        What an image is resized to before the crop: the shorter edge, or height and width.
    mean, std : sequence of float
        Normalization, by channel, of pixels from 0 to 1.
    interpolation : str
        As timm names it.
    where : str
        Whose transform it is, for messages.
    is_floored : bool
        Whether the crop rounds half a pixel down.

    Returns
    -------
    dict
        ``input_size``, ``interpolation``, ``mean``, ``std``, ``crop_pct`` and ``crop_mode``.

    Raises
    ------
    InputError
        If timm has no words for the step.

    Examples
    --------
    >>> config = data_config(
    ...     (224, 224), resized=232, mean=[0.5] * 3, std=[0.5] * 3, interpolation="bilinear", where="it"
    ... )
    >>> config["crop_mode"], round(config["crop_pct"], 3)
    ('center', 0.966)
    """
    if isinstance(resized, int):
        if size[0] != size[1]:
            raise InputError(
                f"{where} resizes the shorter edge to {resized} and crops {size[0]} x {size[1]} pixels; "
                "toptune takes such a crop only as a square"
            )
        mode = CENTER_FLOOR if is_floored else "center"
        edges = [(size[0], resized)]
    else:
        mode = "squash"
        edges = list(zip(size, resized, strict=True))
        if is_floored and any((large - small) % 2 for small, large in edges):
            raise InputError(
                f"{where} crops {size} of {resized} pixels and rounds half a pixel down, which timm's "
                "transform does not"
            )
    if any(large < small for small, large in edges):
        raise InputError(f"{where} crops {size} pixels of {resized}, which pads images; toptune pads none")
    if not len(mean) == len(std) == 3:
        raise InputError(f"{where} normalizes {len(mean)} channels; toptune gives it RGB")
    share = _share(edges)
    if share is None:
        raise InputError(f"{where} crops {size} of {resized} pixels, for which timm has no one crop_pct")
    return {
        "input_size": [3, *size],
        "interpolation": interpolation,
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
        "crop_pct": share,
        "crop_mode": mode,
    }


def interpolation_name(mode: InterpolationMode) -> str:
    """Return timm's name of a mode of torchvision."""
    return str(mode.value)


def _share(edges: Sequence[tuple[int, int]]) -> float | None:
    """Return the ``crop_pct`` by which timm, which rounds down, resizes each edge to what it should be."""
    share = edges[0][0] / edges[0][1]
    for each in (share, math.nextafter(share, 0)):
        if all(math.floor(small / each) == large for small, large in edges):
            return each
    return None
