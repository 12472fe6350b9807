"""Scoring a run again, from a store."""

import os
import time
from typing import Any

import numpy as np

from toptune.errors import InputError
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.json_values import json_ready
from toptune.train.runs.run import Run, read_labels
from toptune.train.runs.scoring import score

SPLITS = ("test", "train", "all")


def evaluate_run(
    run: Run | str | os.PathLike[str],
    *,
    store: str | os.PathLike[str] | FeatureStore | None = None,
    dataset: str | None = None,
    split: str = "test",
) -> dict[str, Any]:
    """Metrics of a run, computed anew from stored features.

    Parameters
    ----------
    run : Run or path
    store : path or FeatureStore, optional
        By default the one trained from.
    dataset : str, optional
        Another data set, extracted with the same recipe: all its labeled rows are scored, those of its
        latest version. The run's own is read in the version trained on.
    split : {"test", "train", "all"}
        Which of the run's own rows; has no effect for another data set.

    Returns
    -------
    dict
        As ``metrics.json``, with ``n_skipped`` rows left out because their image failed.

    Raises
    ------
    InputError
        If there is nothing to score, classes are unknown, or the data set has changed since.
    StoreError
        If the store does not hold what the run needs.
    """
    start = time.perf_counter()
    opened_run = run if isinstance(run, Run) else Run.load(run)
    if split not in SPLITS:
        raise InputError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store or opened_run.store)
    name = dataset or opened_run.record.dataset
    is_own = name == opened_run.record.dataset
    version = opened_run.dataset_version if is_own else None
    cache = opened.features(opened_run.cache.name, name, version=version)
    if cache.digest != opened_run.cache.digest:
        differences = "; ".join(opened_run.recipe.differences(cache.recipe))
        raise InputError(
            f"the features of {name!r} were computed otherwise than those trained on: {differences}; "
            "extract with the same options"
        )
    cache.mark_used()
    manifest = cache.manifest
    if not is_own:
        rows = np.array(
            [row for row, label in enumerate(manifest.labels) if label is not None], dtype=np.int64
        )
    else:
        if manifest.pictures_digest != opened_run.record.manifest.pictures_digest:
            raise InputError(
                f"data set {name!r} of {opened.root} has other images than the run was trained on; name it "
                "as another --dataset"
            )
        chosen = {"test": [opened_run.test_rows], "train": [opened_run.train_rows]}
        rows = np.sort(np.concatenate(chosen.get(split, [opened_run.train_rows, opened_run.test_rows])))
    failed = cache.failed_rows([array.name for array in opened_run.arrays])
    usable = rows[~np.isin(rows, np.array(list(failed), dtype=np.int64))]
    if len(usable) == 0:
        raise InputError(f"data set {name!r} has no labeled row to score in split {split!r}")
    scored = score(opened_run, cache, usable, read_labels(opened_run.folder) if is_own else None)
    metrics = scored.metrics | {
        "n_train": len(opened_run.train_rows),
        "n_test": len(usable),
        "n_skipped": len(rows) - len(usable),
        "seconds": {"total": time.perf_counter() - start},
    }
    result: dict[str, Any] = json_ready(metrics)
    return result
