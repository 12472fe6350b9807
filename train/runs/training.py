"""`train_run`: from the stored features of a model to a RUN folder."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from toptune.costs.phases import Phases
from toptune.errors import InputError
from toptune.machine.device_memory import explained_out_of_memory
from toptune.machine.limits import RunLimits
from toptune.machine.memory import left_bytes
from toptune.machine.plans import plan_logger
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.stored_layers import ALL, AUTO, by_depth, choose_arrays, tell_choice
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.versions import read_dataset_version
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import ModelFeatures, StoredFeatures
from toptune.store.files.json_values import json_ready
from toptune.store.joined.joined_features import split_name
from toptune.store.joined.member_costs import member_costs
from toptune.train.heads.kinds import (
    LARGEST_TRIAL,
    check_head,
    heads_for,
    why_on_cpu,
    why_small,
)
from toptune.train.layers.choices import LAYER_SEARCH, LayerSearch
from toptune.train.layers.options import SHORT_LIST_HEADS
from toptune.train.preprocessing.finite_rows import non_finite_rows
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks, Preprocessing
from toptune.train.rows.chosen_rows import ChosenRows, choose_rows
from toptune.train.rows.copies import digests_of
from toptune.train.rows.grids import grid_of
from toptune.train.rows.options import RowOptions
from toptune.train.runs.best_record import BestRecord
from toptune.train.runs.options import TrainOptions
from toptune.train.runs.record import DEALT, GROUPS, FoldsRecord, SplitRecord, trained_record
from toptune.train.runs.restriction import restricted_run
from toptune.train.runs.run import Run
from toptune.train.runs.run_folds import folds_record
from toptune.train.runs.scoring import Scored, score
from toptune.train.runs.sources import RunArray
from toptune.train.runs.writing import check_out, new_run_folder, size_note, write_run
from toptune.train.tasks.choice import told_task
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION, MULTILABEL

if TYPE_CHECKING:  # these import torch and scikit-learn, which a training that is refused does not need
    from toptune.train.answers.class_tree import ClassTree
    from toptune.train.answers.kept import Kept
    from toptune.train.heads.heads import Head
    from toptune.train.heads.trials import Trials
    from toptune.train.passes.training_rows import LeftOutScores


_Read = TypeVar("_Read")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The features of one model, or of several side by side, with what their head is going to be trained on.

    Attributes
    ----------
    models : tuple of str
        The backbones in the order of their features, spelled as the caller did.
    features : StoredFeatures
    options : TrainOptions
        With the layers of a single model, and the device settled.
    arrays : sequence of ArraySpec
        The arrays that the layers mean, or that the search chose.
    head : Head or None
        Not fitted; None where several heads are tried.
    search : LayerSearch or None
    """

    models: tuple[str, ...]
    features: StoredFeatures
    options: TrainOptions
    arrays: Sequence[ArraySpec]
    head: "Head | None"
    search: LayerSearch | None = None

    @property
    def names(self) -> list[str]:
        """Names of the arrays, whose columns stand side by side in this order."""
        return [array.name for array in self.arrays]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted head as a run that has no metrics yet.

    Attributes
    ----------
    run : Run
    left_out : LeftOutScores or None
        Left-out scores of the training rows; None for a head without folds.
    kept : Kept
        What sets of labels and novelty need of the training.
    prepared : Prepared
    seconds : float
        Seconds of the fit.
    """

    run: Run
    left_out: "LeftOutScores | None"
    kept: "Kept"
    prepared: Prepared
    seconds: float

    @property
    def costs(self) -> dict[str, float]:
        """What extracting the arrays took that the head was trained on."""
        return member_costs(self.prepared.features, self.prepared.names)

    def write(self, folder: Path, rows: ChosenRows, scored: Scored) -> None:
        """Write the files of the run, whose metrics are known by now."""
        options, search = self.prepared.options, self.prepared.search
        write_run(self.run, folder, rows.manifest, scored, folds=rows.folds, keep_sums=options.keep_sums)
        self.kept.write(folder)
        if search is not None:
            search.write_csv(folder / LAYER_SEARCH)

    @property
    def feature_bytes(self) -> int:
        """Bytes of the features of all images that the run uses."""
        return self.prepared.features.n_rows * sum(array.dim * array.dtype_bytes for array in self.run.arrays)


def train_run(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str,
    model: str,
    out: str | os.PathLike[str],
    options: TrainOptions,
    progress: Callable[[str], None] | None = None,
    best: BestRecord | None = None,
) -> Run:
    """Train a head on the stored features of one model; see `toptune.train.train`."""
    phases = Phases(progress)
    path = check_out(out)
    # Names, columns and sizes are checked before torch and scikit-learn are imported, which takes seconds.
    check_head_options(options)
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)

    def reading(options: TrainOptions) -> ModelFeatures:
        rows, version = options.rows, options.dataset_version
        return opened.features(model, dataset, version=version, **rows.reading(rows.decisions.relabel))

    features, options = read_for_task(reading, options, lambda found: found.manifest)
    arrays = stored_arrays(features, options)
    return train_on(
        features, arrays, models=(model,), store=opened.root, path=path, options=options, phases=phases,
        best=best,
    )  # fmt: skip


def refuse_other_tasks(store: FeatureStore, dataset: str, options: TrainOptions) -> None:
    """Refuse a data set of another task than classification for the choice among all that is stored.

    Raises
    ------
    InputError
        For a task that was named, or that the labels of the data set say.
    """
    rows = options.rows
    if rows.task == AUTO_TASK and rows.label_column is None:
        manifest = read_dataset_version(store.root, dataset, options.dataset_version).manifest
        rows = replace(rows, task=told_task(rows.task, rows.wanted, manifest))
    refuse_best(rows)


def refuse_best(rows: RowOptions) -> None:
    """Refuse another task than classification for the choice among all that is stored.

    Raises
    ------
    InputError
        The message says how one head, or the best of several, is trained.
    """
    task = rows.task
    if task in (AUTO_TASK, CLASSIFICATION):
        return
    labels = "; where images should have one label each, name a column of such labels with --label-column"
    raise InputError(
        f"best does not know --task {task}: it weighs heads and fusions by the probabilities of classes. "
        f"Train the best head of one model with --head auto, or one of {', '.join(heads_for(task))}, and "
        f"find the layers with --layers auto{labels if task == MULTILABEL else ''}",
        option="best",
    )


def read_for_task(
    reading: Callable[[TrainOptions], _Read], options: TrainOptions, manifest_of: Callable[[_Read], Manifest]
) -> tuple[_Read, TrainOptions]:
    """Read features, and settle the task by their labels; for another task the labels are read once more.

    Parameters
    ----------
    reading : callable (TrainOptions)
        Opens the features.
    options : TrainOptions
    manifest_of : callable
        Gives the manifest of what `reading` returns.

    Raises
    ------
    InputError
        If the head does not know the task, or the labels do not fit it.
    """
    found = reading(options)
    told = options.for_task(manifest_of(found))
    check_head_options(told)
    if told.rows.task != options.rows.task and told.rows.task != CLASSIFICATION:
        found = reading(told)
    return found, told


def train_on(
    features: StoredFeatures,
    arrays: Sequence[ArraySpec],
    *,
    models: Sequence[str],
    store: Path,
    path: Path,
    options: TrainOptions,
    phases: Phases,
    best: BestRecord | None = None,
) -> Run:
    """Train one head on arrays of stored features, and write its RUN folder.

    Parameters
    ----------
    features : StoredFeatures
        Of one model, or of several as one table.
    arrays : sequence of ArraySpec
        Arrays to train on; where the options search layers, the candidates.
    models : sequence of str
        The models, spelled as the caller did.
    store : Path
        Root folder of the store.
    path : Path
        The RUN folder.
    options : TrainOptions
    phases : Phases
    best : BestRecord, optional
        What the options were chosen among.
    """
    features.mark_used()
    failed = features.failed_rows([array.name for array in arrays])
    # Rows are chosen before layers, because layers that were searched on test rows would make the test
    # dishonest.
    rows = choose_rows(
        features.manifest, options.rows, cv=options.head.folds_to_fill, failed=failed,
        digests=digests_of(features),
    )  # fmt: skip
    rows.check_tested()
    n_columns = sum(array.dim for array in arrays)
    options = replace(options, limits=settled(options, shape=(len(rows.split.train), n_columns)))
    prepared = prepare(features, arrays, rows, options, models=models, phases=phases)
    with phases("preprocess"):
        preprocessing, bad_rows = fit_to_rows(prepared, rows)
        rows = rows.without(bad_rows)
    with phases("fit"):
        fitted = fit_prepared(prepared, preprocessing, rows, path=path, store=store)
        fitted = replace(fitted, run=replace(fitted.run, record=replace(fitted.run.record, best=best)))
    with phases("test"), scoring_room(options):
        scored = score(fitted.run, features, rows.split.test, tree=fitted.kept.tree)
    counts = {
        "n_train": len(rows.split.train), "n_test": len(rows.split.test), "n_skipped": rows.n_skipped,
    }  # fmt: skip
    metrics = run_metrics(scored, counts, phases, fitted.costs)
    fitted = replace(fitted, run=replace(fitted.run, metrics=metrics))
    with phases("write"), new_run_folder(path) as folder:
        fitted.write(folder, rows, scored)
    return replace(fitted.run, size_note=size_note(path, fitted.feature_bytes))


def prepare(
    features: StoredFeatures,
    arrays: Sequence[ArraySpec],
    rows: ChosenRows,
    options: TrainOptions,
    *,
    models: Sequence[str],
    phases: Phases,
    is_compared: bool = False,
) -> Prepared:
    """Make the unfitted head on some arrays, and search among these for layers where that was asked for.

    Parameters
    ----------
    features : StoredFeatures
    arrays : sequence of ArraySpec
        As `stored_arrays` chose them.
    rows : ChosenRows
    options : TrainOptions
        With a settled device.
    models : sequence of str
        As in `Prepared`.
    phases : Phases
    is_compared : bool
        Cross-validate the head in any case; see `toptune.train.make_head`.
    """
    # A value or a device that the head does not take is refused here, before any feature is read.
    head = None if options.head.is_auto else _new_head(options, is_compared=is_compared)
    search = None
    if options.layers == AUTO:
        search = _search_layers(features, arrays, rows, options, phases)
        arrays = [array for array in arrays if array.name in search.chosen.arrays]
    else:
        is_default = options.layers is None and options.pooling is None
        told = tell_choice(arrays, features.arrays(), is_default=is_default)
        plan_logger.info("layers of %s: %s", " + ".join(models), told)
    return Prepared(
        models=tuple(models), features=features, options=options, arrays=arrays, head=head, search=search
    )


def with_new_head(prepared: Prepared, *, is_compared: bool = False) -> Prepared:
    """Return what was prepared with a head that may take what the memory limit leaves by now."""
    if prepared.head is None:
        return prepared
    return replace(prepared, head=_new_head(prepared.options, is_compared=is_compared))


def fit_to_rows(prepared: Prepared, rows: ChosenRows) -> tuple[Preprocessing, npt.NDArray[np.int64]]:
    """Fit the preprocessing to the training rows, and find the rows that are not finite.

    Returns
    -------
    preprocessing : Preprocessing
        Fitted to the training rows that are finite.
    bad_rows : ndarray of int64
        Rows of the manifest, of training and of test, that are not finite.
    """
    features, options, names, split = prepared.features, prepared.options, prepared.names, rows.split
    # Means and scales come from training rows alone, so that test rows stay unseen.
    preprocessing, bad = fit_preprocessing(
        options.preprocessing,
        features.blocks(names, split.train),
        tuple(array.dim for array in prepared.arrays),
        members=[split_name(name)[0] for name in names],
        labels=rows.train_labels if rows.task.name == CLASSIFICATION else None,
        memory_limit_bytes=left_bytes(options.limits.memory_limit_bytes),
    )
    # A row with NaN would make every sum NaN. Test rows are checked as well, because they cannot be scored.
    bad_test = non_finite_rows(features.blocks(names, split.test)) if len(split.test) else bad[:0]
    return preprocessing, np.concatenate([split.train[bad], split.test[bad_test]])


def fit_prepared(
    prepared: Prepared, preprocessing: Preprocessing, rows: ChosenRows, *, path: Path, store: Path | str
) -> Fitted:
    """Fit the head to the training rows.

    Parameters
    ----------
    prepared : Prepared
    preprocessing : Preprocessing
        Fitted to the same rows.
    rows : ChosenRows
        Without rows that are not finite.
    path : Path
        Folder that the run will have.
    store : path
        Root folder of the store.
    """
    from toptune.train.runs.left_out import kept_of, said_of, with_thing_thresholds

    clock = time.perf_counter()
    features, options, search = prepared.features, prepared.options, prepared.search
    blocks = PreprocessedBlocks(
        features.blocks(prepared.names, rows.split.train), preprocessing, prepared.names
    )
    # A tree that is none is refused before the fit, which takes the longest.
    tree = _tree(options, rows)
    trials, head = None, prepared.head
    if head is None:
        trials = _try_heads(blocks, rows, options)
        head = trials.head
    else:
        head.fit(blocks, rows.train_targets, groups=rows.train_groups)
    # A head that is restricted to some columns is another object, which no fit has left scores in.
    left_out = head.left_out_scores
    record = trained_record(
        features,
        store=store,
        models=prepared.models,
        arrays=[RunArray(array.name, array.dim, str(array.dtype)) for array in prepared.arrays],
        classes=rows.classes,
        options=options.to_dict(prepared.models),
        split=SplitRecord.of(rows.split, rows.manifest, n_skipped=rows.n_skipped),
        folds=folds_of_rows(rows),
        head=head,
        warnings=[*rows.notes, *(search.notes if search else ()), *preprocessing.warnings],
        layer_search=search.summary() if search else None,
        auto=trials.to_dict() if trials else None,
    )
    decisions = rows.options.decisions
    # A head that uses a few columns needs a few arrays only; predictions then read and compute less.
    run = restricted_run(
        Run(
            folder=path,
            record=replace(record, decisions=decisions.files or None),
            metrics={},
            head=head,
            preprocessing=preprocessing,
            train_rows=rows.split.train,
            test_rows=rows.split.test,
            decisions=decisions,
        )
    )
    said = said_of(run, rows, left_out)
    run = replace(run, record=with_thing_thresholds(run.record, said))
    kept = kept_of(run, features, rows, said, tree=tree)
    return Fitted(
        run=run, left_out=left_out, kept=kept, prepared=prepared, seconds=time.perf_counter() - clock
    )


def _tree(options: TrainOptions, rows: ChosenRows) -> "ClassTree | None":
    """Return the tree of the classes that a column or a file names."""
    from toptune.train.answers.class_tree import ClassTree

    if options.class_tree is None:
        return None
    if rows.task.name != CLASSIFICATION:
        raise InputError(
            f"class_tree is {options.class_tree!r} with --task {rows.task.name}; a tree is one of classes, "
            "of which each image has one: leave --class-tree out",
            option="class_tree",
        )
    return ClassTree.told(options.class_tree, rows.manifest, list(rows.classes))


def folds_of_rows(rows: ChosenRows) -> FoldsRecord | None:
    """Say what ``run.json`` says of the folds of the rows."""
    ids = [rows.manifest.ids[row] for row in rows.split.train.tolist()]
    return folds_record(rows.folds, ids, rule=DEALT if isinstance(rows.cv, int) else GROUPS)


def run_metrics(
    scored: Scored, counts: Mapping[str, int | None], phases: Phases, extraction: Mapping[str, float]
) -> dict[str, Any]:
    """Return the content of ``metrics.json``: figures of the test rows, counts, seconds and costs."""
    figures = scored.metrics | scored.tables.files | dict(counts)
    seconds = phases.seconds | {"total": phases.elapsed}
    metrics: dict[str, Any] = json_ready(
        figures | {"seconds": seconds, "costs": phases.costs() | dict(extraction)}
    )
    return metrics


def check_head_options(options: TrainOptions) -> None:
    """Refuse a head, parameters and grids that cannot be meant, without importing the head."""
    head = options.head
    # Head `auto` tries heads by their defaults; one of them tells what goes with the task.
    name, params = (LARGEST_TRIAL, {}) if head.is_auto else (head.head, head.head_params)
    if head.best:
        refuse_best(options.rows)
    check_head(
        name, params, cv=head.cv, class_weight=head.class_weight, dask=options.limits.dask,
        task=options.rows.task,
    )  # fmt: skip
    for name in ("penalty", "sigma"):
        grid_of(getattr(head, name), name)


def settled(options: TrainOptions, *, shape: tuple[int, int] | None = None) -> RunLimits:
    """Return the limits with the device that ``auto`` stands for, which the run records.

    Of the `shape` (n, d) of the training rows ``auto`` learns whether the fit is worth a GPU. Head ``auto``
    goes by the kernel head, the largest of the fits that it tries on a GPU.
    """
    head = options.head
    name, params = (LARGEST_TRIAL, {}) if head.is_auto else (head.head, head.head_params)
    return options.limits.settled(
        cpu_because=why_on_cpu(name, params),
        small_because=shape and why_small(name, params, n_rows=shape[0], n_columns=shape[1]),
    )


def _new_head(options: TrainOptions, *, is_compared: bool = False) -> "Head":
    from toptune.train.heads.heads import new_head

    return new_head(
        options.fitted_head, seed=options.rows.seed, limits=options.limits, is_compared=is_compared,
        task=options.rows.task,
    )  # fmt: skip


def stored_arrays(features: StoredFeatures, options: TrainOptions) -> list[ArraySpec]:
    """Choose the stored arrays of one model to train on; where layers are searched, the candidates."""
    layers, stored = options.layers, features.arrays()
    assert not isinstance(layers, Mapping), "TrainOptions.for_model gives the layers of one model"
    whole = stored
    if layers is None or layers == AUTO:
        # Layers that are being added to the store must not keep anyone from training on those that are there.
        # Where none is whole, the error that names what is missing is raised by whoever reads them.
        whole = [each for each in stored if features.is_complete([each.name])] or stored
    if layers == AUTO:
        return choose_arrays(by_depth(whole), ALL, options.pooling)
    return choose_arrays(whole, layers, options.pooling)


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
            task=options.rows.task,
            preprocess=options.preprocessing,
            memory_limit=options.limits.memory_limit,
            device=options.limits.device,
        )
    phases.seconds["layers"] = search.seconds
    return search


def scoring_room(options: TrainOptions) -> AbstractContextManager[None]:
    """Explain a device that is full while it scores the test rows."""
    return _room(options, "scoring the test rows")


def _room(options: TrainOptions, what: str) -> AbstractContextManager[None]:
    """Explain a device that is full while it does other work than a fit, which explains itself."""
    knobs = "free memory there, or take fewer --layers or --centers"
    return explained_out_of_memory(what, device=options.limits.device, knobs=knobs)


def _try_heads(blocks: PreprocessedBlocks, rows: ChosenRows, options: TrainOptions) -> "Trials":
    """Fit heads within the budget, and keep the best by cross-validation."""
    from toptune.train.heads.heads import new_trial
    from toptune.train.heads.trials import try_heads

    cv, groups = options.head.cv, rows.train_groups
    return try_heads(
        blocks,
        rows.train_targets,
        make=partial(
            new_trial,
            options=options.head,
            seed=options.rows.seed,
            limits=options.limits,
            task=rows.task.name,
        ),
        groups=groups,
        n_folds=cv if isinstance(cv, int) else len(set(groups)),
        task=rows.task.name,
        budget_seconds=options.head.budget,
    )
