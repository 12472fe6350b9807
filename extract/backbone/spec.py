"""`BackboneSpec`: everything that decides how a backbone is loaded, checked without loading torch."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from toptune.errors import InputError
from toptune.extract.images.decode import ROUTES
from toptune.options import check_choice

INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "hamming", "box")
PRECISIONS = ("fp32", "bf16", "auto")


class BackboneArguments(TypedDict, total=False):
    """The keywords of `BackboneSpec`."""

    weights: str | os.PathLike[str] | None
    precision: str
    img_size: int | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    crop_pct: float | None
    interpolation: str | None
    model_kwargs: Mapping[str, Any] | None
    fold: bool
    compiled: bool
    decode: str


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """How a backbone is loaded, beside its name and its device.

    Attributes
    ----------
    weights : path, optional
        A checkpoint in place of the model's own weights: safetensors, or a torch file without code. The
        checkpoint must fit exactly, except that a classification head is dropped, because features do not
        need one.
    precision : {"auto", "fp32", "bf16"}
        Arithmetic of the forward pass. ``auto`` is bf16 where the device computes in bf16, fp32 elsewhere.
    img_size : int, optional
        Height and width of the network's input in pixels, in place of the model's own.
    mean, std : sequence of float, optional
        Mean and standard deviation that pixels are normalized with, one value or one a channel, in place of
        the model's own.
    crop_pct : float, optional
        Share of the resized image that the center crop keeps, above 0 and at most 1, in place of the model's
        own.
    interpolation : str, optional
        How images are resized: bilinear, bicubic, nearest, lanczos, hamming or box; the model's own by
        default.
    model_kwargs : mapping, optional
        Further arguments of ``timm.create_model``; JSON values.
    fold : bool
        Fold batch norms into the convolutions before them where that changes nothing but rounding.
    compiled : bool
        Compile the forward pass with ``torch.compile``, which takes a C++ compiler and about a minute.
    decode : {"exact", "draft", "exact-1", "draft-1"}
        ``draft`` decodes large JPEGs at a fraction of their size that is at least twice what the resizing
        leaves: up to four times as fast for photographs of 12 megapixels, with pixels that differ by 0.3 of
        255 on average and by 5 at most. ``exact-1`` and ``draft-1`` are the routes of older features, which
        ignored what files say of samples of more than 8 bits: features that were begun by them go on so.

    Raises
    ------
    InputError
        If a value is out of its range, or not finite.

    Examples
    --------
    >>> BackboneSpec(img_size=64, fold=False).to_dict()["img_size"]
    64
    >>> BackboneSpec(crop_pct=1.5)
    Traceback (most recent call last):
    toptune.errors.InputError: crop_pct is 1.5; it must be above 0 and at most 1
    """

    weights: str | os.PathLike[str] | None = None
    precision: str = "auto"
    img_size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    model_kwargs: Mapping[str, Any] | None = None
    fold: bool = True
    compiled: bool = False
    decode: str = "exact"

    def __post_init__(self) -> None:
        # A value that is not finite would turn every feature into NaN.
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is None:
                continue
            if len(values) not in (1, 3):
                raise InputError(f"{name} has {len(values)} values; give 1 or 3")
            if not all(math.isfinite(value) for value in values):
                raise InputError(
                    f"{name} is {', '.join(map(str, values))}; its values must be finite numbers"
                )
        if self.std is not None and min(self.std) <= 0:
            raise InputError(f"std {list(self.std)} must be positive")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise InputError(f"crop_pct is {self.crop_pct}; it must be above 0 and at most 1")
        if self.img_size is not None and not (isinstance(self.img_size, int) and self.img_size > 0):
            raise InputError(f"img_size is {self.img_size!r}; it must be a positive whole number of pixels")
        for name, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("decode", self.decode, tuple(ROUTES)),
        ):
            check_choice(value, known, option=name)
        if self.interpolation is not None:
            check_choice(self.interpolation, INTERPOLATIONS, option="interpolation")

    def to_dict(self) -> dict[str, Any]:
        """Return all options as JSON values, as far as `model_kwargs` holds JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {
            "weights": None if self.weights is None else os.fspath(self.weights),
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
            "model_kwargs": None if self.model_kwargs is None else dict(self.model_kwargs),
        }

    def transform_options(self) -> dict[str, Any]:
        """Return what timm's ``resolve_data_config`` takes in place of a model's own transform."""
        values = self.to_dict()
        return {name: values[name] for name in ("img_size", "mean", "std", "crop_pct", "interpolation")}
