"""`evaluate_run`: the metrics of a run, computed again from stored features."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.blocks import Blocks
from toptune.store.features.feature_store import FeatureStore
from toptune.train.figures.tables import Tables
from toptune.train.fusion.fused_run import FusedRun, load_run
from toptune.train.runs.evaluation import StoredRows, stored_rows
from toptune.train.runs.run import Run
from toptune.train.runs.scoring import Look, Rows, Scored, score_together


def evaluate_run(
    run: Run | FusedRun | str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | FeatureStore | None = None,
    dataset: str | None = None,
    split: str | None = None,
) -> dict[str, Any]:
    """Compute the metrics of a run again, from stored features.

    Parameters
    ----------
    run : Run, FusedRun or path
    store : path or FeatureStore, optional
        Where the features are; by default the store that the run was trained from.
    dataset : str, optional
        Another data set, extracted with the same recipe: all labeled rows of the latest version are scored.
        By default the data set that trained the run, in the version that trained the run.
    split : {"test", "train", "all"}, optional
        Which rows are scored. For the run's own data set by default the rows that tested; for another data
        set by default all, and otherwise the rows whose split the data set names so.

    Returns
    -------
    dict
        Content as of ``metrics.json``. ``n_skipped`` counts rows that are left out because the image failed,
        ``n_unlabelled`` those of another data set that have no label. With more than 200 classes, it holds
        neither ``per_class`` nor ``confusion_matrix``.

    Raises
    ------
    InputError
        If there is no row to score, a class is unknown to the run, or the data set has changed since.
    StoreError
        If the store does not hold what the run needs.
    """
    return score_stored(run, store=store, dataset=dataset, split=split)[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundRows:
    """The rows on which a run of one head or of several is scored, with the features of each head.

    Attributes
    ----------
    run : Run or FusedRun
    of_heads : tuple of StoredRows
        One for each head.
    usable : ndarray of int64
        Rows that have a label, and whose image did not fail for any head.
    """

    run: Run | FusedRun
    of_heads: tuple[StoredRows, ...]
    usable: Rows

    @property
    def heads(self) -> tuple[Run, ...]:
        """The heads of the run."""
        return (self.run,) if isinstance(self.run, Run) else self.run.members

    @property
    def manifest(self) -> Manifest:
        """Ids, labels and further columns of all rows."""
        return self.of_heads[0].cache.manifest

    def blocks(self, rows: Rows) -> list[Blocks]:
        """Return the features of some rows, for each head, the arrays of the head side by side."""
        return [
            each.cache.blocks([array.name for array in head.arrays], rows)
            for head, each in zip(self.heads, self.of_heads, strict=True)
        ]

    def probabilities(self, blocks: Sequence[Blocks]) -> npt.NDArray[np.float64]:
        """Return what the run says (n, n_classes) of rows of features, given for each head."""
        if isinstance(self.run, Run):
            return self.run.predict_blocks(blocks[0])[1]
        return self.run.predict_blocks(blocks)[1]

    def score(self, look: Look | None = None) -> Scored:
        """Score the usable rows; `look` as of `score_together`."""

        def answer(some: Rows) -> list[npt.NDArray[np.float64]]:
            return [self.probabilities(self.blocks(some))]

        (scored,) = score_together(
            answer,
            self.usable,
            forms=[self.run.form],
            manifest=self.manifest,
            labels=self.of_heads[0].labels,
            looks=[look],
        )
        return scored

    def metrics(self, scored: Scored, *, seconds: float) -> dict[str, Any]:
        """Return the content as of ``metrics.json``."""
        return replace(self.of_heads[0], usable=self.usable).metrics(scored, seconds=seconds)


def score_stored(
    run: Run | FusedRun | str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | FeatureStore | None,
    dataset: str | None,
    split: str | None,
) -> tuple[dict[str, Any], Tables]:
    """Do what `evaluate_run` does, and return the tables of the classes beside the metrics."""
    start = time.perf_counter()
    found = find_rows(run, store=store, dataset=dataset, split=split)
    scored = found.score()
    return found.metrics(scored, seconds=time.perf_counter() - start), scored.tables


def find_rows(
    run: Run | FusedRun | str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | FeatureStore | None,
    dataset: str | None,
    split: str | None,
) -> FoundRows:
    """Find the rows and features on which a run is scored; arguments and errors as of `evaluate_run`."""
    trained = run if isinstance(run, Run | FusedRun) else load_run(run)
    heads = (trained,) if isinstance(trained, Run) else trained.members
    first, *others = (stored_rows(head, store=store, dataset=dataset, split=split) for head in heads)
    usable = first.usable
    for other in others:
        if other.cache.manifest.pictures_digest != first.cache.manifest.pictures_digest:
            raise InputError(
                f"the features of {first.cache.name} and {other.cache.name} over {first.cache.dataset!r} are "
                "of different images; extract both over the same version of the data set"
            )
        usable = np.intersect1d(usable, other.usable)
    if len(usable) == 0:
        raise InputError(
            f"data set {first.cache.dataset!r} has no labeled row that is usable for all {len(heads)} models"
        )
    return FoundRows(run=trained, of_heads=(first, *others), usable=usable)
