"""`train`: from the stored features of one model, of several, or the best of all, to a RUN folder."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Unpack, overload

from toptune.options import options_of
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.listing import only_dataset, only_features, stored_models
from toptune.train.best.choosing import train_best
from toptune.train.fusion.join import train_join
from toptune.train.fusion.late import train_late
from toptune.train.runs.options import JOIN, TrainArguments, TrainOptions
from toptune.train.runs.run import Run
from toptune.train.runs.training import refuse_other_tasks, train_run

if TYPE_CHECKING:  # it imports torch, which a training that is refused does not need
    from toptune.train.fusion.fused_run import FusedRun


@overload
def train(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str | None = None,
    model: str | None = None,
    out: str | os.PathLike[str],
    progress: Callable[[str], None] | None = None,
    **arguments: Unpack[TrainArguments],
) -> Run: ...
@overload
def train(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str | None = None,
    models: Sequence[str],
    out: str | os.PathLike[str],
    progress: Callable[[str], None] | None = None,
    **arguments: Unpack[TrainArguments],
) -> "Run | FusedRun": ...
def train(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str | None = None,
    model: str | None = None,
    models: Sequence[str] | None = None,
    out: str | os.PathLike[str],
    progress: Callable[[str], None] | None = None,
    **arguments: Unpack[TrainArguments],
) -> "Run | FusedRun":
    """Train a head on stored features and write a RUN folder; nothing is extracted again.

    Parameters
    ----------
    store : path or FeatureStore
        Root folder of the store, or the store.
    dataset : str, optional
        Name of the data set in the store; by default the only one there.
    model : str, optional
        Name of the model whose features are in the store, spelled as for `toptune.extract.extract`; by
        default the only one over the data set, and with ``best`` all that are stored.
    models : sequence of str, optional
        In place of `model`, several models that share the run; ``fusion`` says how.
    out : path
        RUN folder to make; a folder that exists and is not empty is refused.
    progress : callable, optional
        Called with the name of each phase as the phase begins.
    **arguments
        The fields of `TrainOptions`, and of the values in it: `RowOptions` says which rows train and test,
        `HeadOptions` which head is trained, `RunLimits` where and within which memory.

    Returns
    -------
    Run or FusedRun
        The head, its preprocessing, its record and the metrics on the test rows. Of several models with late
        fusion, such a run of each, and their weights.

    Raises
    ------
    InputError
        For options out of range or misspelled, a data set or model that is left out where the store has
        several, an `out` that exists, unlabeled or too few training rows, one class only, fewer than two
        classes with rows in several folds, rows that are not finite, unknown layers.
    StoreError
        If the store lacks what is asked for, or is incomplete or damaged.

    Examples
    --------
    >>> from toptune.extract import extract
    >>> model = "resnet10t.toptune_glyphs"
    >>> _ = extract("digits", model=model, store="store")
    >>> run = train("store", dataset="digits", model=model, out="run", head="ridge", train_size=200)
    >>> run.metrics["n_train"], run.metrics["accuracy"] > 0.8
    (200, True)
    """
    options = options_of(TrainOptions, arguments, call="train")
    store = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    if options.head.best and model is None and models is None:
        dataset = only_dataset(store) if dataset is None else dataset
        models = stored_models(store, dataset)
    elif models is None:
        dataset, model = only_features(store, dataset=dataset, model=model)
    names = options.check_models(model, models)
    if dataset is None:
        dataset, _ = only_features(store, model=names[0])
    if options.head.best:
        refuse_other_tasks(store, dataset, options)
        return train_best(store, dataset=dataset, models=names, out=out, options=options, progress=progress)
    if len(names) == 1:
        options = options.for_model(names[0])
        return train_run(store, dataset=dataset, model=names[0], out=out, options=options, progress=progress)
    if options.fusion == JOIN:
        return train_join(store, dataset=dataset, models=names, out=out, options=options, progress=progress)
    return train_late(store, dataset=dataset, models=names, out=out, options=options, progress=progress)
