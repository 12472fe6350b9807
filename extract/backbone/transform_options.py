"""Checks of what is given in place of a model's own transform, without loading torch."""

import math
from collections.abc import Sequence

from toptune.errors import InputError

INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "hamming", "box")


def check_transform_options(
    *,
    img_size: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    crop_pct: float | None,
    interpolation: str | None,
) -> None:
    """Refuse values that no transform can have.

    Parameters
    ----------
    img_size, mean, std, crop_pct, interpolation : optional
        As given to `load_backbone`; None is the model's own.

    Raises
    ------
    InputError
        If one is out of its range, or not finite.
    """
    for option, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) not in (1, 3):
            raise InputError(f"{option} has {len(values)} values; give 1 or 3")
        if values is not None and not all(math.isfinite(value) for value in values):
            raise InputError(f"{option} is {', '.join(map(str, values))}; its values must be finite numbers")
    if std is not None and min(std) <= 0:
        raise InputError(f"std {list(std)} must be positive")
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise InputError(f"crop_pct is {crop_pct}; it must be above 0 and at most 1")
    if interpolation is not None and interpolation not in INTERPOLATIONS:
        raise InputError(f"interpolation {interpolation!r} is none of {', '.join(INTERPOLATIONS)}")
    if img_size is not None and not (isinstance(img_size, int) and img_size > 0):
        raise InputError(f"img_size is {img_size!r}; it must be a positive whole number of pixels")
