"""`Reading`: which bands of an image a network takes, and which of their values are black and white."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError, UnreadableImageError
from toptune.extract.images.kinds.values import Values, range_of
from toptune.text import counted

COLORS = 3
# A first convolution of more bands than a file may have is a mistake.
MOST_BANDS = 1024
_PERCENTILE, _DTYPE = "percentile", "dtype"
_TAILS = (1, 99)
_WHITE = 255
# A used range of this share of the declared one, or less, is told.
_NARROW = 16


@dataclass(frozen=True)
class Reading:
    """What is stated of the values of images; part of the recipe as far as it is stated.

    Attributes
    ----------
    bands : tuple of int, optional
        Numbers of the bands, counted from 1, in the order in which the network takes them.
    scale : str, optional
        ``MIN:MAX``, the values that become 0 and 255; ``percentile``, the 1st and 99th of each band of
        each image; ``dtype``, the least and largest value of the file's type, and 0 and 1 of floats. By
        default the file has to say the range.
    channels : int
        Bands that the network takes.
    """

    bands: tuple[int, ...] | None = None
    scale: str | None = None
    channels: int = COLORS

    @property
    def is_stated(self) -> bool:
        """Whether images are read otherwise than as colors of the range that their files declare."""
        return self.bands is not None or self.scale is not None or self.channels != COLORS

    @property
    def words(self) -> dict[str, Any]:
        """What a recipe says of it beside the network's channels."""
        bands = {} if self.bands is None else {"bands": list(self.bands)}
        return bands | ({} if self.scale is None else {"scale": self.scale})

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> "Reading":
        """Read what `words` and a network's ``input_size`` say in a transform."""
        bands = config.get("bands")
        return cls(None if bands is None else tuple(bands), config.get("scale"), int(config["input_size"][0]))


# Colors of the range that their files declare.
AS_DECLARED = Reading()


def check_reading(bands: Sequence[int] | None, scale: str | None, channels: int | None) -> Reading:
    """Check the options ``--bands``, ``--scale`` and ``--in-chans``.

    Raises
    ------
    InputError
        If a band is no number from 1, their number does not fit the network, or the scale is none.
    """
    wanted = COLORS if channels is None else channels
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= MOST_BANDS:
        raise InputError(
            f"in_chans is {wanted!r:.60}; the first layer of a network takes 1 to {MOST_BANDS} bands",
            option="in_chans",
        )
    if bands is not None:
        wrong = [band for band in bands if isinstance(band, bool) or not isinstance(band, int) or band < 1]
        if wrong or not bands:
            raise InputError(
                f"bands are {', '.join(map(str, bands)) or 'none'}; they are whole numbers counted from 1, "
                "such as 3,2,1",
                option="bands",
            )
        if len(bands) != wanted and not (len(bands) == 1 and wanted == COLORS):
            one = ", or 1 that stands for all colors" if wanted == COLORS else ""
            raise InputError(
                f"{counted(len(bands), 'band')} for a network that takes {wanted}; name {wanted} of "
                f"them{one}, or give in_chans {len(bands)}",
                option="bands",
            )
    limits = None if scale is None else _limits(scale)
    if limits is not None:
        # One range has one text, and so one recipe.
        scale = ":".join(f"{limit:.15g}" for limit in limits)
    return Reading(None if bands is None else tuple(bands), scale, wanted)


def _limits(scale: str) -> tuple[float, float] | None:
    """Return the two values of ``MIN:MAX``; None for a word."""
    if scale in (_PERCENTILE, _DTYPE):
        return None
    low, colon, high = str(scale).partition(":")
    try:
        limits = float(low), float(high)
    except ValueError:
        limits = math.nan, math.nan
    if not colon or not all(map(math.isfinite, limits)) or limits[0] >= limits[1]:
        raise InputError(
            f"scale is {scale!r:.60}; give the values that become black and white, MIN:MAX such as 0:3000 "
            "with MIN below MAX, or percentile, or dtype",
            option="scale",
        )
    return limits


@dataclass(frozen=True)
class Scaled:
    """The bands that a network takes, in 8 bits.

    Attributes
    ----------
    pixels : array (h, w, c) of uint8
        The bands.
    bits : int, optional
        Bits that the file declares, where they were the scale.
    uses_little : bool, optional
        Whether the values use a sixteenth of the declared range or less; None where a scale is stated.
    """

    pixels: npt.NDArray[np.uint8]
    bits: int | None = None
    uses_little: bool | None = None


def scaled(values: Values, reading: Reading) -> Scaled:
    """Choose the bands of an image and scale them to 8 bits, rounded, values beyond black and white cut off.

    Raises
    ------
    UnreadableImageError
        If a band does not exist, the bands are not as many as the network takes, nothing says the range, or
        values are not finite.
    """
    pixels = _chosen(values, reading)
    height, width, n = pixels.shape
    kind = pixels.dtype.kind
    if kind == "f" and not np.isfinite(pixels).all():
        n_odd = int((~np.isfinite(pixels)).sum())
        raise UnreadableImageError(
            f"not supported: {values.what} in which {n_odd} of {pixels.size} values are not finite; fill them"
        )
    if kind == "b":
        pixels = pixels.astype(np.uint8)
    limits, bits, uses_little = _black_and_white(pixels, values, reading)
    found = np.empty((height, width, n), dtype=np.uint8)
    for band in range(n):
        found[..., band] = _to_bytes(pixels[..., band], *limits[band])
    if values.is_inverted:
        np.subtract(_WHITE, found, out=found)
    if n < reading.channels:
        found = np.repeat(found, reading.channels, axis=2)
    return Scaled(found, bits, uses_little)


def _chosen(values: Values, reading: Reading) -> npt.NDArray[Any]:
    pixels, n, wanted = values.pixels, values.n_bands, reading.channels
    there = f"{values.what} has {counted(n, 'band')}"
    if reading.bands is not None:
        if max(reading.bands) > n:
            raise UnreadableImageError(
                f"{there}, counted from 1, and --bands asks for {max(reading.bands)}; give existing ones"
            )
        return np.take(pixels, [band - 1 for band in reading.bands], axis=2)
    if values.has_alpha and n - 1 in (wanted, 1) and n != wanted:
        pixels, n = pixels[..., :-1], n - 1
    if n == wanted or (n == 1 and wanted == COLORS):
        return pixels
    raise UnreadableImageError(
        f"not supported: {there}, and the network takes {wanted}; choose them with --bands of extract, "
        f"such as {','.join(str(min(n, band + 1)) for band in range(min(wanted, 4)))}, or give --in-chans {n}"
    )


def _black_and_white(
    pixels: npt.NDArray[Any], values: Values, reading: Reading
) -> tuple[list[tuple[float, float]], int | None, bool | None]:
    n = pixels.shape[2]
    if reading.scale == _PERCENTILE:
        found = np.percentile(pixels.reshape(-1, n), _TAILS, axis=0)
        return [(float(low), float(high)) for low, high in found.T], None, None
    if reading.scale == _DTYPE:
        said = values.declared
        is_unsigned = values.pixels.dtype.kind == "u"
        limits = said if said is not None and is_unsigned else range_of(values.pixels.dtype)
        return [values.type_range or limits] * n, None, None
    if reading.scale is not None:
        limits = _limits(reading.scale) or (0.0, 1.0)
        return [limits] * n, None, None
    if values.declared is None:
        raise UnreadableImageError(
            f"not supported: {values.what} of {values.pixels.dtype} values from {pixels.min():g} to "
            f"{pixels.max():g}, of which no file says what is black and white; say it with --scale MIN:MAX, "
            "--scale percentile or --scale dtype of extract"
        )
    low, high = values.declared
    span = float(pixels.max()) - float(pixels.min())
    uses_little = 0 < span * _NARROW <= abs(high - low)
    return [(low, high)] * n, values.bits, uses_little if values.bits is not None else None


def _to_bytes(band: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Scale values so that `low` becomes 0 and `high` 255; halves are rounded up.

    A band without a range, all of whose values are one, becomes 0.
    """
    if band.dtype == np.uint8 and (low, high) == (0, _WHITE):
        return np.asarray(band, dtype=np.uint8)
    if low == high:
        return np.zeros(band.shape, dtype=np.uint8)
    if band.dtype.kind in "iu" and band.dtype.itemsize <= 2:
        # A table takes a few bytes a pixel, where arithmetic in float64 takes 16.
        limits = np.iinfo(band.dtype)
        table = _exact(np.arange(limits.min, limits.max + 1), low, high)
        return table[band.astype(np.int64) - limits.min]
    return _exact(band, low, high)


def _exact(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    # An image of float32 is scaled in float64, so that rounding does not depend on the type of the file.
    shares = (values.astype(np.float64) - low) * _WHITE / (high - low)
    return np.clip(np.floor(shares + 0.5), 0, _WHITE).astype(np.uint8)
