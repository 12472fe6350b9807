"""A cache as a dask array: one lazy chunk a unit, checked when it is read."""

from collections.abc import Sequence
from typing import Any

from toptune.store.errors import InputError
from toptune.store.feature_cache import FeatureCache


def as_dask_array(cache: FeatureCache, names: Sequence[str]) -> Any:
    """Return columns of arrays side by side as a ``dask.array.Array``.

    Parameters
    ----------
    cache : FeatureCache
    names : sequence of str
        Arrays, in the order of their columns.

    Returns
    -------
    dask.array.Array, shape (n, d)
        A chunk holds the rows of one unit. Reading a chunk checks its checksums, as `FeatureCache.blocks`
        does.

    Raises
    ------
    InputError
        If dask is not installed.
    StoreError
        As `FeatureCache.blocks`.
    """
    try:
        import dask.array as da
        from dask import delayed
    except ImportError as error:
        raise InputError("dask is not installed; pip install 'toptune[dask]'") from error
    blocks = cache.blocks(names)
    read = delayed(blocks.rows, traverse=False)
    chunks = []
    for unit in range(cache.n_units):
        rows = cache.unit_slice(unit)
        shape = (rows.stop - rows.start, blocks.shape[1])
        chunks.append(da.from_delayed(read(rows.start, rows.stop), shape=shape, dtype=blocks.dtype))
    return da.concatenate(chunks, axis=0)
