"""`train_join`: one head on the features of several backbones side by side."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from toptune.costs.phases import Phases
from toptune.errors import InputError
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.stored_layers import AUTO
from toptune.store.features.feature_store import FeatureStore
from toptune.store.joined.joined_features import JoinedFeatures, joined_name
from toptune.text import named
from toptune.train.fusion.members import check_complete, open_members, told_of
from toptune.train.runs.best_record import BestRecord
from toptune.train.runs.options import TrainOptions
from toptune.train.runs.run import Run
from toptune.train.runs.training import check_head_options, read_for_task, stored_arrays, train_on
from toptune.train.runs.writing import check_out


def train_join(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str,
    models: Sequence[str],
    out: str | os.PathLike[str],
    options: TrainOptions,
    progress: Callable[[str], None] | None = None,
    best: BestRecord | None = None,
) -> Run:
    """Train one head on the stored features of several models; see `toptune.train.train`.

    The columns of all models stand side by side, each model scaled to the same total variance. A search for
    layers, and a head that selects columns, see the layers of all models.
    """
    phases = Phases(progress)
    path = check_out(out)
    check_head_options(options)
    options = _with_one_search(options, models)
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    (features, arrays), options = read_for_task(
        lambda asked: open_joined(opened, models, dataset, asked), options, lambda found: found[0].manifest
    )
    return train_on(
        features,
        arrays,
        models=models,
        store=opened.root,
        path=path,
        options=options,
        phases=phases,
        best=best,
    )


def open_joined(
    store: FeatureStore, models: Sequence[str], dataset: str, options: TrainOptions
) -> tuple[JoinedFeatures, list[ArraySpec]]:
    """Open the features of several models as one table, and choose the arrays of each by its layers.

    Raises
    ------
    InputError
        As `toptune.train.choose_arrays`; the message begins with the model.
    StoreError
        As `open_members` and `check_complete`.
    """
    of_models = {model: options.for_model(model) for model in models}
    opened = open_members(store, dataset, of_models)
    features = JoinedFeatures.of(list(opened.values()))
    arrays: list[ArraySpec] = []
    names: dict[str, list[str]] = {}
    for model, member in zip(models, features.members, strict=True):
        with told_of(model):
            chosen = stored_arrays(opened[model], of_models[model])
        names[model] = [spec.name for spec in chosen]
        arrays += [replace(spec, name=joined_name(member, spec.name)) for spec in chosen]
    check_complete(store, opened, names)
    return features, arrays


def _with_one_search(options: TrainOptions, models: Sequence[str]) -> TrainOptions:
    """Let one search have the layers of all models; refuse a search of some alone."""
    searched = [model for model in models if options.for_model(model).layers == AUTO]
    if not searched:
        return options
    if len(searched) < len(models):
        raise InputError(
            f"layers auto is given for {named(searched)} alone, and one search compares the layers of all "
            "models; give auto for all of them, or name the layers of each",
            option="layers",
        )
    return replace(options, layers=AUTO)
