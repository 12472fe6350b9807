"""Rank all columns without each fold and on all rows, by either solver; and select by the ranking."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from toptune.train.head2toe.columns import Columns, Layers, choose_columns, kept_count
from toptune.train.head2toe.cross_entropy import Batch
from toptune.train.head2toe.fold_moments import FoldMoments
from toptune.train.head2toe.gram_path import largest_penalty, squared_path
from toptune.train.head2toe.softmax_path import softmax_path
from toptune.train.numerics.group_lasso import PathPoint
from toptune.train.passes.training_rows import TrainingRows, batches


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One way to select columns.

    Attributes
    ----------
    share : int or None
        Position of the group penalty on its path; None where the penalty makes no difference.
    fraction : float or None
        Share of the columns (or layers) that are kept; None for the last layer alone.
    """

    share: int | None
    fraction: float | None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Scores of all columns without each fold and, last, on all rows; and the layers that they belong to.

    Attributes
    ----------
    paths : list of list of PathPoint
        For each fold left out and, last, for all rows: a point for each group penalty.
    layers : Layers
    selection : {"feature", "layer"}
        As in `choose_columns`.
    """

    paths: list[list[PathPoint]]
    layers: Layers
    selection: str
    _known: dict[tuple[Rule, int | None], Columns] = field(default_factory=dict)

    def columns(self, rule: Rule, fold: int | None) -> Columns:
        """Return the columns that a rule keeps without a fold, or on all rows where `fold` is None."""
        if rule.fraction is None:
            assert self.layers.last is not None
            return self.layers.last
        if (rule, fold) not in self._known:
            # Every rule is asked for once per fold by the comparison and again by the report.
            point = self.paths[-1 if fold is None else fold][rule.share or 0]
            self._known[rule, fold] = choose_columns(
                point.scores, rule.fraction, self.layers, selection=self.selection
            )
        return self._known[rule, fold]


def rules_of(n_shares: int, fractions: Sequence[float], ranking: Ranking, *, with_last: bool) -> list[Rule]:
    """Return the rules to compare: every group penalty with every fraction.

    Rules that keep the same number of columns at the same penalty keep the same columns, and only the first
    is returned. All columns need no penalty; with `with_last`, the last layer alone is a rule too.
    """
    rules = [
        Rule(share=None if fraction == 1 else share, fraction=fraction)
        for fraction in fractions
        for share in range(1 if fraction == 1 else n_shares)
    ]
    first: dict[tuple[int | None, int], Rule] = {}
    for rule in rules:
        first.setdefault((rule.share, len(ranking.columns(rule, None))), rule)
    last = [Rule(share=None, fraction=None)] if with_last and ranking.layers.last is not None else []
    return [*first.values(), *last]


def most_rules(n_shares: int, fractions: Sequence[float], layers: Layers, selection: str) -> int:
    """Return how many rules `rules_of` gives, at most; it is known before anything is ranked."""
    n = sum(layers.dims) if selection == "feature" else len(layers.dims)
    counts = {kept_count(fraction, n) for fraction in fractions if fraction != 1}
    # All columns, and the last layer alone.
    return n_shares * len(counts) + 2


def gram_paths(moments: FoldMoments, n_folds: int, shares: Sequence[float]) -> list[list[PathPoint]]:
    """Rank by the squared loss: solve the path of group penalties without each fold and, last, on all rows.

    All rows come first, because their solutions are where those without a fold start.

    Parameters
    ----------
    moments : FoldMoments
    n_folds : int
    shares : sequence of float
        Group penalties, descending, as shares of the smallest penalty at which no column has a weight.
    """
    paths: list[list[PathPoint]] = []
    for fold in [None, *range(n_folds)]:
        without = moments.without(fold)
        most = largest_penalty(without) or 1.0
        starts = [point.weights for point in paths[0]] if paths else None
        paths.append(squared_path(without, [share * most for share in shares], starts=starts))
    return [*paths[1:], paths[0]]


def softmax_paths(
    rows: TrainingRows, shares: Sequence[float], *, is_held: bool, block_rows: int, device: torch.device
) -> list[list[PathPoint]]:
    """Rank by the cross-entropy, in passes over rows that are held in memory or read again each time.

    Parameters
    ----------
    rows : TrainingRows
    shares : sequence of float
        As in `gram_paths`.
    is_held : bool
        Whether the rows are held in memory.
    block_rows : int
        Rows of a block.
    device : torch.device
    """
    dtype = torch.float64 if rows.blocks.dtype == np.float64 else torch.float32
    stream = _Stream(rows, block_rows, dtype, device)
    return softmax_path(rows, list(stream) if is_held else stream, shares)


class _Stream:
    """Blocks of the rows, read again from the store whenever they are iterated over."""

    def __init__(self, rows: TrainingRows, block_rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.rows, self.block_rows, self.dtype, self.device = rows, block_rows, dtype, device

    def __iter__(self) -> Iterator[Batch]:
        """Yield ``(rows, values)`` of consecutive rows."""
        return batches(self.rows, block_rows=self.block_rows, dtype=self.dtype, device=self.device)
