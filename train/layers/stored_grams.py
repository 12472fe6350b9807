"""From stored layers to their Gram matrices: preprocessed, in the primal or the dual, within a limit."""

from collections.abc import Callable, Sequence

import numpy as np

from toptune.errors import InputError
from toptune.machine.devices import device_of
from toptune.machine.memory import check_memory, memory_limit_bytes
from toptune.store.arrays.spec import ArraySpec
from toptune.store.features.feature_view import StoredFeatures
from toptune.train.layers.grams import DualGrams, LayerGrams, PrimalGrams, dual_bytes, primal_bytes
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.preprocessing.spec import parse_preprocessing
from toptune.train.rows.block_reading import block_rows_for
from toptune.train.rows.few_shot import draw_training_rows
from toptune.train.rows.inputs import fold_numbers, row_weights
from toptune.train.rows.splits import Split

# Up to this many columns of all layers together the sums are of columns, over all rows; beyond, of rows.
PRIMAL_COLUMNS = 4000
# Steps of a preprocessing that do not keep layers apart.
_MIXING = ("pca", "whiten")


def read_grams(
    cache: StoredFeatures,
    arrays: Sequence[ArraySpec],
    split: Split,
    *,
    groups: Sequence[str],
    seed: int,
    cv: int | str | None,
    class_weight: str | None,
    preprocess: str,
    search_rows: int,
    memory_limit: int | None,
    device: str | None,
    notify: Callable[[str], None],
) -> tuple[LayerGrams, TrainingRows, str, int, list[str]]:
    """Read the candidates of a layer search; parameters as in `toptune.train.search_layers`.

    Returns
    -------
    LayerGrams
    TrainingRows
        That were compared on.
    str
        ``primal`` or ``dual``.
    int
        Projected peak in bytes.
    list of str
        What a user should know.
    """
    if cv is None:
        raise InputError(
            "layers are chosen by cross-validation, but cv is None; give a number of folds (--cv)"
        )
    mixing = [step.name for step in parse_preprocessing(preprocess) if step.name in _MIXING]
    if mixing:
        raise InputError(
            f"preprocessing {preprocess!r}: {mixing[0]} mixes the layers that a search is to tell apart; "
            "choose --layers by another preprocessing first"
        )
    limit_bytes = memory_limit or memory_limit_bytes()
    names, dims = [array.name for array in arrays], [array.dim for array in arrays]
    n, d = len(split.train), sum(dims)
    classes, codes = np.unique([str(cache.manifest.labels[row]) for row in split.train], return_inverse=True)
    folds, n_folds = fold_numbers(
        codes, classes, cv=cv, seed=seed, groups=[groups[row] for row in split.train], may_reduce=False
    )
    peak_bytes = primal_bytes(n_columns=d, n_folds=n_folds, n_classes=len(classes))
    is_primal = d <= min(n, PRIMAL_COLUMNS) and peak_bytes <= limit_bytes
    if not is_primal:
        peak_bytes = dual_bytes(
            n_rows=min(n, search_rows), n_layers=len(arrays), largest_layer=max(dims), n_classes=len(classes)
        )
    check_memory(
        peak_bytes,
        limit_bytes=limit_bytes,
        what=f"layer search over {len(arrays)} arrays of together {d} columns",
        instead="search fewer arrays (--layers, --pooling), fewer --search-rows, or raise --memory-limit",
    )
    searched, notes = split, []
    if not is_primal and n > search_rows:
        searched = draw_training_rows(split, cache.manifest, train_size=search_rows, seed=seed)
        notes.append(f"layers were compared on {search_rows} of the {n} training rows (--search-rows)")
    notify("read layers")

    blocks = cache.blocks(names, searched.train)
    preprocessing, bad = fit_preprocessing(preprocess, blocks, tuple(dims), memory_limit_bytes=limit_bytes)
    if len(bad):
        raise InputError(
            f"{len(bad)} training rows have features that are not finite in one of {', '.join(names)}, the "
            f"first is {cache.manifest.ids[searched.train[bad[0]]]!r}; name the --layers to use, or repair "
            "these images and extract again"
        )
    at = np.searchsorted(split.train, searched.train)
    rows = TrainingRows(
        blocks=PreprocessedBlocks(blocks, preprocessing),
        codes=codes[at].astype(np.int64),
        weights=row_weights(codes[at], classes, class_weight),
        folds=folds[at],
        n_classes=len(classes),
        n_folds=n_folds,
    )
    torch_device = device_of(device)
    if is_primal:
        block_rows = block_rows_for(d=d, rank=d, limit_bytes=limit_bytes)
        return (
            PrimalGrams(rows, dims, block_rows=block_rows, device=torch_device),
            rows,
            "primal",
            peak_bytes,
            notes,
        )
    ends = np.cumsum(dims).tolist()
    layers = (
        PreprocessedBlocks(
            cache.blocks([name], searched.train), preprocessing.restricted(np.arange(end - dim, end))
        )
        for name, dim, end in zip(names, dims, ends, strict=True)
    )
    return DualGrams(rows, layers, device=torch_device), rows, "dual", peak_bytes, notes
