"""`train_run`: from the stored features of a model to a RUN folder."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from toptune.costs.phases import Phases
from toptune.machine.device_memory import explained_out_of_memory
from toptune.machine.limits import RunLimits
from toptune.machine.memory import left_bytes
from toptune.store.arrays.spec import ArraySpec
from toptune.store.features.extraction_costs import extraction_costs
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.files.json_values import json_ready
from toptune.train.heads.kinds import check_head, why_on_cpu
from toptune.train.layers.choices import LAYER_SEARCH, LayerSearch
from toptune.train.layers.options import SHORT_LIST_HEADS
from toptune.train.layers.stored_layers import AUTO, by_depth, choose_arrays
from toptune.train.preprocessing.finite_rows import non_finite_rows
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks, Preprocessing
from toptune.train.rows.chosen_rows import ChosenRows, choose_rows
from toptune.train.rows.grids import grid_of
from toptune.train.runs.options import TrainOptions
from toptune.train.runs.record import DEALT, GROUPS, RunArray, SplitRecord, trained_record
from toptune.train.runs.restriction import restricted_run
from toptune.train.runs.run import Run
from toptune.train.runs.run_folds import folds_record
from toptune.train.runs.scoring import score
from toptune.train.runs.writing import check_out, new_run_folder, size_note, write_run

if TYPE_CHECKING:  # these import torch and scikit-learn, which a training that is refused does not need
    from toptune.train.heads.heads import Head
    from toptune.train.heads.trials import Trials


def train_run(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str,
    model: str,
    out: str | os.PathLike[str],
    options: TrainOptions,
    progress: Callable[[str], None] | None = None,
) -> Run:
    """Train a head on the stored features of one model; see `toptune.train.train`."""
    phases = Phases(progress)
    path = check_out(out)
    # Names, columns and sizes are checked before torch and scikit-learn are imported, which takes seconds.
    _check_head(options)
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    features = opened.features(
        model, dataset, version=options.dataset_version, label_column=options.rows.label_column
    )
    features.mark_used()
    arrays = _stored_arrays(features, options)
    failed = features.failed_rows([array.name for array in arrays])
    # Rows are chosen before layers, because layers that were searched on test rows would make the test
    # dishonest.
    rows = choose_rows(features.manifest, options.rows, cv=options.head.folds_to_fill, failed=failed)
    rows.check_tested()
    options = replace(options, limits=_settled(options))
    # A value or a device that the head does not take is refused here, before any feature is read.
    head = None if options.head.is_auto else _new_head(options)
    search = None
    if options.layers == AUTO:
        search = _search_layers(features, arrays, rows, options, phases)
        arrays = [array for array in arrays if array.name in search.chosen.arrays]
    names = [array.name for array in arrays]
    with phases("preprocess"):
        # Means and scales come from training rows alone, so that test rows stay unseen.
        preprocessing, rows = _fit_preprocessing(features, arrays, rows, options)
    with phases("fit"):
        blocks = PreprocessedBlocks(features.blocks(names, rows.split.train), preprocessing, names)
        trials = None
        if head is None:
            trials = _try_heads(blocks, rows, options)
            head = trials.head
        else:
            head.fit(blocks, rows.train_labels, groups=rows.train_groups)
    record = trained_record(
        features,
        store=opened.root,
        model=model,
        arrays=[RunArray(array.name, array.dim, str(array.dtype)) for array in arrays],
        classes=rows.classes,
        options=options.to_dict(),
        split=SplitRecord.of(rows.split, rows.manifest, n_skipped=rows.n_skipped),
        folds=folds_record(
            rows.folds,
            [rows.manifest.ids[row] for row in rows.split.train.tolist()],
            rule=DEALT if isinstance(rows.cv, int) else GROUPS,
        ),
        head=head,
        warnings=[*rows.notes, *(search.notes if search else ()), *preprocessing.warnings],
        layer_search=search.summary() if search else None,
        auto=trials.to_dict() if trials else None,
    )
    # A head that uses a few columns needs a few arrays only; predictions then read and compute less.
    run = restricted_run(
        Run(
            folder=path,
            record=record,
            metrics={},
            head=head,
            preprocessing=preprocessing,
            train_rows=rows.split.train,
            test_rows=rows.split.test,
        )
    )
    with phases("test"), _room(options, "scoring the test rows"):
        scored = score(run, features, rows.split.test)
    counts = {"n_train": len(run.train_rows), "n_test": len(run.test_rows), "n_skipped": rows.n_skipped}
    figures = scored.metrics | scored.tables.files | counts
    seconds = phases.seconds | {"total": phases.elapsed}
    costs = phases.costs() | extraction_costs(features, names)
    run = replace(run, metrics=json_ready(figures | {"seconds": seconds, "costs": costs}))
    with phases("write"), new_run_folder(path) as folder:
        write_run(run, folder, rows.manifest, scored, folds=rows.folds, keep_sums=options.keep_sums)
        if search is not None:
            search.write_csv(folder / LAYER_SEARCH)
    n_bytes = features.n_rows * sum(array.dim * array.dtype_bytes for array in run.arrays)
    return replace(run, size_note=size_note(path, n_bytes))


def _check_head(options: TrainOptions) -> None:
    """Refuse a head, parameters and grids that cannot be meant, without importing the head."""
    head = options.head
    if not head.is_auto:
        check_head(
            head.head, head.head_params, cv=head.cv, class_weight=head.class_weight, dask=options.limits.dask
        )
    for name in ("penalty", "sigma"):
        grid_of(getattr(head, name), name)


def _settled(options: TrainOptions) -> RunLimits:
    """Return the limits with the device that ``auto`` stands for, which the run records."""
    head = options.head
    return options.limits.settled(
        cpu_because=None if head.is_auto else why_on_cpu(head.head, head.head_params)
    )


def _new_head(options: TrainOptions) -> "Head":
    from toptune.train.heads.heads import new_head

    return new_head(options.head, seed=options.rows.seed, limits=options.limits)


def _stored_arrays(features: StoredFeatures, options: TrainOptions) -> list[ArraySpec]:
    """Choose the stored arrays to train on; where layers are searched, the candidates."""
    layers = options.layers
    assert not isinstance(layers, Mapping), "TrainOptions.for_model gives the layers of one model"
    if layers == AUTO:
        return choose_arrays(by_depth(features.arrays()), "all", options.pooling)
    return choose_arrays(features.arrays(), layers, options.pooling)


def _search_layers(
    features: StoredFeatures,
    candidates: Sequence[ArraySpec],
    rows: ChosenRows,
    options: TrainOptions,
    phases: Phases,
) -> LayerSearch:
    """Search for the layers to train on, by cross-validation on the training rows."""
    from toptune.train.layers.search import search_layers

    checks = options.head.head in SHORT_LIST_HEADS
    # The short list is small, and its fits are not summed by dask workers.
    local = replace(options, limits=replace(options.limits, dask=None))
    with _room(options, "searching layers"):
        search = search_layers(
            features,
            candidates,
            rows.split,
            groups=rows.groups,
            short_list_head=partial(_new_head, local) if checks else None,
            progress=phases.notify,
            seed=options.rows.seed,
            cv=options.head.cv,
            class_weight=options.head.class_weight,
            preprocess=options.preprocessing,
            memory_limit=options.limits.memory_limit,
            device=options.limits.device,
        )
    phases.seconds["layers"] = search.seconds
    return search


def _room(options: TrainOptions, what: str) -> AbstractContextManager[None]:
    """Explain a device that is full while it does other work than a fit, which explains itself."""
    knobs = "free memory there, or take fewer --layers or --centers"
    return explained_out_of_memory(what, device=options.limits.device, knobs=knobs)


def _fit_preprocessing(
    features: StoredFeatures, arrays: Sequence[ArraySpec], rows: ChosenRows, options: TrainOptions
) -> tuple[Preprocessing, ChosenRows]:
    """Fit the preprocessing to the training rows, and leave out rows that are not finite."""
    names, split = [array.name for array in arrays], rows.split
    preprocessing, bad = fit_preprocessing(
        options.preprocessing,
        features.blocks(names, split.train),
        tuple(array.dim for array in arrays),
        memory_limit_bytes=left_bytes(options.limits.memory_limit_bytes),
    )
    # A row with NaN would make every sum NaN. Test rows are checked as well, because they cannot be scored.
    bad_test = non_finite_rows(features.blocks(names, split.test)) if len(split.test) else bad[:0]
    return preprocessing, rows.without(np.concatenate([split.train[bad], split.test[bad_test]]))


def _try_heads(blocks: PreprocessedBlocks, rows: ChosenRows, options: TrainOptions) -> "Trials":
    """Fit heads within the budget, and keep the best by cross-validation."""
    from toptune.train.heads.heads import new_trial
    from toptune.train.heads.trials import try_heads

    cv, groups = options.head.cv, rows.train_groups
    return try_heads(
        blocks,
        rows.train_labels,
        make=partial(new_trial, options=options.head, seed=options.rows.seed, limits=options.limits),
        groups=groups,
        n_folds=cv if isinstance(cv, int) else len(set(groups)),
        budget_seconds=options.head.budget,
    )
