"""Copies of images: equal bytes, and neighbors that are nearer than images of this data are by chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.train.rows.groups import components
from toptune.workflows.inspection.findings import DUPLICATE, NEAR_DUPLICATE, ImageGroup
from toptune.workflows.inspection.neighbors import Neighbors

Rows = npt.NDArray[np.int64]
Pairs = npt.NDArray[np.int64]

# Distances of neighbors below this quantile are raised to it, so that many copies of one image, which are all
# of one another's neighbors, do not pass for a dense place.
_DENSE_QUANTILE = 0.05
# Cosines in float32 are exact to about this much, which is a distance of a thousandth.
_ROUNDING = 1e-6
# A dimension beyond this has no meaning for so few neighbors, and the threshold no longer depends on it.
_MOST_DIMENSIONS = 200.0
# Images of a test split are kept before those of val and train, so that figures of others stay comparable.
_KEPT_FIRST = ("test", "val", "train")


@dataclass(frozen=True, kw_only=True)
class Spacing:
    """How near the nearest of m neighbors is by chance, and from where on it is too near.

    Around a point, images that have nothing to do with one another lie like points of a Poisson process in
    D dimensions, D being the intrinsic dimension of the data. Given the distance to the m-th neighbor, the
    volumes of the nearer m - 1 are uniform, so that the ratio r of the distances to the first and to the m-th
    neighbor has ``P(r <= t) = 1 - (1 - t^D)^(m - 1)``. For m = 2 this is the law of Facco, d'Errico,
    Rodriguez & Laio 2017 ("Estimating the intrinsic dimension of datasets by a minimal neighborhood
    information"). D is taken from the median ratio of the data, which copies of fewer than half of the images
    do not move.

    Attributes
    ----------
    rank : int
        m.
    dimension : float
        D.
    false_alarms : float
        Share of images whose nearest neighbor is as near by chance.
    ratio : float
        t: the largest ratio of a near-duplicate.
    scales : ndarray of float64, shape (n,)
        Distance to the m-th neighbor of each row.
    """

    rank: int
    dimension: float
    false_alarms: float
    ratio: float
    scales: npt.NDArray[np.float64]

    @classmethod
    def of(cls, neighbors: Neighbors, *, false_alarms: float) -> "Spacing":
        """Measure the spacing of rows by their neighbors, at least two of each.

        Parameters
        ----------
        neighbors : Neighbors
        false_alarms : float
            Share of images in (0, 1).
        """
        distances = distances_of(neighbors)
        rank = distances.shape[1]
        last = distances[:, -1]
        scales = np.maximum(last, np.quantile(last, _DENSE_QUANTILE))
        ratios = distances[:, 0] / np.maximum(scales, np.finfo(float).tiny)
        # ratio^D at the median and at the threshold, from the distribution above.
        half, rare = (-np.expm1(np.log1p(-share) / (rank - 1)) for share in (0.5, false_alarms))
        median = float(np.clip(np.median(ratios), 1e-6, 1 - 1e-6))
        dimension = min(float(np.log(half) / np.log(median)), _MOST_DIMENSIONS)
        return cls(
            rank=rank,
            dimension=dimension,
            false_alarms=false_alarms,
            ratio=float(rare ** (1 / dimension)),
            scales=scales,
        )

    def near_pairs(self, neighbors: Neighbors) -> Pairs:
        """Return the pairs ``(p, 2)`` of rows that are too near for both of them, the smaller row first."""
        distances = distances_of(neighbors)
        left = np.repeat(np.arange(len(distances)), distances.shape[1])
        right, flat = neighbors.rows.ravel(), distances.ravel()
        limit = self.ratio * np.minimum(self.scales[left], self.scales[right])
        near = (flat <= limit) | (neighbors.cosines.ravel() >= 1 - _ROUNDING)
        pairs = np.stack([np.minimum(left, right), np.maximum(left, right)], axis=1)[near]
        return np.unique(pairs, axis=0)


def distances_of(neighbors: Neighbors) -> npt.NDArray[np.float64]:
    """Return the distances (n, k) of the neighbors on the unit sphere: ``sqrt(2 - 2 cosine)``."""
    return np.sqrt(np.clip(2 - 2 * neighbors.cosines.astype(np.float64), 0, None))


def equal_pairs(digests: npt.NDArray[np.uint8], known: npt.NDArray[np.bool_]) -> Pairs:
    """Return pairs ``(p, 2)`` of rows with the same bytes, each row with the one before it.

    Parameters
    ----------
    digests : ndarray of uint8, shape (n, 32)
        SHA-256 of the bytes of each image; zeros where the image could not be read.
    known : ndarray of bool, shape (n,)
        Rows whose digest is known.
    """
    rows = np.flatnonzero(known & digests.any(axis=1))
    if not len(rows):
        return np.zeros((0, 2), dtype=np.int64)
    _, codes = np.unique(np.ascontiguousarray(digests[rows]).view("V32").ravel(), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    same = np.flatnonzero(codes[order][1:] == codes[order][:-1])
    return np.stack([rows[order[same]], rows[order[same + 1]]], axis=1).astype(np.int64)


def members(codes: npt.NDArray[np.int64]) -> list[Rows]:
    """Return the rows of each code that several rows have, in the order of their first rows."""
    order = np.argsort(codes, kind="stable")
    cuts = np.flatnonzero(np.diff(codes[order])) + 1
    found = [rows for rows in np.split(order, cuts) if len(rows) > 1]
    return sorted(found, key=lambda rows: int(rows[0]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Described:
    """What is known of each row beside its features.

    Attributes
    ----------
    ids : sequence of str
    labels, splits, groups : sequence of str or None
        None where nothing is known.
    """

    ids: Sequence[str]
    labels: Sequence[str | None]
    splits: Sequence[str | None]
    groups: Sequence[str | None]

    def group(self, rows: Rows, kind: str, cosines: npt.NDArray[np.float64]) -> ImageGroup:
        """Describe some rows as a group; `cosines` (n,) are those to the nearest row of its group."""

        def place(row: int) -> tuple[int, int]:
            split = self.splits[row] or ""
            return (_KEPT_FIRST.index(split) if split in _KEPT_FIRST else len(_KEPT_FIRST), row)

        ordered = sorted(rows.tolist(), key=place)
        return ImageGroup(
            kind=kind,
            ids=tuple(self.ids[row] for row in ordered),
            scores=tuple(float(cosines[row]) for row in ordered),
            splits=_different(self.splits, ordered),
            classes=_different(self.labels, ordered),
            groups=_different(self.groups, ordered),
        )


def exact_groups(equal: Pairs, described: Described) -> list[ImageGroup]:
    """Return the groups of rows with the same bytes."""
    n = len(described.ids)
    return [described.group(rows, DUPLICATE, np.ones(n)) for rows in members(components(equal, n))]


def near_groups(
    near: Pairs, cosines: npt.NDArray[np.float64], equal: Pairs, described: Described
) -> list[ImageGroup]:
    """Return the groups of rows that are near one another and do not all have the same bytes.

    Parameters
    ----------
    near : ndarray of int64, shape (p, 2)
        Pairs of near rows.
    cosines : ndarray of float64, shape (n,)
        Cosine of each row to its nearest neighbor.
    equal : ndarray of int64, shape (q, 2)
        Pairs of rows with the same bytes.
    described : Described
    """
    n = len(described.ids)
    same = components(equal, n)
    joined = members(components(np.concatenate([near, equal]), n))
    return [
        described.group(rows, NEAR_DUPLICATE, cosines) for rows in joined if len(np.unique(same[rows])) > 1
    ]


def _different(values: Sequence[str | None], rows: Sequence[int]) -> tuple[str, ...]:
    return tuple(sorted({str(values[row]) for row in rows if values[row] is not None}))
