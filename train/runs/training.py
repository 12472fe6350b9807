"""`train`: from stored features to a RUN folder."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Unpack

import numpy as np

from toptune.costs.meter import CostMeter
from toptune.options import options_of
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.extraction_costs import extraction_costs
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.json_values import json_ready
from toptune.text import counted
from toptune.train.heads.heads import new_head, new_trial
from toptune.train.heads.trials import try_heads
from toptune.train.layers.choices import LAYER_SEARCH
from toptune.train.layers.search import SHORT_LIST_HEADS, search_layers
from toptune.train.layers.stored_layers import AUTO, by_depth, choose_arrays
from toptune.train.preprocessing.finite_rows import non_finite_rows
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.rows.chosen_rows import check_classes, leave_out
from toptune.train.rows.few_shot import draw_training_rows
from toptune.train.rows.splits import Split, advice_on_several_labels, group_keys, split_manifest
from toptune.train.runs.options import TrainArguments, TrainOptions
from toptune.train.runs.record import RunArray, SplitRecord, trained_record
from toptune.train.runs.restriction import restricted_run
from toptune.train.runs.run import Run
from toptune.train.runs.scoring import score
from toptune.train.runs.writing import check_out, new_run_folder, write_run


def train(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str,
    model: str,
    out: str | os.PathLike[str],
    progress: Callable[[str], None] | None = None,
    **arguments: Unpack[TrainArguments],
) -> Run:
    """Train a head on stored features and write a RUN folder; nothing is extracted again.

    Parameters
    ----------
    store : path or FeatureStore
    dataset, model : str
        What was extracted; `model` spelled as for extract.
    out : path
        RUN folder to make; one that exists and is not empty is refused.
    progress : callable, optional
        Called with the name of each phase as it begins.
    **arguments
        The fields of `TrainOptions`, `RowOptions`, `HeadOptions` and `RunLimits`.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        For options out of range, an `out` that exists, unlabeled or too few training rows, one
        class only, a class with fewer rows than folds, rows that are not finite, unknown layers.
    StoreError
        If the store lacks what is asked for, or it is incomplete or damaged.
    """
    start, meter = time.perf_counter(), CostMeter()
    notify = progress or (lambda _phase: None)
    options = options_of(TrainOptions, arguments, call="train")
    rows, chosen, limits = options.rows, options.head, options.limits
    path = check_out(out)
    classifier = None if chosen.is_auto else new_head(chosen, seed=rows.seed, limits=limits)
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    cache = opened.features(model, dataset, version=options.dataset_version)
    cache.mark_used()
    manifest = cache.manifest
    is_auto = options.layers == AUTO
    stored = cache.arrays()
    arrays = (
        choose_arrays(by_depth(stored), "all", options.pooling)
        if is_auto
        else choose_arrays(stored, options.layers, options.pooling)
    )
    names = [array.name for array in arrays]
    split = split_manifest(
        manifest,
        seed=rows.seed,
        test_fraction=rows.test_fraction,
        val=rows.val,
        group_by=rows.group_by,
        resplit=rows.resplit,
    )
    failed = cache.failed_rows(names)
    failed_rows = np.array(sorted(failed), dtype=np.int64)
    split, n_skipped = leave_out(split, failed_rows, manifest, allow=rows.allow_failed, reasons=failed)
    split = draw_training_rows(split, manifest, shots=rows.shots, train_size=rows.train_size, seed=rows.seed)
    check_classes(manifest, split, cv=chosen.cv, is_cross_validated=chosen.folds_to_fill is not None)
    groups = manifest.ids if rows.group_by is None else group_keys(manifest, rows.group_by)
    seconds: dict[str, float] = {}
    search = None
    if is_auto:
        search = search_layers(
            cache, arrays, split, groups=groups, seed=rows.seed, cv=chosen.cv,
            class_weight=chosen.class_weight, preprocess=options.preprocessing,
            memory_limit=limits.memory_limit_bytes, device=limits.device, progress=notify,
            short_list_head=partial(new_head, chosen, seed=rows.seed, limits=replace(limits, dask=None))
            if chosen.head in SHORT_LIST_HEADS
            else None,
        )  # fmt: skip
        arrays = [array for array in arrays if array.name in search.chosen.arrays]
        names = [array.name for array in arrays]
        seconds["layers"] = search.seconds

    notify("preprocess")
    meter.begin("preprocess")
    clock = time.perf_counter()
    dims = tuple(array.dim for array in arrays)
    preprocessing, bad = fit_preprocessing(
        options.preprocessing,
        cache.blocks(names, split.train),
        dims,
        memory_limit_bytes=limits.memory_limit_bytes,
    )
    bad_test = non_finite_rows(cache.blocks(names, split.test)) if len(split.test) else bad[:0]
    bad_rows = np.concatenate([split.train[bad], split.test[bad_test]])
    split, n_more = leave_out(split, bad_rows, manifest, allow=rows.allow_failed, reasons={})
    n_skipped += n_more
    classes, counts = check_classes(
        manifest, split, cv=chosen.cv, is_cross_validated=chosen.folds_to_fill is not None
    )
    seconds["preprocess"] = time.perf_counter() - clock

    notify("fit")
    meter.begin("fit")
    clock = time.perf_counter()
    labels = [str(manifest.labels[row]) for row in split.train]
    blocks = PreprocessedBlocks(cache.blocks(names, split.train), preprocessing, names)
    keys = [groups[row] for row in split.train]
    trials = None
    if classifier is None:
        trials = try_heads(
            blocks, labels, make=partial(new_trial, options=chosen, seed=rows.seed, limits=limits),
            groups=keys,
            n_folds=chosen.cv if isinstance(chosen.cv, int) else len(set(keys)),
            budget_seconds=chosen.budget,
        )  # fmt: skip
        classifier = trials.head
    else:
        classifier.fit(blocks, labels, groups=keys)
    seconds["fit"] = time.perf_counter() - clock
    record = trained_record(
        cache,
        store=opened.root,
        model=model,
        arrays=[RunArray(each.name, each.dim, str(each.dtype)) for each in arrays],
        classes=dict(zip(classes, counts, strict=True)),
        options=options.to_dict(),
        split=SplitRecord.of(split, manifest, n_skipped=n_skipped),
        head=classifier,
        warnings=[
            *_unused(split, manifest),
            *(search.notes if search is not None else ()),
            *preprocessing.warnings,
        ],
        layer_search=None if search is None else search.summary(),
        auto=None if trials is None else trials.to_dict(),
    )
    run = Run(
        folder=path, record=record, metrics={}, head=classifier, preprocessing=preprocessing,
        train_rows=split.train, test_rows=split.test,
    )  # fmt: skip
    run = restricted_run(run)

    notify("test")
    meter.begin("test")
    clock = time.perf_counter()
    scored = score(run, cache, split.test)
    seconds["test"] = time.perf_counter() - clock
    seconds["total"] = time.perf_counter() - start
    metrics = scored.metrics | {"n_train": len(split.train), "n_test": len(split.test),
                                "n_skipped": n_skipped, "seconds": seconds,
                                "costs": meter.to_dict() | extraction_costs(cache, names)}  # fmt: skip
    run = replace(run, metrics=json_ready(metrics))
    notify("write")
    with new_run_folder(path) as folder:
        write_run(run, folder, manifest, scored, keep_sums=options.keep_sums)
        if search is not None:
            search.write_csv(folder / LAYER_SEARCH)
    return run


def _unused(split: Split, manifest: Manifest) -> list[str]:
    """Say which rows of the data set neither train nor test."""
    notes = []
    if split.n_unlabelled:
        notes.append(f"not used: {counted(split.n_unlabelled, 'image')} without a label")
        rows = np.array([row for row, label in enumerate(manifest.labels) if label is None], dtype=np.int64)
        several = advice_on_several_labels(manifest, rows)
        notes += [several] if several else []
    if split.n_unused:
        notes.append(f"not used: {counted(split.n_unused, 'labeled image')} in no split that was asked for")
    return notes
