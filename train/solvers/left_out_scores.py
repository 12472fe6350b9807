"""Left-out scores of every row: each by the fit without its fold, all from the sums of one pass."""

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import NumericalError
from toptune.train.kernels.maps import Maps
from toptune.train.passes.passes import accumulate, predict_left_out
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.solvers.one_pass import on_basis
from toptune.train.solvers.ridge import left_out


def left_out_scores(
    rows: TrainingRows, maps: Maps, *, penalty: float, block_rows: int, device: torch.device
) -> npt.NDArray[np.float32]:
    """Score every row by the fit of the first map that left the fold of the row out.

    The sums of a pass, without those of one fold, are the sums of a fit to all other folds; a second pass
    scores each row by the fit that did not see its fold. Nothing is selected, and nothing is fitted anew.

    Parameters
    ----------
    rows : TrainingRows
    maps : Maps
    penalty : float
    block_rows : int
        Rows of a block.
    device : torch.device

    Returns
    -------
    ndarray of float32, shape (n, n_classes)
        NaN for rows that take no part in cross-validation, which no fit leaves out.

    Raises
    ------
    NumericalError
        If the system of a fold cannot be solved at the penalty.
    """
    (sums,) = accumulate(rows, maps, [0], block_rows=block_rows, device=device, keep_raw=True)
    fits = left_out(sums, [penalty]).coefficients
    if 0 not in fits or not bool(torch.isfinite(fits[0]).all()):
        raise NumericalError(
            f"without one of its folds, the system at penalty {penalty:g} cannot be solved; raise the penalty"
        )
    beta = on_basis(maps, 0, sums, fits[0])
    del sums
    (found,), _ = predict_left_out(
        rows, maps, [(0, beta)], block_rows=block_rows, device=device, kept=np.arange(rows.n)
    )
    found.scores[~rows.is_validated] = np.nan
    return found.scores
