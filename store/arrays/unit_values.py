"""A unit's values on their way to disk: converted, checked, counted."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError, NumericalError
from toptune.store.arrays.spec import ArraySpec

logger = logging.getLogger(__name__)

# Pieces of this many values stay in the processor's caches.
_STEP = 2**16


@dataclass(frozen=True)
class StoredUnit:
    """A unit's values in the array's type, and whether all of them are finite."""

    values: npt.NDArray[np.number]
    is_finite: bool


def to_stored(
    spec: ArraySpec,
    values: npt.NDArray[np.number],
    *,
    rows: slice,
    failed: Mapping[int, str],
    image: Callable[[int], str],
) -> StoredUnit:
    """Convert a unit to the array's type on disk, with NaN in failed rows of features.

    Parameters
    ----------
    spec : ArraySpec
    values : array (rows, dim)
    rows : slice
        The unit's rows of the data set.
    failed : mapping of int to str
        Row of the data set to reason.
    image : callable
        Row of the data set to image id, for messages.

    Raises
    ------
    InputError
        If shape or type do not fit.
    NumericalError
        If a finite value becomes infinite; names the image and the array.
    """
    needed = (rows.stop - rows.start, spec.dim)
    if values.shape != needed:
        raise InputError(
            f"values of {spec.name} have shape {values.shape}; rows {rows.start} to {rows.stop} need {needed}"
        )
    if not spec.is_feature:
        if values.dtype != np.uint8:
            raise InputError(f"values of {spec.name} are {values.dtype}; uint8 is needed")
        return StoredUnit(values, True)
    if values.dtype.kind != "f":
        raise InputError(f"values of {spec.name} are {values.dtype}; floating point is needed")
    # Overflow is looked for below, where the message can name the image; numpy's warning could not.
    with np.errstate(over="ignore", invalid="ignore"):
        stored = values.astype(spec.dtype, copy=bool(failed))
    if failed:
        # NaN keeps a failed row recognizable even if the ledger entry is lost.
        stored[[row - rows.start for row in failed]] = np.nan
    if all_finite(stored):
        return StoredUnit(stored, True)
    # Infinity that the backbone computed is stored and counted. Infinity that the narrower type made is
    # refused, because a wider type holds the value.
    overflow = np.isinf(stored) & np.isfinite(values)
    if overflow.any():
        place = int(np.flatnonzero(overflow.any(axis=1))[0])
        row = rows.start + place
        value = float(values[place][overflow[place]][0])
        raise NumericalError(
            f"array {spec.name}: value {value:g} of image {image(row)!r} (row {row}) exceeds the "
            f"largest {spec.dtype}, {np.finfo(spec.dtype).max:g}; extract it again with "
            "--overwrite --dtype float32"
        )
    return StoredUnit(stored, False)


def count_non_finite(
    spec: ArraySpec,
    stored: StoredUnit,
    *,
    rows: slice,
    failed: Mapping[int, str],
    image: Callable[[int], str],
) -> int:
    """Count NaN and infinite values in rows that did not fail, and log them."""
    if stored.is_finite:
        return 0
    odd = ~np.isfinite(stored.values)
    odd[[row - rows.start for row in failed]] = False
    n_values = int(odd.sum())
    if n_values:
        places = np.flatnonzero(odd.any(axis=1))
        row = rows.start + int(places[0])
        logger.warning(
            "array %s: %d values are not finite in %d rows of %d to %d, first in row %d (%s) [TT114]",
            spec.name,
            n_values,
            len(places),
            rows.start,
            rows.stop,
            row,
            image(row),
        )
    return n_values


def all_finite(values: npt.NDArray[np.number]) -> bool:
    """Whether no value is NaN or infinite."""
    if values.dtype == np.float16:
        # Exponent bits tell: numpy tests float16 by way of float32, which takes several times as long.
        bits = np.ascontiguousarray(values).reshape(-1).view(np.uint16)
        parts = (bits[start : start + _STEP] for start in range(0, len(bits), _STEP))
        return not any(((part & 0x7C00) == 0x7C00).any() for part in parts)
    return bool(np.isfinite(values).all())


def agree(found: npt.NDArray[np.number], own: npt.NDArray[np.number], tolerance: float) -> bool:
    """Whether two computations of a unit's values are of the same images.

    Parameters
    ----------
    found, own : array (rows, dim)
        Both in the array's type.
    tolerance : float
        Largest difference, as a part of a row's largest value. Kinds of machines differ in the last bits.
        Bytes must be equal.
    """
    if own.dtype.kind != "f" or found.tobytes() == own.tobytes():
        return bool(np.array_equal(found, own, equal_nan=own.dtype.kind == "f"))
    a, b = found.astype(np.float64), own.astype(np.float64)
    finite = np.isfinite(b)
    # NaN and infinity stand in the same places, or other images failed.
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return False
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    scale = np.abs(b).max(axis=1, keepdims=True)
    return bool((np.abs(a - b) <= tolerance * scale).all())
