"""`evaluate_run`: the metrics of a run, computed again from stored features."""

import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.features.feature_store import FeatureStore
from toptune.train.figures.tables import Tables
from toptune.train.fusion.fused_run import FusedRun, load_run
from toptune.train.runs.evaluation import StoredRows, stored_rows
from toptune.train.runs.run import Run
from toptune.train.runs.scoring import Rows, Scored, score, score_together


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


def score_stored(
    run: Run | FusedRun | str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | FeatureStore | None,
    dataset: str | None,
    split: str | None,
) -> tuple[dict[str, Any], Tables]:
    """Do what `evaluate_run` does, and return the tables of the classes beside the metrics."""
    start = time.perf_counter()
    trained = run if isinstance(run, Run | FusedRun) else load_run(run)
    if isinstance(trained, Run):
        found = stored_rows(trained, store=store, dataset=dataset, split=split)
        scored = score(trained, found.cache, found.usable, found.labels)
    else:
        found, scored = _score_members(trained, store=store, dataset=dataset, split=split)
    return found.metrics(scored, seconds=time.perf_counter() - start), scored.tables


def _score_members(
    run: FusedRun,
    *,
    store: str | os.PathLike[str] | FeatureStore | None,
    dataset: str | None,
    split: str | None,
) -> tuple[StoredRows, Scored]:
    """Score a fused run on the rows that are usable for all of its members."""
    of_members = [stored_rows(member, store=store, dataset=dataset, split=split) for member in run.members]
    first = of_members[0]
    for other in of_members[1:]:
        if other.cache.manifest.pictures_digest != first.cache.manifest.pictures_digest:
            raise InputError(
                f"the features of {first.cache.name} and {other.cache.name} over {first.cache.dataset!r} are "
                "of different images; extract both over the same version of the data set"
            )
    usable = first.usable
    for other in of_members[1:]:
        usable = np.intersect1d(usable, other.usable)
    if len(usable) == 0:
        raise InputError(
            f"data set {first.cache.dataset!r} has no labeled row that is usable for all {len(of_members)} "
            "models"
        )
    names = [[array.name for array in member.arrays] for member in run.members]

    def answer(some: Rows) -> list[npt.NDArray[np.float64]]:
        blocks = [each.cache.blocks(arrays, some) for each, arrays in zip(of_members, names, strict=True)]
        return [run.predict_blocks(blocks)[1]]

    (scored,) = score_together(
        answer, usable, forms=[run.form], manifest=first.cache.manifest, labels=first.labels
    )
    return replace(first, usable=usable), scored
