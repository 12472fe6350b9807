"""Layer search: how well ridge regression does on each layer, and which subset of layers to train on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from toptune.store.arrays.spec import ArraySpec
from toptune.store.features.feature_view import StoredFeatures
from toptune.train.heads.heads import Head
from toptune.train.layers.choices import (
    LayerChoice,
    LayerSearch,
    cheapest_of,
    choose_best,
    mark_chosen,
    standard_error,
)
from toptune.train.layers.paths import PenaltyPaths, Subset, all_paths
from toptune.train.layers.stored_grams import read_grams
from toptune.train.layers.stored_layers import LAST, tap_of
from toptune.train.numerics.calibration import fit_temperature
from toptune.train.passes.training_rows import calibration_rows
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.rows.splits import Split
from toptune.train.solvers.one_pass import RELATIVE_PENALTIES

# Of the dual: factorizations cost their cube.
SEARCH_ROWS = 2000
MAX_LAYERS = 8
N_SHORT_LIST = 3
# Heads that are better at telling subsets apart for themselves than ridge regression is for them.
SHORT_LIST_HEADS = ("falkon", "falkon-logistic")


def search_layers(
    cache: StoredFeatures,
    arrays: Sequence[ArraySpec],
    split: Split,
    *,
    groups: Sequence[str],
    seed: int = 0,
    cv: int | str | None = 5,
    class_weight: str | None = None,
    preprocess: str = "standardise",
    short_list_head: Callable[[], Head] | None = None,
    n_short_list: int = N_SHORT_LIST,
    max_layers: int = MAX_LAYERS,
    search_rows: int = SEARCH_ROWS,
    memory_limit: int | None = None,
    device: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> LayerSearch:
    """Cross-validate ridge regression on subsets of layers, from sums of one pass over all of them.

    Columns are preprocessed as `train` does: standardized, all layers weigh alike. With up to 4000 columns,
    and no more than rows, the sums are the Gram matrix of all columns over all rows; subsets are its blocks.
    Otherwise they are a linear kernel matrix for each layer over at most `search_rows` training rows (a
    stratified sample); subsets are their sums. Greedy steps and penalties go by left-out squared error;
    accuracy and log-loss of left-out rows decide. Nothing sees a test row.

    Parameters
    ----------
    cache : StoredFeatures
    arrays : sequence of ArraySpec
        Candidates, by depth; see `toptune.train.layers.stored_layers.by_depth`.
    split : Split
        Only its training rows are read.
    groups : sequence of str
        Group, or id, of every row of the manifest: equal ones share a fold.
    seed, cv, class_weight, preprocess, device
        As in `toptune.train.train`; steps that mix layers are refused.
    short_list_head : callable, optional
        Makes an unfitted head whose report has left-out ``accuracy`` and ``log_loss``. It is fitted to the
        `n_short_list` best subsets and to the last layer alone, on all training rows, and decides among them.
    n_short_list : int
    max_layers : int
        Layers of the forward path, at most.
    search_rows : int
        Rows of the sample, at most.
    memory_limit : int, optional
        Bytes; a projected peak above is refused. Half of the machine's memory by default.
    progress : callable, optional
        Called with the name of each phase as it begins.

    Raises
    ------
    InputError
        Without folds, for a class with fewer rows than folds, rows that are not finite, or a projected peak
        above the memory limit.
    """
    start = time.perf_counter()
    notify = progress or (lambda _phase: None)
    grams, rows, form, peak_bytes, notes = read_grams(
        cache, arrays, split, groups=groups, seed=seed, cv=cv, class_weight=class_weight,
        preprocess=preprocess, search_rows=search_rows, memory_limit=memory_limit, device=device,
        notify=notify,
    )  # fmt: skip

    def penalty(subset: Subset, at: int) -> float:
        return RELATIVE_PENALTIES[at] * (sum(grams.scales[layer] for layer in subset) or 1.0)

    paths = PenaltyPaths(
        lambda subset, at: grams.squared_error(subset, penalty(subset, at)), len(RELATIVE_PENALTIES)
    )
    taps = [tap_of(array) for array in arrays]
    listed = [
        (path, tuple(sorted(subset)))
        for path, subset in all_paths(paths, taps, max_layers=max_layers, notify=notify)
    ]
    notify("left-out predictions")
    subsets = list(dict.fromkeys(subset for _, subset in listed))
    scored = grams.left_out([(subset, penalty(subset, paths.best(subset))) for subset in subsets])
    kept = calibration_rows(rows.n)
    of_subset = {}
    for subset, found in zip(subsets, scored, strict=True):
        accuracy = found.correct / float(rows.weights.sum())
        specs = [arrays[layer] for layer in subset]
        of_subset[subset] = LayerChoice(
            path="",
            arrays=tuple(spec.name for spec in specs),
            n_columns=sum(spec.dim for spec in specs),
            bytes_per_picture=sum(spec.dim * np.dtype(spec.dtype).itemsize for spec in specs),
            relative_penalty=RELATIVE_PENALTIES[paths.best(subset)],
            squared_error=paths.least(subset),
            accuracy=accuracy,
            standard_error=standard_error(accuracy, rows.n),
            log_loss=fit_temperature(found.scores, rows.codes[kept], rows.weights[kept]).log_loss,
            fit_seconds=paths.seconds[subset],
        )
    if short_list_head is not None and n_short_list > 0:
        by_figures = sorted(of_subset, key=lambda key: (-of_subset[key].accuracy, of_subset[key].log_loss))
        last = (_last_alone(paths, taps),)
        for subset in dict.fromkeys([*by_figures[:n_short_list], last]):
            notify(f"short list: {of_subset[subset].layers}")
            of_subset[subset] = _checked(
                of_subset[subset], short_list_head(), cache, preprocess, split, groups
            )
    distinct = list(of_subset.values())
    is_checked = any(choice.head_accuracy is not None for choice in distinct)
    n_deciding = len(split.train) if is_checked else rows.n
    chosen = replace(choose_best(distinct, n=n_deciding, by_head=is_checked), is_chosen=True)
    choices = mark_chosen([replace(of_subset[subset], path=path) for path, subset in listed], chosen)
    return LayerSearch(
        choices=choices,
        chosen=chosen,
        cheapest=cheapest_of(distinct),
        n_rows=rows.n,
        n_folds=rows.n_folds,
        form=form,
        decided_by=short_list_head().name if short_list_head is not None and is_checked else "ridge",
        peak_bytes=peak_bytes,
        notes=tuple(notes),
        seconds=time.perf_counter() - start,
    )


def _last_alone(paths: PenaltyPaths, taps: Sequence[str]) -> int:
    """Find the array of the last layer; where it has several poolings, the best one."""
    last = LAST if LAST in taps else taps[-1]
    return min(
        (layer for layer, tap in enumerate(taps) if tap == last), key=lambda layer: paths.least((layer,))
    )


def _checked(
    choice: LayerChoice,
    head: Head,
    cache: StoredFeatures,
    preprocess: str,
    split: Split,
    groups: Sequence[str],
) -> LayerChoice:
    """Add the left-out figures of a head fitted to all training rows."""
    blocks = cache.blocks(choice.arrays, split.train)
    dims = tuple(cache.array(name).dim for name in choice.arrays)
    preprocessing, _ = fit_preprocessing(preprocess, blocks, dims)
    head.fit(
        PreprocessedBlocks(blocks, preprocessing),
        [str(cache.manifest.labels[row]) for row in split.train],
        groups=[groups[row] for row in split.train],
    )
    return replace(choice, head_accuracy=head.report["accuracy"], head_log_loss=head.report["log_loss"])
