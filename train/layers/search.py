"""Layer search: how well ridge regression does on each layer, and which subset of layers to train on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np

from toptune.options import options_of
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.stored_layers import LAST, tap_of
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.joined.joined_features import joined_name, split_name
from toptune.train.heads.heads import Head
from toptune.train.layers.choices import (
    LayerChoice,
    LayerSearch,
    cheapest_of,
    choose_best,
    mark_chosen,
    standard_error,
)
from toptune.train.layers.options import SearchArguments, SearchOptions
from toptune.train.layers.paths import PenaltyPaths, Subset, all_paths
from toptune.train.layers.stored_grams import ReadLayers, read_layers
from toptune.train.passes.training_rows import OutOfFold, TrainingRows
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.rows.splits import Split
from toptune.train.solvers.one_pass import RELATIVE_PENALTIES
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import CLASSIFICATION


def search_layers(
    cache: StoredFeatures,
    arrays: Sequence[ArraySpec],
    split: Split,
    *,
    groups: Sequence[str],
    short_list_head: Callable[[], Head] | None = None,
    progress: Callable[[str], None] | None = None,
    **arguments: Unpack[SearchArguments],
) -> LayerSearch:
    """Cross-validate ridge regression on subsets of layers, from sums of one pass over all of them.

    Columns are preprocessed as `train` does; standardized, all layers weigh alike. With up to 4000 columns,
    and no more than rows, the sums are the Gram matrix of all columns over all rows, and subsets are its
    blocks. Otherwise the sums are one linear kernel matrix for each layer over at most `search_rows`
    training rows (a stratified sample), and subsets are sums of such matrices. Greedy steps and penalties are
    chosen by left-out squared error; accuracy and log-loss of left-out rows, or R2 of numbers, decide in the
    end. No test row is read.

    Parameters
    ----------
    cache : StoredFeatures
        Features of a data set, of all candidates.
    arrays : sequence of ArraySpec
        Candidates, by depth; see `toptune.store.arrays.stored_layers.by_depth`.
    split : Split
        Only the training rows are read.
    groups : sequence of str
        Group, or id, of every row of the manifest; rows of equal groups share a fold.
    short_list_head : callable, optional
        Makes an unfitted head of the same task, whose report has left-out figures. Such heads are fitted
        to the `n_short_list` best subsets and to the last layer of each backbone, on all training rows, and
        decide.
    progress : callable, optional
        Called with the name of each phase as the phase begins.
    **arguments
        The fields of `SearchOptions`.

    Raises
    ------
    InputError
        Without folds, for a class with fewer rows than folds, rows that are not finite, or a projected peak
        above the memory limit.
    """
    start = time.perf_counter()
    options = options_of(SearchOptions, arguments, call="search_layers")
    notify = progress or (lambda _phase: None)
    read = read_layers(cache, arrays, split, groups=groups, options=options, notify=notify)
    paths = PenaltyPaths(
        lambda subset, at: read.grams.squared_error(subset, _penalty(read, subset, at)),
        len(RELATIVE_PENALTIES),
    )
    taps = [tap_of(array) for array in arrays]
    found = all_paths(paths, taps, max_layers=options.max_layers, notify=notify)
    last = _last_of_each(paths, taps)
    # What training takes by default is compared with the rest; of one backbone it is a layer alone.
    found += [("each", last)] if len(last) > 1 else []
    listed = [(path, tuple(sorted(subset))) for path, subset in found]
    notify("left-out predictions")
    of_subset = _scored(read, arrays, paths, list(dict.fromkeys(subset for _, subset in listed)))
    if short_list_head is not None and options.n_short_list > 0:
        best = sorted(of_subset, key=lambda key: (-of_subset[key].figure, of_subset[key].log_loss or 0.0))
        for subset in dict.fromkeys([*best[: options.n_short_list], last]):
            choice = of_subset[subset]
            notify(f"short list: {choice.layers}")
            of_subset[subset] = _checked(choice, short_list_head(), cache, options, split, groups)
    distinct = list(of_subset.values())
    is_checked = any(choice.head_figure is not None for choice in distinct)
    n_deciding = read.n_validated if is_checked else read.rows.n_validated
    chosen = replace(choose_best(distinct, n=n_deciding, by_head=is_checked), is_chosen=True)
    return LayerSearch(
        choices=mark_chosen([replace(of_subset[subset], path=path) for path, subset in listed], chosen),
        chosen=chosen,
        cheapest=cheapest_of(distinct),
        n_rows=read.rows.n,
        n_folds=read.rows.n_folds,
        form=read.form,
        decided_by=short_list_head().name if short_list_head is not None and is_checked else "ridge",
        peak_bytes=read.peak_bytes,
        notes=read.notes,
        seconds=time.perf_counter() - start,
        task=options.task,
    )


def _penalty(read: ReadLayers, subset: Subset, at: int) -> float:
    """Return a penalty of the grid for a subset.

    The grid is relative to the total variance of the columns, so that subsets of few and of many columns are
    compared over equally strong penalties. Columns that are all constant have variance 0; any scale will do.
    """
    return RELATIVE_PENALTIES[at] * (sum(read.grams.scales[layer] for layer in subset) or 1.0)


def _scored(
    read: ReadLayers, arrays: Sequence[ArraySpec], paths: PenaltyPaths, subsets: Sequence[Subset]
) -> dict[Subset, LayerChoice]:
    """Predict the left-out rows by each subset, at its best penalty, and score the predictions."""
    rows = read.rows
    fits = [(subset, _penalty(read, subset, paths.best(subset))) for subset in subsets]
    choices = {}
    for subset, found in zip(subsets, read.grams.left_out(fits), strict=True):
        specs = [arrays[layer] for layer in subset]
        choices[subset] = LayerChoice(
            path="",
            arrays=tuple(spec.name for spec in specs),
            n_columns=sum(spec.dim for spec in specs),
            bytes_per_picture=sum(spec.dim * np.dtype(spec.dtype).itemsize for spec in specs),
            relative_penalty=RELATIVE_PENALTIES[paths.best(subset)],
            squared_error=paths.least(subset),
            fit_seconds=paths.seconds[subset],
            **_figures(rows, found),
        )
    return choices


def _figures(rows: TrainingRows, found: OutOfFold) -> dict[str, Any]:
    """Return the figures of left-out predictions: accuracy and log-loss, or R2; and the standard error."""
    kept = rows.calibration_rows()
    calibrated = rows.calibration(found.scores, kept)
    if calibrated is not None:
        accuracy = found.correct / float(rows.validated_weights.sum())
        error = standard_error(accuracy, rows.n_validated)
        return {"accuracy": accuracy, "standard_error": error, "log_loss": calibrated.log_loss}
    assert rows.targets is not None, "numbers are targets"
    # R2 of each target is 1 - error / variance; the errors of an image are averaged over targets.
    variances = np.maximum(rows.targets.values.var(axis=0), np.finfo(np.float64).tiny)
    errors = ((rows.targets.values[kept] - found.scores) ** 2 / variances).mean(axis=1)
    return {
        "accuracy": None,
        "log_loss": None,
        "r2": 1.0 - float(errors.mean()),
        "standard_error": float(errors.std() / np.sqrt(len(errors))),
    }


def _last_of_each(paths: PenaltyPaths, taps: Sequence[str]) -> Subset:
    """Find the array of the last layer of each backbone; of several poolings, the one of least error."""
    of_member: dict[str, list[int]] = {}
    for layer, tap in enumerate(taps):
        of_member.setdefault(split_name(tap)[0], []).append(layer)
    lasts = []
    for member, layers in of_member.items():
        own = [taps[layer] for layer in layers]
        last = joined_name(member, LAST)
        tap = last if last in own else own[-1]
        lasts.append(
            min((layer for layer in layers if taps[layer] == tap), key=lambda layer: paths.least((layer,)))
        )
    return tuple(sorted(lasts))


def _checked(
    choice: LayerChoice,
    head: Head,
    cache: StoredFeatures,
    options: SearchOptions,
    split: Split,
    groups: Sequence[str],
) -> LayerChoice:
    """Add the left-out figures of a head fitted to all training rows."""
    blocks = cache.blocks(choice.arrays, split.train)
    dims = tuple(cache.array(name).dim for name in choice.arrays)
    members = [split_name(name)[0] for name in choice.arrays]
    preprocessing, _ = fit_preprocessing(options.preprocess, blocks, dims, members=members)
    texts, task = [str(cache.manifest.labels[row]) for row in split.train], task_of(options.task)
    targets = None if task.name == CLASSIFICATION else task.targets(texts, task.names(texts))
    head.fit(
        PreprocessedBlocks(blocks, preprocessing),
        texts if targets is None else targets,
        groups=[groups[row] for row in split.train],
    )
    report = head.report
    if report["accuracy"] is None:
        # The squared error of standardized targets, summed over them.
        assert targets is not None
        return replace(choice, head_r2=1.0 - report["squared_error"] / len(targets.names))
    return replace(choice, head_accuracy=report["accuracy"], head_log_loss=report["log_loss"])
