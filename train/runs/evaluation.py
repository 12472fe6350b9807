"""The rows and stored features on which a run is scored again."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError, InputError, StoreError, StoreNotFoundError
from toptune.options import check_choice
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.versions import read_dataset_version
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.features.recipe import ROUTE_NAMES, Recipe
from toptune.store.files.json_values import json_ready
from toptune.store.files.s3_path import SCHEME
from toptune.train.runs.record import ROWS
from toptune.train.runs.run import Run, read_labels
from toptune.train.runs.scoring import Scored
from toptune.train.runs.sources import RunSource, open_sources
from toptune.train.tasks.names import CLASSIFICATION

SPLITS = ("test", "train", "all")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredRows:
    """The rows of a data set that a run is scored on, with their features.

    Attributes
    ----------
    run : Run
    cache : StoredFeatures
        The features, in the recipe of the run.
    asked : ndarray of int64
        Rows of the split that was asked for.
    rows : ndarray of int64
        Those of them that have a label.
    usable : ndarray of int64
        Those of them whose image did not fail.
    labels : mapping of int to str, optional
        Labels by row where the run's own count, and not those of the data set.
    """

    run: Run
    cache: StoredFeatures
    asked: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    usable: npt.NDArray[np.int64]
    labels: Mapping[int, str] | None

    def metrics(self, scored: Scored, *, seconds: float) -> dict[str, Any]:
        """Return the content as of ``metrics.json``, of what was said of the usable rows."""
        metrics: dict[str, Any] = json_ready(
            scored.metrics
            | {
                "n_train": len(self.run.train_rows),
                "n_test": len(self.usable),
                "n_skipped": len(self.rows) - len(self.usable),
                "n_unlabelled": len(self.asked) - len(self.rows),
                "seconds": {"total": seconds},
            }
        )
        return metrics


def stored_rows(
    trained: Run,
    *,
    store: str | os.PathLike[str] | FeatureStore | None,
    dataset: str | None,
    split: str | None,
) -> StoredRows:
    """Find the rows and features on which a run is scored; arguments and errors as of `evaluate_run`."""
    if split is not None:
        check_choice(split, SPLITS, option="split")
    if store is None and trained.store.startswith(SCHEME):
        # A run from elsewhere would choose to whom this machine's credentials are shown.
        raise InputError(
            f"{trained.folder} was trained from the bucket {trained.store}, which is opened with your "
            f"credentials: name it yourself with --store {trained.store}",
            option="store",
        )
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store or trained.store)
    name = dataset or trained.record.dataset
    is_own = name == trained.record.dataset
    version = trained.dataset_version if is_own else None
    # The rows of the run itself keep the labels that trained them.
    reading = trained.row_options.reading(trained.decisions.relabel_again if is_own else None)
    if is_own and trained.record.task_name == CLASSIFICATION:
        reading["label_column"] = None
    try:
        cache = open_sources(
            opened,
            trained.sources,
            name,
            version=version,
            **reading,
        )
    except StoreNotFoundError as error:
        for source in trained.sources:
            _explain_other_features(source, opened, name)
        raise error
    cache.mark_used()
    if is_own and max(_own_rows(trained, "all"), default=0) >= cache.manifest.n_rows:
        raise CorruptError(f"{trained.folder / ROWS} names rows that data set {name!r} does not have")
    if is_own and cache.manifest.pictures_digest != trained.record.manifest.pictures_digest:
        raise InputError(
            f"data set {name!r} of {opened.root} has other images than the run was trained on; name it "
            "as another --dataset"
        )
    asked = _own_rows(trained, split or "test") if is_own else _rows_of(cache.manifest, split)
    rows = asked if is_own else asked[[cache.manifest.labels[row] is not None for row in asked.tolist()]]
    failed = cache.failed_rows([array.name for array in trained.arrays])
    # Failed images have NaN for features and cannot be scored; the number of them is reported.
    usable = rows[~np.isin(rows, np.array(list(failed), dtype=np.int64))]
    if len(usable) == 0:
        raise InputError(f"data set {name!r} has no labeled row to score in split {split or 'test'!r}")
    # The run's own labels are used, because the data set may have been relabeled since.
    return StoredRows(
        run=trained,
        cache=cache,
        asked=asked,
        rows=rows,
        usable=usable,
        labels=read_labels(trained.folder) if is_own else None,
    )


def any_rows(
    trained: Run, *, store: str | os.PathLike[str] | FeatureStore | None, dataset: str
) -> StoredRows:
    """Find all rows of another data set, labeled or not; errors are those of `stored_rows`."""
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store or trained.store)
    try:
        cache = open_sources(opened, trained.sources, dataset)
    except StoreNotFoundError as error:
        for source in trained.sources:
            _explain_other_features(source, opened, dataset)
        raise error
    cache.mark_used()
    rows = np.arange(cache.manifest.n_rows)
    failed = cache.failed_rows([array.name for array in trained.arrays])
    usable = rows[~np.isin(rows, np.array(list(failed), dtype=np.int64))]
    return StoredRows(run=trained, cache=cache, asked=rows, rows=rows, usable=usable, labels=None)


def _explain_other_features(source: RunSource, store: FeatureStore, dataset: str) -> None:
    """Raise an `InputError` that says how all features of the same model over a data set differ."""
    model, recipe = source.cache.name.rpartition("@")[0], source.full_recipe()
    try:
        parts = read_dataset_version(store.root, dataset).parts
    except StoreError:
        return  # There is no such data set, which the error that was raised before says.
    others = {
        cache.name: recipe.differences(cache.recipe)
        for part in parts
        for cache in store.caches(dataset=part)
        if cache.name.rpartition("@")[0] == model
    }
    if not others or source.cache.name in others:
        return  # The error that was raised before lists the models that there are.
    # Options for every field that differs somewhere give the run's features after each of the commands.
    differing = dict.fromkeys(line.split(" ")[0] for lines in others.values() for line in lines)
    words = [_option(recipe, field) for field in differing]
    options = " ".join(word for word in words if word)
    # Where every difference has an option, the options alone close the gap.
    remedy = (
        f"the same toptune extract DATA --dataset {dataset} ... with {options} adds features like those"
        if options and all(words)
        else f"extract the data set as for the training{', with ' * bool(options)}{options}"
    )
    told = [f"{f'{name}: ' * (len(others) > 1)}{'; '.join(lines)}" for name, lines in others.items()]
    raise InputError(
        f"the features of {dataset!r} were computed otherwise than those trained on: "
        f"{', and '.join(told)}; {remedy}, or give its images with --data",
        option="dataset",
    )


def _option(recipe: Recipe, field: str) -> str | None:
    """Write the option of extract that gives a field of a recipe its value, None where no single one does."""
    if field == "decode":
        return f"--decode {ROUTE_NAMES.get(recipe.decode, recipe.decode)}"
    if field == "precision":
        return f"--precision {recipe.precision}"
    if field == "forward":
        words = recipe.forward.split("+")
        return ("--fold" if "folded-1" in words else "--no-fold") + (
            " --compile" if "compiled" in words else ""
        )
    name = field.removeprefix("transform.")
    if field.startswith("transform.") and name in ("crop_pct", "interpolation", "scale"):
        value = recipe.transform.get(name)
        return None if value is None else f"--{name.replace('_', '-')} {value}"
    if field == "transform.bands" and recipe.transform.get(name):
        return f"--bands {','.join(map(str, recipe.transform[name]))}"
    if field == "model_kwargs.in_chans" and recipe.model_kwargs.get("in_chans"):
        return f"--in-chans {recipe.model_kwargs['in_chans']}"
    return None


def _rows_of(manifest: Manifest, split: str | None) -> npt.NDArray[np.int64]:
    """Return the rows of a data set, or those of a split that the data set names."""
    if split in (None, "all"):
        return np.arange(manifest.n_rows)
    rows = np.flatnonzero([name == split for name in manifest.splits])
    if len(rows) == 0:
        there = ", ".join(sorted({name for name in manifest.splits if name is not None})) or "none"
        raise InputError(
            f"no row of the data set belongs to split {split!r}; its splits are {there}: leave --split out "
            "to score all"
        )
    return rows


def _own_rows(run: Run, split: str) -> npt.NDArray[np.int64]:
    """Return the rows of a run's data set that a split names, in the order of the manifest."""
    sides = {"test": [run.test_rows], "train": [run.train_rows], "all": [run.train_rows, run.test_rows]}
    return np.sort(np.concatenate(sides[split]))
