"""Hyperparameters that are one value or a grid of values."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError

_LEAST = 1e-100


def values_of(given: object, default: Sequence[Any], name: str) -> list[Any]:
    """Return the values of a parameter to compare: those of a list, one value, or the default.

    Raises
    ------
    InputError
        For an empty list.
    """
    if given is None:
        return list(default)
    values = list(given) if isinstance(given, list | tuple | np.ndarray) else [given]
    if not values:
        raise InputError(f"{name} is an empty list; give at least one value")
    return values


def grid_of(value: npt.ArrayLike | None, name: str) -> list[float] | None:
    """Return a grid given as None (choose one), a number (fixed) or a sequence of numbers, sorted.

    Raises
    ------
    InputError
        If a value is not a finite number above 0 and between 1e-100 and 1e100, or the sequence is empty.
    """
    if value is None:
        return None
    try:
        values = np.atleast_1d(np.asarray(value))
    except ValueError as error:
        raise InputError(f"{name} is {value!r}; give None, a number above 0 or a list of them") from error
    if values.ndim != 1 or len(values) == 0 or values.dtype.kind not in "iuf":
        raise InputError(f"{name} is {value!r}; give None, a number above 0 or a list of them")
    grid = sorted({float(each) for each in values})
    if not (np.isfinite(grid).all() and grid[0] > 0):
        raise InputError(f"{name} is {value!r}; every value must be finite and above 0")
    # Squares of a width and quotients by a penalty must be numbers too.
    if not (grid[0] >= _LEAST and grid[-1] <= 1 / _LEAST):
        raise InputError(f"{name} is {value!r}; every value must be from {_LEAST:g} to {1 / _LEAST:g}")
    return grid


def check_single(name: str, value: npt.ArrayLike | None) -> None:
    """Refuse anything but one number where ``cv=None`` leaves out no rows to choose a number by."""
    if len(grid_of(value, name) or ()) != 1:
        raise InputError(
            f"{name} is {value!r}, but cv is None: nothing is left out to choose by; give one {name}, or a "
            "number of folds"
        )
