"""How well images of another data set are told from those of the own one, by several measures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store.features.blocks import Blocks
from toptune.text import counted
from toptune.train.answers.novelty import Novelty, joint_quantiles
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.rows.block_reading import parts
from toptune.train.runs.run import Run
from toptune.train.verdicts.nearness import residuals_of

Values = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

# The peers compare with all training rows, or with so many of them, and a covariance has columns squared.
MOST_TRAINING_ROWS, MOST_COLUMNS = 5000, 4096
# Sun et al. (2022) take the distance to the k-th neighbor; a few neighbors suit small data sets.
NEIGHBORS = 5
_BLOCK_ROWS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """Rows of one of the two data sets.

    Attributes
    ----------
    blocks : sequence of Blocks, shape (n, d)
        Features as stored, for each head.
    probabilities : ndarray of float64, shape (n, n_classes)
    """

    blocks: Sequence[Blocks]
    probabilities: Values


def detection_figures(
    heads: Sequence[Run],
    members: Sequence[Novelty],
    training: Blocks,
    labels: Sequence[str],
    *,
    inside: Side,
    outside: Side,
) -> dict[str, Any]:
    """Compare measures of novelty by how well each tells rows outside from rows inside.

    Beside novelty stand one minus the confidence (Hendrycks & Gimpel 2017), the Mahalanobis distance from the
    nearest class mean with one shrunk covariance of all classes (Lee et al. 2018; Ledoit & Wolf 2004), and
    the distance to the k-th nearest training row (Sun et al. 2022).

    Parameters
    ----------
    heads : sequence of Run
    members : sequence of Novelty
        Of each head.
    training : Blocks, shape (n, d)
        Features of training rows as stored, of the first head.
    labels : sequence of str, length n
    inside, outside : Side
        Rows like those that trained, and other ones.

    Returns
    -------
    dict
        ``auroc``: of each measure the probability that an outer row has more of it than an inner one, None
        where it was not measured; ``false_positive_rate``: the share of inner rows above the value that 95 %
        of the outer ones reach; ``notes``.
    """
    scores: dict[str, tuple[Values, Values] | None] = {
        "novelty": _of_both(inside, outside, lambda side: _novelty(heads, members, side)),
        "confidence": _of_both(inside, outside, lambda side: 1 - side.probabilities.max(axis=1)),
        "mahalanobis": None,
        "nearest_neighbors": None,
    }
    notes = []
    if len(heads) == 1:
        (head,) = heads
        rows = np.asarray(PreprocessedBlocks(training, head.preprocessing).take(np.arange(training.shape[0])))
        neighbors = _Neighbors(rows)
        scores["nearest_neighbors"] = _of_both(
            inside, outside, lambda side: _in_parts(head, side.blocks[0], neighbors.distances)
        )
        if rows.shape[1] <= MOST_COLUMNS:
            moments = _Moments(rows, labels)
            scores["mahalanobis"] = _of_both(
                inside, outside, lambda side: _in_parts(head, side.blocks[0], moments.distances)
            )
        else:
            notes.append(
                f"the Mahalanobis distance is not measured: {rows.shape[1]} columns are more than "
                f"{MOST_COLUMNS} [TT515]"
            )
    else:
        notes.append(
            "the Mahalanobis distance and that of neighbors are not measured: "
            f"{counted(len(heads), 'head')} have features of their own each [TT515]"
        )
    return {
        "n_inside": len(inside.probabilities),
        "n_outside": len(outside.probabilities),
        "auroc": {name: pair and _auroc(*pair) for name, pair in scores.items()},
        "false_positive_rate": {name: pair and _false_positives(*pair) for name, pair in scores.items()},
        "notes": notes,
    }


def _of_both(inside: Side, outside: Side, measure: Callable[[Side], Values]) -> tuple[Values, Values]:
    return measure(inside), measure(outside)


def _novelty(heads: Sequence[Run], members: Sequence[Novelty], side: Side) -> Values:
    found = [residuals_of(*each) for each in zip(heads, members, side.blocks, strict=True)]
    # Ranks of one head end at the largest left-out residual; the residuals themselves go on.
    return found[0] if len(heads) == 1 else joint_quantiles(members, found)


def _in_parts(head: Run, blocks: Blocks, distances: Callable[[Values], Values]) -> Values:
    seen = PreprocessedBlocks(blocks, head.preprocessing)
    found = [distances(np.asarray(values, dtype=np.float64)) for _, values in parts(seen, _BLOCK_ROWS)]
    return np.concatenate([np.zeros(0), *found])


def _auroc(inside: Values, outside: Values) -> float:
    from sklearn.metrics import roc_auc_score

    truth = np.repeat([0, 1], [len(inside), len(outside)])
    return float(roc_auc_score(truth, np.concatenate([inside, outside])))


def _false_positives(inside: Values, outside: Values) -> float:
    return float((inside >= np.quantile(outside, 0.05)).mean())


class _Neighbors:
    """Distances to the k-th nearest training row."""

    def __init__(self, rows: npt.NDArray[np.floating]) -> None:
        from sklearn.neighbors import NearestNeighbors

        self._search = NearestNeighbors(n_neighbors=min(NEIGHBORS, len(rows)), algorithm="brute").fit(rows)

    def distances(self, rows: Values) -> Values:
        return np.asarray(self._search.kneighbors(rows)[0][:, -1], dtype=np.float64)


class _Moments:
    """Mahalanobis distances from the nearest class mean, with the covariance within classes."""

    def __init__(self, rows: npt.NDArray[np.floating], labels: Sequence[str]) -> None:
        from sklearn.covariance import LedoitWolf

        values = rows.astype(np.float64)
        _, codes = np.unique(labels, return_inverse=True)
        counts = np.bincount(codes)
        means = np.zeros((len(counts), values.shape[1]))
        np.add.at(means, codes, values)
        means /= counts[:, None]
        within = LedoitWolf(assume_centered=True, store_precision=False).fit(values - means[codes])
        # With a factor of the inverse, distances are Euclidean.
        lower = np.linalg.cholesky(within.covariance_)
        self._factor = np.linalg.inv(lower).T
        self._means = means @ self._factor

    def distances(self, rows: Values) -> Values:
        at = rows @ self._factor
        squared = (at**2).sum(axis=1)[:, None] - 2 * at @ self._means.T + (self._means**2).sum(axis=1)
        return np.asarray(squared.min(axis=1), dtype=np.float64)
