"""An even sample of rows, the same wherever it is taken."""

import numpy as np
import numpy.typing as npt


def even_sample(n: int, most: int) -> npt.NDArray[np.intp]:
    """Return at most `most` of the rows 0 to ``n - 1``, evenly spread and ascending.

    The first and the last row are among them, unless `most` is 1.

    Examples
    --------
    >>> even_sample(10, 4).tolist()
    [0, 3, 6, 9]
    >>> even_sample(2, 4).tolist()
    [0, 1]
    """
    # Equal spacing needs no seed, so that every process and every resumed run takes the same rows.
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.intp))
