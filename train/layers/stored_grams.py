"""From stored layers to their Gram matrices: preprocessed, in the primal or the dual, within a limit."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.machine.devices import device_of
from toptune.machine.memory import MemoryLimits, left_bytes, left_for_head
from toptune.store.arrays.spec import ArraySpec
from toptune.store.features.feature_view import StoredFeatures
from toptune.train.layers.grams import (
    DualGrams,
    LayerGrams,
    PrimalGrams,
    dual_bytes,
    layer_bytes,
    primal_bytes,
)
from toptune.train.layers.options import SearchOptions
from toptune.train.passes.targets import Scaling, Targets
from toptune.train.passes.training_rows import TrainingRows
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks, Preprocessing
from toptune.train.rows.block_reading import block_rows_for
from toptune.train.rows.few_shot import draw_training_rows
from toptune.train.rows.folds import Folds, draw_folds, draw_strata_folds, validated
from toptune.train.rows.inputs import row_weights
from toptune.train.rows.splits import Split
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import CLASSIFICATION, REGRESSION

# Up to this many columns of all layers together, the Gram matrix is that of the columns, over all rows. With
# more columns, or fewer rows than columns, kernel matrices of the rows are smaller.
PRIMAL_COLUMNS = 4000


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadLayers:
    """The candidates of a layer search, read and summed.

    Attributes
    ----------
    grams : LayerGrams
        Gram matrices of which every subset of layers is a part.
    rows : TrainingRows
        Rows that layers are compared on.
    n_validated : int
        Training rows, in the sample or not, that take part in cross-validation.
    form : {"primal", "dual"}
        Whether `grams` are matrices of columns or of rows.
    peak_bytes : int
        Projected peak memory.
    notes : tuple of str
        What a user should know.
    """

    grams: LayerGrams
    rows: TrainingRows
    n_validated: int
    form: str
    peak_bytes: int
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Labels:
    """Classes and folds of all training rows; of other tasks their targets, and codes of 0."""

    classes: npt.NDArray[np.str_]
    codes: npt.NDArray[np.int64]
    folds: Folds
    targets: Targets | None = None


def read_layers(
    cache: StoredFeatures,
    arrays: Sequence[ArraySpec],
    split: Split,
    *,
    groups: Sequence[str],
    options: SearchOptions,
    notify: Callable[[str], None],
) -> ReadLayers:
    """Read the candidates of a layer search; parameters as in `toptune.train.search_layers`.

    Raises
    ------
    InputError
        If the projected memory is above the limit, or a training row is not finite.
    """
    device = device_of(options.device)
    limits = MemoryLimits.on(device, left_for_head(options.memory_limit_bytes, str(device)))
    labels = _labels(cache, split, groups, options)
    is_primal, peak_bytes = _form(arrays, labels, options, limits)
    d = _n_columns(arrays)
    block_rows = block_rows_for(d=d, rank=d, limit_bytes=limits.bytes, on_cuda=bool(limits.device))
    n_whole = 0 if is_primal else min(len(labels.codes), options.search_rows)
    read_bytes = 3 * 8 * min(block_rows, len(labels.codes)) * d if is_primal else 0
    limits.check(
        peak_bytes,
        host_bytes=layer_bytes(n_rows=n_whole, largest_layer=max(array.dim for array in arrays)) + read_bytes,
        what=f"layer search over {len(arrays)} arrays of together {d} columns",
        instead="search fewer arrays (--layers, --pooling), fewer --search-rows, or raise --memory-limit",
    )
    n, searched = len(split.train), split
    notes: tuple[str, ...] = ()
    if not is_primal and n > options.search_rows:
        searched = draw_training_rows(
            split, cache.manifest, train_size=options.search_rows, seed=options.seed, task=options.task
        )
        notes = (
            f"layers were compared on {options.search_rows} of the {n} training rows (--search-rows) [TT314]",
        )
    notify("read layers")
    preprocessing = _fitted(cache, arrays, searched, options, left_bytes(options.memory_limit_bytes))
    blocks = cache.blocks([array.name for array in arrays], searched.train)
    at = np.searchsorted(split.train, searched.train)
    # A sample may have all rows of a class in one fold where the training rows have not.
    codes, numbers = labels.codes[at], labels.folds.numbers[at]
    if labels.targets is None:
        folds = validated(numbers, labels.folds.count, codes, labels.classes)
    else:
        everything = np.ones(len(at), dtype=np.bool_)
        folds = Folds(numbers=numbers, count=labels.folds.count, is_validated=everything)
    n_aside = int((~folds.is_validated).sum())
    # The training rows have a note of their own; this one is of what the draw alone does.
    if searched is not split and n_aside:
        n_classes = len(np.unique(codes[~folds.is_validated]))
        notes += (
            f"{n_aside} rows of {n_classes} classes of this sample took no part in the comparison of layers, "
            "because all rows of such a class in the sample lie in one fold; raise --search-rows [TT312]",
        )
    rows = TrainingRows(
        blocks=PreprocessedBlocks(blocks, preprocessing),
        codes=codes,
        weights=row_weights(codes, labels.classes, options.class_weight),
        folds=folds.places,
        n_classes=len(labels.classes),
        n_folds=folds.count,
        has_aside=not folds.is_validated.all(),
        targets=None if labels.targets is None else labels.targets.take(at),
    )
    grams: LayerGrams
    if is_primal:
        dims = [array.dim for array in arrays]
        grams = PrimalGrams(rows, dims, block_rows=block_rows, device=device)
    else:
        grams = DualGrams(rows, _one_by_one(cache, arrays, searched, preprocessing), device=device)
    return ReadLayers(
        grams=grams,
        rows=rows,
        n_validated=int(labels.folds.is_validated.sum()),
        form="primal" if is_primal else "dual",
        peak_bytes=peak_bytes,
        notes=(*notes, *labels.folds.notes),
    )


def _n_columns(arrays: Sequence[ArraySpec]) -> int:
    return sum(array.dim for array in arrays)


def _labels(cache: StoredFeatures, split: Split, groups: Sequence[str], options: SearchOptions) -> _Labels:
    """Give all training rows the numbers of their classes and folds.

    The folds are those of all training rows even where a sample of them is searched, so that a row has the
    same fold in the search and in the head that is trained afterwards.
    """
    names = [str(cache.manifest.labels[row]) for row in split.train]
    keys = [groups[row] for row in split.train]
    if options.task != CLASSIFICATION:
        return _targets(names, keys, options)
    classes, codes = np.unique(names, return_inverse=True)
    codes = codes.astype(np.int64)
    folds = draw_folds(codes, classes, cv=options.cv, seed=options.seed, groups=keys)
    return _Labels(classes=classes, codes=codes, folds=folds)


def _targets(texts: Sequence[str], groups: Sequence[str], options: SearchOptions) -> _Labels:
    """Read what rows of another task than classification teach, and give the rows numbers of folds."""
    task = task_of(options.task)
    names = task.names(texts)
    values = task.targets(texts, names).values
    is_numbers = options.task == REGRESSION
    members, strata = task.strata(values)
    return _Labels(
        classes=np.array(names),
        codes=np.zeros(len(texts), dtype=np.int64),
        folds=draw_strata_folds(
            members, strata, n=len(texts), cv=options.cv, seed=options.seed, groups=groups
        ),
        targets=Targets(
            values=Scaling.of(values).standardized(values) if is_numbers else values,
            are_labels=not is_numbers,
        ),
    )


def _form(
    arrays: Sequence[ArraySpec], labels: _Labels, options: SearchOptions, limits: MemoryLimits
) -> tuple[bool, int]:
    """Choose the form of the Gram matrices: whether it is the primal one, and the projected peak in bytes."""
    n, d, n_classes = len(labels.codes), _n_columns(arrays), len(labels.classes)
    n_folds = labels.folds.count + 1  # one place is for rows that take no part in cross-validation
    primal = primal_bytes(
        n_rows=n, n_columns=d, n_layers=len(arrays), n_folds=n_folds, n_classes=n_classes,
        cuda_bytes=limits.cuda_bytes,
    )  # fmt: skip
    if d <= min(n, PRIMAL_COLUMNS) and primal <= limits.bytes:
        return True, primal
    dual = dual_bytes(
        n_rows=min(n, options.search_rows),
        n_layers=len(arrays),
        largest_layer=max(array.dim for array in arrays),
        n_folds=n_folds,
        n_classes=n_classes,
    )
    return False, dual


def _fitted(
    cache: StoredFeatures,
    arrays: Sequence[ArraySpec],
    searched: Split,
    options: SearchOptions,
    limit_bytes: int,
) -> Preprocessing:
    """Fit the preprocessing of all layers side by side; refuse rows that are not finite."""
    names = [array.name for array in arrays]
    preprocessing, bad = fit_preprocessing(
        options.preprocess,
        cache.blocks(names, searched.train),
        tuple(array.dim for array in arrays),
        memory_limit_bytes=limit_bytes,
    )
    if len(bad):
        raise InputError(
            f"{len(bad)} training rows have features that are not finite in one of {', '.join(names)}, the "
            f"first is {cache.manifest.ids[searched.train[bad[0]]]!r}; name the --layers to use, or repair "
            "these images and extract again"
        )
    return preprocessing


def _one_by_one(
    cache: StoredFeatures, arrays: Sequence[ArraySpec], searched: Split, preprocessing: Preprocessing
) -> Iterator[PreprocessedBlocks]:
    """Yield each layer's preprocessed columns by themselves."""
    end = 0
    for array in arrays:
        start, end = end, end + array.dim
        yield PreprocessedBlocks(
            cache.blocks([array.name], searched.train), preprocessing.restricted(np.arange(start, end))
        )
