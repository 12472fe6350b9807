"""A cache as a dask array: a lazy chunk for each unit, which is checked when it is read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.features.blocks import row_numbers
from toptune.store.features.feature_cache import FeatureCache


def as_dask_array(cache: FeatureCache, names: Sequence[str], rows: npt.ArrayLike | None = None) -> Any:
    """Return columns of arrays side by side as a ``dask.array.Array``.

    Parameters
    ----------
    cache : FeatureCache
    names : sequence of str
        Arrays, in the order of their columns.
    rows : array of int (m,), optional
        Rows of the data set, in any order; by default all of them.

    Returns
    -------
    dask.array.Array, shape (n, d) or (m, d)
        A chunk holds the rows of one unit. If `rows` are not sorted, a chunk holds as many rows as a unit and
        may read several units. Reading compares checksums, as `FeatureCache.blocks` does. Threads, processes
        and other machines that see the store can compute the array.

    Raises
    ------
    InputError
        If dask is not installed, or `rows` is empty.
    StoreError
        As `FeatureCache.blocks`.
    """
    try:
        import dask.array as da
        from dask import delayed
    except ImportError as error:
        raise InputError("dask is not installed; pip install 'toptune[dask]'") from error
    numbers = np.arange(cache.n_rows) if rows is None else row_numbers(rows, cache.n_rows)
    if not len(numbers):
        raise InputError("rows is empty; give at least one row, or None for all of them")
    blocks = cache.blocks(names, None if rows is None else numbers)
    # dask would walk through the object to look for lazy values inside; there are none.
    read = delayed(blocks.rows, traverse=False)
    chunks = [
        da.from_delayed(read(start, stop), shape=(stop - start, blocks.shape[1]), dtype=blocks.dtype)
        for start, stop in _cuts(numbers, cache.unit_rows)
    ]
    return da.concatenate(chunks, axis=0)


def _cuts(rows: npt.NDArray[np.intp], unit_rows: int) -> list[tuple[int, int]]:
    """Split rows where the unit changes; unsorted rows are split every `unit_rows` instead."""
    # Chunks that end where units end let every worker read whole units, each once.
    if (np.diff(rows) >= 0).all():
        starts = [0, *(np.flatnonzero(np.diff(rows // unit_rows)) + 1).tolist()]
    else:
        starts = list(range(0, len(rows), unit_rows))
    return list(zip(starts, [*starts[1:], len(rows)], strict=True))
