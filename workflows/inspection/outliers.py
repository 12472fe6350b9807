"""How new each image is to a kernel on the others: the residual of `toptune.train.kernels.novelty`."""

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import InputError
from toptune.machine.memory import check_memory, left_bytes
from toptune.store.features.blocks import Blocks
from toptune.train.kernels.centers import choose_centers
from toptune.train.kernels.kernels import Gaussian, median_distance
from toptune.train.kernels.maps import NystromMaps
from toptune.train.kernels.novelty import left_out_residuals, residuals
from toptune.train.rows.block_reading import read_ahead

# More centers leave smaller residuals everywhere and hardly another order of the images.
_CENTERS = 1000
_BLOCK_ROWS = 1024


def novelty_of(blocks: Blocks, *, seed: int, limit_bytes: int | None = None) -> npt.NDArray[np.float64]:
    """Return the share of images to which the kernel is less new than to each image.

    The kernel is Gaussian, of the median distance between centers, which are drawn from the rows. An image
    that is a center is left out of the centers when it is judged. 0.99 means that the residual is larger than
    those of 99 % of the images.

    Parameters
    ----------
    blocks : Blocks, shape (n, d)
        Rows, as the head takes them.
    seed : int
        Seed of the draw of centers.
    limit_bytes : int, optional
        Memory limit of the whole process.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    InputError
        If the centers and their factor do not fit into the memory limit.
    """
    n, d = blocks.shape
    if n < 3:
        raise InputError(f"novelty is told among at least 3 images, and there are {n}")
    rows = choose_centers(np.zeros(n, dtype=np.int64), _CENTERS, seed=seed)
    check_memory(
        8 * (4 * len(rows) ** 2 + (3 * len(rows) + 4 * _BLOCK_ROWS) * (d + len(rows))),
        limit_bytes=left_bytes(limit_bytes),
        what=f"novelty by {len(rows)} centers of {d} features",
        instead="raise --memory-limit",
    )
    centers = torch.from_numpy(np.asarray(blocks.take(rows))).double()
    maps = NystromMaps.on([Gaussian(median_distance(centers))], centers)
    found = np.zeros(n)
    cpu = torch.device("cpu")
    for where, values in read_ahead(blocks, block_rows=_BLOCK_ROWS, dtype=torch.float64, device=cpu):
        found[where] = residuals(maps, 0, values).numpy()
    # A center that the others span to rounding is dropped, and nothing of it is new.
    found[rows[maps.kept[0].numpy()]] = left_out_residuals(maps, 0).numpy()
    order = np.sort(found)
    return np.searchsorted(order, found, side="left") / n
