"""`Novelty`: how far an image is from those that trained a run, as a share of them that is nearer.

The distance is the residual of a Gaussian kernel on centers drawn from the training rows
(`toptune.train.kernels.novelty`), of the features as the head takes them. A training row is compared without
itself: rows that are no centers are left out of the centers anyway, and a center is taken out of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from toptune.errors import CorruptError
from toptune.store.arrays.tensor_files import read_tensors, write_tensors
from toptune.store.features.blocks import ArrayBlocks, Blocks
from toptune.train.answers.files import NOVELTY
from toptune.train.kernels.centers import choose_centers
from toptune.train.kernels.kernels import Gaussian, median_distance
from toptune.train.kernels.maps import NystromMaps
from toptune.train.kernels.novelty import left_out_residuals, residuals
from toptune.train.rows.block_reading import parts

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

# More centers hardly tell other images better apart, and are stored in every run.
CENTERS = 256
# The centers of a run take no more, however wide its features are; a few are there in any case.
_CENTER_BYTES, _LEAST_CENTERS = 4 * 2**20, 16
# The median distance of so many centers, spread over all, is that of all of them; few are copied.
_MEDIAN_CENTERS = 64
# Twice the median distance told other data sets apart best, of half, once and twice.
_WIDTH = 2.0
# A quantile to three digits needs a thousand rows; more are drawn so that each digit is steady.
REFERENCE_ROWS = 2000
# Values in float64 of the rows that are compared at a time, which are copied a few times. Wide rows
# beside a fit that has filled its memory limit would pass the limit otherwise.
_BLOCK_BYTES, _MOST_ROWS = 2 * 2**20, 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Novelty:
    """Centers, and the left-out residuals of training rows that a residual is compared with.

    Attributes
    ----------
    centers : ndarray of float32, shape (M, d)
        Training rows, preprocessed.
    center_rows : ndarray of int64, shape (M,)
        Their rows of the data set's manifest.
    sigma : float
        Width of the Gaussian kernel.
    rows : ndarray of int64, shape (n,)
        Rows of the manifest that `residuals` are of.
    residuals : ndarray of float64, shape (n,)
        Left-out residuals, from 0 to 1.
    """

    centers: npt.NDArray[np.float32]
    center_rows: Rows
    sigma: float
    rows: Rows
    residuals: Values

    @classmethod
    def of(cls, blocks: Blocks, rows: Rows, *, seed: int) -> "Novelty | None":
        """Draw centers and compare training rows with them; None of fewer than three rows.

        Parameters
        ----------
        blocks : Blocks, shape (n, d)
            Training rows, preprocessed.
        rows : ndarray of int64, shape (n,)
            Their rows of the manifest.
        seed : int
            Seed of the draws.
        """
        n, d = blocks.shape
        most = int(np.clip(_CENTER_BYTES // (4 * d), _LEAST_CENTERS, CENTERS))
        # The last row drawn is no center, so that there is a residual that no center has explained.
        if n < 3:
            return None
        centers_at = choose_centers(np.zeros(n, dtype=np.int64), min(most, n - 1), seed=seed)
        compared = choose_centers(np.zeros(n, dtype=np.int64), REFERENCE_ROWS, seed=seed)
        centers = np.asarray(blocks.take(centers_at), dtype=np.float32)
        spread = centers[:: -(-len(centers) // _MEDIAN_CENTERS)]
        found = cls(
            centers=centers,
            center_rows=rows[centers_at],
            sigma=_WIDTH * median_distance(torch.from_numpy(spread).double()),
            rows=rows[compared],
            residuals=np.zeros(0),
        )
        values = np.zeros(len(compared))
        step = _block_rows(d)
        for start in range(0, len(compared), step):
            some = slice(start, start + step)
            values[some] = found.residuals_of(ArrayBlocks(np.asarray(blocks.take(compared[some]))))
        # One of equal centers is kept. A center that is dropped is wholly explained by the others.
        kept = centers_at[found._maps.kept[0].numpy()]
        is_compared = np.isin(kept, compared)
        left_out = left_out_residuals(found._maps, 0).numpy()
        values[np.searchsorted(compared, kept[is_compared])] = left_out[is_compared]
        return replace(found, residuals=values)

    @cached_property
    def _maps(self) -> NystromMaps:
        return NystromMaps.on([Gaussian(self.sigma)], torch.from_numpy(self.centers).double())

    @cached_property
    def _order(self) -> Values:
        return np.sort(self.residuals)

    def residuals_of(self, blocks: Blocks) -> Values:
        """Return the residuals (n,) of rows (n, d), preprocessed, from 0 to 1."""
        found = np.zeros(blocks.shape[0])
        for where, values in parts(blocks, _block_rows(blocks.shape[1])):
            rows = torch.from_numpy(np.array(values, dtype=np.float64))
            found[where] = residuals(self._maps, 0, rows).numpy()
        return found

    def quantiles(self, found: Values) -> Values:
        """Return the share of training rows whose left-out residual is smaller than each of some (n,)."""
        return np.searchsorted(self._order, found, side="left") / len(self._order)

    def of_rows(self, blocks: Blocks) -> Values:
        """Return the novelty (n,) of rows (n, d), preprocessed, from 0 to 1."""
        return self.quantiles(self.residuals_of(blocks))

    def changed(self, now: Rows) -> "Novelty | None":
        """Return the novelty after an update, without rows that have left; None if too few stay.

        Parameters
        ----------
        now : ndarray of int64, shape (n_before,)
            The row of the new manifest of each row of the manifest before; -1 of a row that does not train.
        """
        centers, rows = now[self.center_rows], now[self.rows]
        if (centers >= 0).sum() < 1 or (rows >= 0).sum() < 3:
            return None
        return Novelty(
            centers=self.centers[centers >= 0],
            center_rows=centers[centers >= 0],
            sigma=self.sigma,
            rows=rows[rows >= 0],
            residuals=self.residuals[rows >= 0],
        )

    def write(self, folder: Path) -> None:
        """Write ``novelty.safetensors``."""
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "centers": self.centers,
            "center_rows": self.center_rows,
            "sigma": np.array([self.sigma]),
            "rows": self.rows,
            "residuals": self.residuals,
        }
        write_tensors(folder / NOVELTY, arrays)

    @classmethod
    def read(cls, folder: Path, *, n_columns: int, advice: str) -> "Novelty | None":
        """Read what `write` wrote, for rows of so many columns; None if the run has no such file.

        Raises
        ------
        CorruptError
            If the file is damaged.
        """
        path = folder / NOVELTY
        if not path.is_file():
            return None
        arrays, _ = read_tensors(path, advice=advice)
        try:
            found = cls(
                centers=np.asarray(arrays["centers"], np.float32),
                center_rows=np.asarray(arrays["center_rows"], np.int64),
                sigma=float(arrays["sigma"].astype(np.float64)[0]),
                rows=np.asarray(arrays["rows"], np.int64),
                residuals=np.asarray(arrays["residuals"], np.float64),
            )
        except (KeyError, ValueError, IndexError) as error:
            raise CorruptError(f"{path} cannot be read ({error}); {advice}", path) from error
        shapes = {found.rows.shape, found.residuals.shape}
        if found.centers.shape != (len(found.center_rows), n_columns) or len(shapes) > 1 or found.sigma <= 0:
            raise CorruptError(
                f"{path} is not that of a run of {n_columns} columns (centers of shape "
                f"{found.centers.shape}); {advice}",
                path,
            )
        return found


def joint_quantiles(members: Sequence[Novelty], found: Sequence[Values]) -> Values:
    """Return the novelty (n,) of rows by several backbones: the rank of the mean of their quantiles.

    The rank is among the training rows that all members were compared with. Members without such rows, of
    runs that were drawn by other seeds, give the mean itself.

    Parameters
    ----------
    members : sequence of Novelty
        One for each backbone.
    found : sequence of ndarray of float64, shape (n,)
        Residuals of the rows by each member.
    """
    quantiles = [member.quantiles(each) for member, each in zip(members, found, strict=True)]
    mean: Values = np.stack(quantiles).mean(axis=0)
    shared = reduce(np.intersect1d, [member.rows for member in members])
    if not len(shared) or len(members) == 1:
        return mean
    of_shared = [
        member.quantiles(member.residuals[np.isin(member.rows, shared)][np.argsort(own)])
        for member in members
        for own in [member.rows[np.isin(member.rows, shared)]]
    ]
    return np.searchsorted(np.sort(np.mean(of_shared, axis=0)), mean, side="left") / len(shared)


def _block_rows(d: int) -> int:
    """Return the number of rows with d columns that are compared at a time."""
    return int(np.clip(_BLOCK_BYTES // (8 * d), 1, _MOST_ROWS))
