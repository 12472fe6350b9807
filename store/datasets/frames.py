"""A manifest becomes columns of the program that asks: a frame of pandas, or arrays of numpy."""

import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store.datasets.manifest import Manifest


def frame_of(manifest: Manifest, rows: npt.NDArray[np.intp]) -> Any:
    """Return what is known of some images, a row each.

    Parameters
    ----------
    manifest : Manifest
        The images.
    rows : array of int (m,)
        Row numbers, in the order of the result.

    Returns
    -------
    pandas.DataFrame or dict of str to ndarray of object
        Columns ``id``, ``label``, ``split`` and the further columns of the data set. A dict of arrays (m,)
        where pandas is not installed: a column is had by its name from both, and compared to give a mask.

    Examples
    --------
    >>> manifest = Manifest.from_columns(ids=["a.png", "b.png"], labels=["cat", "dog"], sizes=[1, 2])
    >>> rows = frame_of(manifest, np.arange(2))
    >>> (rows["label"] == "dog").tolist()
    [False, True]
    """
    table = manifest.take(rows).table.select(["id", "label", "split", *manifest.extra_names])
    # pandas is no dependency: only who has it already wants a frame.
    if importlib.util.find_spec("pandas") is not None:
        return table.to_pandas()
    return {name: np.array(table[name].to_pylist(), dtype=object) for name in table.column_names}
