"""`train`: from stored features to a RUN folder."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from toptune.costs.meter import CostMeter
from toptune.machine.memory import bytes_of
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.extraction_costs import extraction_costs
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.json_values import json_ready
from toptune.text import counted
from toptune.train.heads.heads import make_head
from toptune.train.heads.options import check_auto, head_params
from toptune.train.heads.trials import AUTO_HEAD, try_heads
from toptune.train.layers.choices import LAYER_SEARCH
from toptune.train.layers.search import SHORT_LIST_HEADS, search_layers
from toptune.train.layers.stored_layers import AUTO, by_depth, choose_arrays
from toptune.train.preprocessing.finite_rows import non_finite_rows
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.preprocessing.spec import default_preprocessing, parse_preprocessing
from toptune.train.rows.chosen_rows import check_classes, leave_out
from toptune.train.rows.few_shot import draw_training_rows
from toptune.train.rows.splits import Split, advice_on_several_labels, group_keys, split_manifest
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
    dataset_version: int | None = None,
    head: str = "falkon",
    out: str | os.PathLike[str],
    layers: str | Sequence[str] | None = None,
    pooling: str | None = None,
    preprocess: str | None = None,
    seed: int = 0,
    penalty: float | Sequence[float] | None = None,
    sigma: float | Sequence[float] | None = None,
    kernel: str = "gaussian",
    n_centers: int = 1000,
    solver: str = "auto",
    memory_limit: int | str | None = None,
    cv: int | str | None = 5,
    test_fraction: float = 0.2,
    resplit: bool = False,
    val: str = "train",
    group_by: str | None = None,
    shots: int | None = None,
    train_size: int | None = None,
    class_weight: str | None = None,
    params: Mapping[str, Any] | None = None,
    budget: float | None = None,
    allow_failed: bool = False,
    keep_sums: bool = True,
    device: str | None = None,
    dask: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Run:
    """Train a head on stored features and write a RUN folder; nothing is extracted again.

    Parameters
    ----------
    store : path or FeatureStore
    dataset, model : str
        What was extracted; `model` spelled as for extract.
    dataset_version : int, optional
        Version of a data set that grew, by default the latest. The run records which one it was.
    head : str
        One of `HEADS`, or ``sklearn:package.Class``, any scikit-learn classifier, or ``auto``, which tries
        heads within `budget` and keeps the best of them by cross-validation.
    out : path
        RUN folder to make; one that exists and is not empty is refused.
    layers, pooling : optional
        Which stored arrays; see `choose_arrays`. By default ``last``. With ``auto`` a search over all of them
        chooses, by cross-validation on the training rows; see `toptune.train.search_layers`.
    preprocess : str, optional
        Steps between the stored features and the head, such as ``l2,standardise`` or ``pca:256``; see
        `fit_preprocessing`. By default the head's own, which is ``standardise`` but where it says otherwise.
    seed : int
        Of the split, the sample, the centers and scikit-learn's estimators.
    penalty, sigma, kernel, n_centers, solver
        Of heads ``falkon``, (but for the solver) ``falkon-logistic`` and (penalty) ``ridge``,
        ``logistic`` and ``head2toe``; see `FalkonClassifier` and `FalkonLogisticClassifier`.
    memory_limit : int or str, optional
        Bytes, or text such as ``2GiB``: a head whose projected peak is above is refused before any
        work. Half of the machine's memory by default.
    cv : int, "leave-one-group-out" or None
        Folds of the selection: buckets of a hash of the id (or group), whatever the labels; or every group of
        `group_by` by itself; or none, for heads falkon and ridge with one width and penalty given.
    test_fraction : float
        Share of each class held out where the manifest names no test rows.
    resplit : bool
        Draw a new split even where the manifest names one.
    val : {"train", "test", "drop"}
        What rows of a split ``val`` do.
    group_by : str, optional
        Column, or pattern on the id, whose groups stay on one side of the split and in one fold.
    shots, train_size : int, optional
        Train on a sample of the training rows only: so many of each class, or so many in all; see
        `toptune.train.rows.few_shot.draw_training_rows`.
    class_weight : None or "balanced"
    params : mapping, optional
        The head's own parameters.
    budget : float, optional
        Seconds that head ``auto`` may take for all its fits; 120 by default.
    allow_failed : bool
        Leave out rows that are not finite (failed images) instead of refusing.
    keep_sums : bool
        Write the sums of heads falkon (direct solver) and ridge beside the head, so that `update_run` can add
        and forget images; they take about ``4 (folds + 1) M^2`` bytes.
    device : str, optional
        torch device of the toptune heads.
    dask : str, optional
        Address of a dask.distributed scheduler whose workers add up the sums of heads falkon and ridge, all
        of which see the store at the same path; or ``local:N`` for N processes here.
    progress : callable, optional
        Called with the name of each phase as it begins.

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
    options = {
        "head": head, "layers": layers, "pooling": pooling, "preprocess": preprocess, "seed": seed,
        "penalty": penalty, "sigma": sigma,
        "kernel": kernel, "n_centers": n_centers, "solver": solver, "memory_limit": memory_limit,
        "cv": cv, "test_fraction": test_fraction,
        "resplit": resplit, "val": val, "group_by": group_by, "shots": shots, "train_size": train_size,
        "class_weight": class_weight,
        "params": dict(params or {}), "budget": budget, "allow_failed": allow_failed, "device": device,
    }  # fmt: skip
    path = check_out(out)
    spec = default_preprocessing(head) if preprocess is None else preprocess
    parse_preprocessing(spec)
    limit_bytes = None if memory_limit is None else bytes_of(memory_limit)
    given = head_params(
        head, params, penalty=penalty, sigma=sigma, kernel=kernel, n_centers=n_centers, solver=solver
    )
    make = partial(
        make_head, seed=seed, cv=cv, class_weight=class_weight, device=device, memory_limit_bytes=limit_bytes
    )
    check_auto(head, given, budget=budget, cv=cv, dask=dask)
    classifier = None if head == AUTO_HEAD else make(head, params=given, dask=dask)
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    cache = opened.features(model, dataset, version=dataset_version)
    cache.mark_used()
    manifest = cache.manifest
    is_auto = layers == AUTO
    stored = cache.arrays()
    arrays = (
        choose_arrays(by_depth(stored), "all", pooling) if is_auto else choose_arrays(stored, layers, pooling)
    )
    names = [array.name for array in arrays]
    split = split_manifest(
        manifest, seed=seed, test_fraction=test_fraction, val=val, group_by=group_by, resplit=resplit
    )
    failed = cache.failed_rows(names)
    failed_rows = np.array(sorted(failed), dtype=np.int64)
    split, n_skipped = leave_out(split, failed_rows, manifest, allow=allow_failed, reasons=failed)
    split = draw_training_rows(split, manifest, shots=shots, train_size=train_size, seed=seed)
    check_classes(manifest, split, cv=cv, is_cross_validated=head != "forest")
    groups = manifest.ids if group_by is None else group_keys(manifest, group_by)
    seconds: dict[str, float] = {}
    search = None
    if is_auto:
        search = search_layers(
            cache, arrays, split, groups=groups, seed=seed, cv=cv, class_weight=class_weight,
            preprocess=spec, memory_limit=limit_bytes, device=device, progress=notify,
            short_list_head=partial(make, head, params=given) if head in SHORT_LIST_HEADS else None,
        )  # fmt: skip
        arrays = [array for array in arrays if array.name in search.chosen.arrays]
        names = [array.name for array in arrays]
        seconds["layers"] = search.seconds

    notify("preprocess")
    meter.begin("preprocess")
    clock = time.perf_counter()
    dims = tuple(array.dim for array in arrays)
    preprocessing, bad = fit_preprocessing(
        spec, cache.blocks(names, split.train), dims, memory_limit_bytes=limit_bytes
    )
    bad_test = non_finite_rows(cache.blocks(names, split.test)) if len(split.test) else bad[:0]
    bad_rows = np.concatenate([split.train[bad], split.test[bad_test]])
    split, n_more = leave_out(split, bad_rows, manifest, allow=allow_failed, reasons={})
    n_skipped += n_more
    classes, counts = check_classes(manifest, split, cv=cv, is_cross_validated=head != "forest")
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
            blocks, labels, make=partial(make, is_compared=True), groups=keys,
            n_folds=cv if isinstance(cv, int) else len(set(keys)), budget_seconds=budget,
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
        options=options,
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
        write_run(run, folder, manifest, scored, keep_sums=keep_sums)
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
        notes.append(f"not used: {counted(split.n_unused, 'labelled image')} in no split that was asked for")
    return notes
