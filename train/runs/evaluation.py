"""`evaluate_run`: the metrics of a run, computed again from stored features."""

import os
import time
from typing import Any

import numpy as np
import numpy.typing as npt

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
    """Compute the metrics of a run again, from stored features.

    Parameters
    ----------
    run : Run or path
    store : path or FeatureStore, optional
        Where the features are; by default the store that the run was trained from.
    dataset : str, optional
        Another data set, extracted with the same recipe: all labeled rows of the latest version are scored.
        By default the data set that trained the run, in the version that trained the run.
    split : {"test", "train", "all"}
        Which rows of the run's own data set are scored. For another data set, `split` has no effect.

    Returns
    -------
    dict
        Content as of ``metrics.json``. ``n_skipped`` counts rows that are left out because the image failed.

    Raises
    ------
    InputError
        If there is no row to score, a class is unknown to the run, or the data set has changed since.
    StoreError
        If the store does not hold what the run needs.
    """
    start = time.perf_counter()
    trained = run if isinstance(run, Run) else Run.load(run)
    if split not in SPLITS:
        raise InputError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store or trained.store)
    name = dataset or trained.record.dataset
    is_own = name == trained.record.dataset
    version = trained.dataset_version if is_own else None
    cache = opened.features(trained.cache.name, name, version=version)
    if cache.digest != trained.cache.digest:
        differences = "; ".join(trained.recipe.differences(cache.recipe))
        raise InputError(
            f"the features of {name!r} were computed otherwise than those trained on: {differences}; "
            "extract with the same options"
        )
    cache.mark_used()
    if is_own and cache.manifest.pictures_digest != trained.record.manifest.pictures_digest:
        raise InputError(
            f"data set {name!r} of {opened.root} has other images than the run was trained on; name it "
            "as another --dataset"
        )
    rows = (
        _own_rows(trained, split)
        if is_own
        else np.flatnonzero([label is not None for label in cache.manifest.labels])
    )
    failed = cache.failed_rows([array.name for array in trained.arrays])
    # Failed images have NaN for features and cannot be scored; the number of them is reported.
    usable = rows[~np.isin(rows, np.array(list(failed), dtype=np.int64))]
    if len(usable) == 0:
        raise InputError(f"data set {name!r} has no labeled row to score in split {split!r}")
    # The run's own labels are used, because the data set may have been relabeled since.
    scored = score(trained, cache, usable, read_labels(trained.folder) if is_own else None)
    metrics = scored.metrics | {
        "n_train": len(trained.train_rows),
        "n_test": len(usable),
        "n_skipped": len(rows) - len(usable),
        "seconds": {"total": time.perf_counter() - start},
    }
    result: dict[str, Any] = json_ready(metrics)
    return result


def _own_rows(run: Run, split: str) -> npt.NDArray[np.int64]:
    """Return the rows of a run's data set that a split names, in the order of the manifest."""
    sides = {"test": [run.test_rows], "train": [run.train_rows], "all": [run.train_rows, run.test_rows]}
    return np.sort(np.concatenate(sides[split]))
