"""Copies by their pixels: neighbors whose small gray images, one perhaps mirrored, are nearly the same."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from toptune.workflows.inspection.duplicates import Pairs, Spacing
from toptune.workflows.inspection.neighbors import Neighbors

# Images are compared at this size, at which compression and resizing leave hardly a trace.
EDGE = 16
# Pixels that correlate less are no copies, however little other neighbors correlate.
LEAST_CORRELATION = 0.9
# Neighbors by features must be as near as this share of the images' are by chance, beside their pixels.
_LOOSE_FALSE_ALARMS = 0.25
# Shading that many images of a set have in common is taken out: polynomials of this degree in x and y.
_SHADING_DEGREE = 2
# Gray values that deviate by less hold nothing to compare but rounding.
_LEAST_DEVIATION = 2.0
_BLOCK_ROWS = 2048


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelCopies:
    """Pairs of neighbors with nearly the same pixels, and the correlation from which on they are told.

    Attributes
    ----------
    pairs : ndarray of int64, shape (p, 2)
        Rows, the smaller one first.
    least : float
        Correlation of the gray values.
    """

    pairs: Pairs
    least: float


def pixel_copies(
    tiles: npt.NDArray[np.uint8], known: npt.NDArray[np.bool_], neighbors: Neighbors, *, false_alarms: float
) -> PixelCopies | None:
    """Find the neighbors whose pixels are the same but for size, compression, brightness or mirroring.

    The gray values of an image, less its shading, are correlated with those of its neighbors, and with these
    mirrored. Neighbors by features are mostly other images that look alike, so that they tell how far such
    images correlate: the transformed correlations ``atanh(c)`` (Fisher 1915) of all pairs are taken for
    normal, by their median and the median deviation above it, which copies hardly move. A pair is told where
    at most a share `false_alarms` of the images has a neighbor that correlates so by chance, at
    `LEAST_CORRELATION` at least, and where its features are near for neighbors.

    Parameters
    ----------
    tiles : ndarray of uint8, shape (n, EDGE, EDGE)
        Gray values of each row.
    known : ndarray of bool, shape (n,)
        Rows whose gray values are known.
    neighbors : Neighbors
    false_alarms : float
        Share of images in (0, 1).

    Returns
    -------
    PixelCopies or None
        None if no two neighbors are known.
    """
    plain, usable = _unit_rows(tiles)
    mirrored, _ = _unit_rows(tiles[:, :, ::-1])
    usable &= known
    n, k = neighbors.rows.shape
    both = usable[:, None] & usable[neighbors.rows]
    if not both.any():
        return None
    correlations = np.zeros((n, k), dtype=np.float32)
    for start in range(0, n, _BLOCK_ROWS):
        some = slice(start, start + _BLOCK_ROWS)
        own = plain[some]
        for place in range(k):
            near = neighbors.rows[some, place]
            direct, turned = (np.einsum("nd,nd->n", own, each[near]) for each in (plain, mirrored))
            correlations[some, place] = np.maximum(direct, turned)
    spread = np.arctanh(np.clip(correlations[both], -0.999999, 0.999999).astype(np.float64))
    above = spread - np.median(spread)
    scale = float(np.median(above[above >= 0]) / norm.ppf(0.75))
    by_chance = float(np.median(spread)) + scale * float(norm.isf(false_alarms / k))
    least = max(LEAST_CORRELATION, float(np.tanh(by_chance)))
    left, places = np.nonzero(both & (correlations >= least))
    right = neighbors.rows[left, places]
    pairs = np.unique(np.stack([np.minimum(left, right), np.maximum(left, right)], axis=1), axis=0)
    loose = Spacing.of(neighbors, false_alarms=max(_LOOSE_FALSE_ALARMS, false_alarms)).near_pairs(neighbors)
    pairs = pairs[np.isin(pairs @ [n, 1], loose @ [n, 1])]
    return PixelCopies(pairs=pairs.astype(np.int64), least=least)


def _unit_rows(tiles: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return gray values (n, EDGE * EDGE) less shading, of length 1, and which rows are not blank."""
    axis = np.linspace(-1, 1, EDGE, dtype=np.float32)
    powers = [(i, j) for i in range(_SHADING_DEGREE + 1) for j in range(_SHADING_DEGREE + 1 - i)]
    shading, _ = np.linalg.qr(np.stack([np.outer(axis**i, axis**j).ravel() for i, j in powers], axis=1))
    values = tiles.reshape(len(tiles), -1).astype(np.float32)
    values -= (values @ shading) @ shading.T
    lengths = np.linalg.norm(values, axis=1)
    usable = lengths >= _LEAST_DEVIATION * EDGE
    values /= np.where(usable, lengths, 1.0)[:, None]
    return values, usable
