"""`BackboneSpec`: everything that decides how a backbone is loaded, checked without loading torch."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from toptune.errors import InputError
from toptune.extract.images.decode import AUTO
from toptune.extract.images.kinds.reading import Reading, check_reading
from toptune.options import check_choice
from toptune.store.features.recipe import ROUTES
from toptune.store.files.json_records import record_from_json

# The pixels of two images are held as floats when a network is looked at; 4,096 pixels take 400 MB.
MAX_IMG_SIZE = 4096
_MOST_CROP = 10
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "hamming", "box")
PRECISIONS = ("fp32", "bf16", "fp16", "auto")
# Routes that know nothing of bands and scales.
_NOT_STATED = ("gpu", "exact-1", "draft-1")


def check_decode_device(decode: str, device: str) -> None:
    """Refuse the decode route ``gpu`` on a device that does not have it.

    Raises
    ------
    InputError
        If the route is ``gpu`` and `device` is ``cpu`` or ``mps``.
    """
    if decode == "gpu" and device in ("cpu", "mps"):
        raise InputError(
            f"decode gpu decodes and resizes on a CUDA device, and the device is {device}; use --device "
            "cuda, or extract with --decode fast",
            option="decode",
        )


@dataclass(frozen=True, kw_only=True)
class BackboneRecord:
    """The options of `BackboneSpec` and the name as a record has them, by which the backbone is loaded again.

    Absent keys have the defaults of `load_backbone`.
    """

    name: str
    weights: str | None = None
    precision: str = "fp32"
    img_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    model_kwargs: Mapping[str, object] | None = None
    fold: bool = False
    compiled: bool = False
    decode: str = "exact"
    in_chans: int | None = None
    bands: tuple[int, ...] | None = None
    scale: str | None = None

    @classmethod
    def read(cls, values: Mapping[str, object], *, where: str) -> dict[str, Any]:
        """Check the JSON values of a record, and return them as keywords of `load_backbone`.

        Raises
        ------
        CorruptError
            If the name is missing, or a value is of another type.
        """
        record = record_from_json(cls, values, where=where)
        return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


@dataclass(frozen=True, kw_only=True)
class TransformRecord:
    """What timm's model configurations say of the transform, as far as it is given."""

    input_size: tuple[int, ...] | None = None
    test_input_size: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    crop_mode: str | None = None
    classifier: object = None
    others: Mapping[str, object] = dataclasses.field(default_factory=dict)


def check_transform(config: Mapping[str, Any], *, where: str) -> None:
    """Refuse a resolved transform of sizes and numbers that no network has, before one is built for them.

    Parameters
    ----------
    config : mapping
        ``input_size``, ``mean``, ``std``, ``crop_pct`` and ``interpolation``.
    where : str
        Whose transform it is, for the message.

    Raises
    ------
    InputError
        If a size is not from 1 to `MAX_IMG_SIZE`, or a number is not finite.
    """
    size, shown = config["input_size"], f"{config['input_size']!r:.60}"
    if not (len(size) == 3 and all(type(each) is int and 0 < each <= MAX_IMG_SIZE for each in size)):
        raise InputError(
            f"{where} takes images of {shown} values; they must be channels, height and width, at most "
            f"{MAX_IMG_SIZE}"
        )
    for name in ("mean", "std"):
        if not all(math.isfinite(value) for value in config[name]) or (
            name == "std" and min(config[name]) <= 0
        ):
            raise InputError(f"{where} has {name} {config[name]!r:.60}; they must be finite, and std above 0")
    check_choice(config["interpolation"], (*INTERPOLATIONS, "random"), option="interpolation")
    if not 0 < config["crop_pct"] < _MOST_CROP:
        raise InputError(f"{where} has crop_pct {config['crop_pct']}; it must be above 0 and at most 1")


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
    in_chans: int | None
    bands: Sequence[int] | None
    scale: str | None


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """How a backbone is loaded, beside its name and its device.

    Attributes
    ----------
    weights : path, optional
        A checkpoint in place of the model's own weights: safetensors, or a torch file without code. The
        checkpoint must fit exactly, except that a classification head is dropped, because features do not
        need one.
    precision : {"auto", "fp32", "bf16", "fp16"}
        Arithmetic of the forward pass. ``auto`` is bf16 where the device multiplies bf16 in hardware, fp16 on
        CUDA devices that have only that (compute capability 7.0 to 7.5: V100, T4), fp32 elsewhere. fp16
        rounds eight times as finely as bf16 and ends at 65504: an image whose features leave that range stops
        an extraction.
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
    decode : {"auto", "fast", "exact", "gpu", "draft", "exact-1", "draft-1"}
        ``auto`` is ``fast`` for new features; features that were begun by the exact route go on with it.
        ``exact`` gives the pixels of timm's own transform. ``fast`` resizes by torch instead of Pillow, which
        takes a fifth of the time; pixels of photographs differ by 1 of 255 in less than 1 % of the values.
        Models whose transform does not scale and crop by bilinear or bicubic interpolation take the exact
        route, and their recipe says so. ``gpu`` decodes JPEGs by nvJPEG and resizes on a CUDA device; images
        are read on no other device, and models that ``fast`` does not have are refused. ``draft`` decodes
        large JPEGs at a fraction of their size that is at least twice what the resizing leaves: up to four
        times as fast for photographs of 12 megapixels, with pixels that differ by 0.3 of 255 on average and
        by 5 at most. ``exact-1`` and ``draft-1`` are the routes of older features, which ignored what files
        say of samples of more than 8 bits: features that were begun by them go on so.
    in_chans : int, optional
        Bands that the network takes, 3 by default. timm adapts the weights of the first layer: it sums them
        for one band, and repeats and scales them for others. Mean and standard deviation are the averages of
        the model's own unless they are given.
    bands : sequence of int, optional
        Bands of the images for the network, counted from 1, in its order; one band may stand for all colors.
    scale : str, optional
        Which values become 0 and 255: ``MIN:MAX``; ``percentile``, the 1st and 99th of each band of each
        image; or ``dtype``, the least and the largest value of the file's type, 0 and 1 for floats. By
        default what the file declares; files that declare nothing are refused.

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
    decode: str = AUTO
    in_chans: int | None = None
    bands: Sequence[int] | None = None
    scale: str | None = None

    def __post_init__(self) -> None:
        if self.reading.is_stated and self.decode in _NOT_STATED:
            raise InputError(
                f"decode {self.decode} reads colors of 8 bits alone; with --bands, --scale or --in-chans use "
                "--decode fast or exact",
                option="decode",
            )
        # A value that is not finite would turn every feature into NaN.
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is None:
                continue
            if len(values) not in (1, self.reading.channels):
                raise InputError(f"{name} has {len(values)} values; give 1 or {self.reading.channels}")
            if not all(math.isfinite(value) for value in values):
                raise InputError(
                    f"{name} is {', '.join(map(str, values))}; its values must be finite numbers"
                )
        if self.std is not None and min(self.std) <= 0:
            raise InputError(f"std {list(self.std)} must be positive")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise InputError(f"crop_pct is {self.crop_pct}; it must be above 0 and at most 1")
        if self.img_size is not None and not (
            isinstance(self.img_size, int) and 0 < self.img_size <= MAX_IMG_SIZE
        ):
            raise InputError(
                f"img_size is {self.img_size!r:.60}; it must be a positive whole number of pixels, at most "
                f"{MAX_IMG_SIZE}"
            )
        if self.interpolation is not None:
            check_choice(self.interpolation, INTERPOLATIONS, option="interpolation")
        for name, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("decode", self.decode, (AUTO, *ROUTES)),
        ):
            check_choice(value, known, option=name)
        if self.interpolation is not None:
            check_choice(self.interpolation, INTERPOLATIONS, option="interpolation")

    @property
    def reading(self) -> Reading:
        """What is stated of the bands of images.

        Raises
        ------
        InputError
            If `bands`, `scale` or `in_chans` cannot be meant.
        """
        return check_reading(self.bands, self.scale, self.in_chans)

    def to_dict(self) -> dict[str, Any]:
        """Return all options as JSON values, as far as `model_kwargs` holds JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {
            "weights": None if self.weights is None else os.fspath(self.weights),
            "mean": None if self.mean is None else list(self.mean),
            "std": None if self.std is None else list(self.std),
            "bands": None if self.bands is None else list(self.bands),
            "model_kwargs": None if self.model_kwargs is None else dict(self.model_kwargs),
        }

    def transform_options(self) -> dict[str, Any]:
        """Return what timm's ``resolve_data_config`` takes in place of a model's own transform."""
        values = self.to_dict()
        return {name: values[name] for name in ("img_size", "mean", "std", "crop_pct", "interpolation")}
