"""A unit's values on their way to disk: converted, checked, counted."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store.array_spec import ArraySpec
from toptune.store.errors import InputError, NumericalError

logger = logging.getLogger(__name__)


def to_stored(
    spec: ArraySpec,
    values: npt.NDArray[Any],
    *,
    rows: slice,
    failed: Mapping[int, str],
    picture: Callable[[int], str],
) -> npt.NDArray[Any]:
    """Convert a unit to the array's type on disk, with NaN in failed rows of features.

    Parameters
    ----------
    spec : ArraySpec
    values : array (rows, dim)
    rows : slice
        The unit's rows of the data set.
    failed : mapping of int to str
        Row of the data set to reason.
    picture : callable
        Row of the data set to picture id, for messages.

    Raises
    ------
    InputError
        If shape or type do not fit.
    NumericalError
        If a finite value becomes infinite; names the picture and the array.
    """
    needed = (rows.stop - rows.start, spec.dim)
    if values.shape != needed:
        raise InputError(
            f"values of {spec.name} have shape {values.shape}; rows {rows.start} to {rows.stop} need {needed}"
        )
    if not spec.is_feature:
        if values.dtype != np.uint8:
            raise InputError(f"values of {spec.name} are {values.dtype}; uint8 is needed")
        return values
    if values.dtype.kind != "f":
        raise InputError(f"values of {spec.name} are {values.dtype}; floating point is needed")
    with np.errstate(over="ignore", invalid="ignore"):
        stored = values.astype(spec.dtype)
    stored[[row - rows.start for row in failed]] = np.nan
    overflow = np.isinf(stored) & np.isfinite(values)
    if overflow.any():
        place = int(np.flatnonzero(overflow.any(axis=1))[0])
        row = rows.start + place
        value = float(values[place][overflow[place]][0])
        raise NumericalError(
            f"array {spec.name}: value {value:g} of picture {picture(row)!r} (row {row}) exceeds the "
            f"largest {spec.dtype}, {np.finfo(spec.dtype).max:g}; extract it again with "
            "--overwrite --dtype float32"
        )
    return stored


def count_non_finite(
    spec: ArraySpec,
    stored: npt.NDArray[Any],
    *,
    rows: slice,
    failed: Mapping[int, str],
    picture: Callable[[int], str],
) -> int:
    """Count NaN and infinite values in rows that did not fail, and log them."""
    if not spec.is_feature:
        return 0
    odd = ~np.isfinite(stored)
    odd[[row - rows.start for row in failed]] = False
    n_values = int(odd.sum())
    if n_values:
        places = np.flatnonzero(odd.any(axis=1))
        row = rows.start + int(places[0])
        logger.warning(
            "array %s: %d values are not finite in %d rows of %d to %d, first in row %d (%s)",
            spec.name,
            n_values,
            len(places),
            rows.start,
            rows.stop,
            row,
            picture(row),
        )
    return n_values


def blank_rows(stored: npt.NDArray[Any], rows: slice) -> list[int]:
    """List the rows of the data set whose stored features are all NaN."""
    return [rows.start + int(place) for place in np.flatnonzero(np.isnan(stored).all(axis=1))]
