"""Late fusion: one head a backbone on the same rows, split and folds."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from toptune.costs.phases import Phases
from toptune.errors import InputError
from toptune.store.features.feature_store import FeatureStore
from toptune.store.joined.joined_features import JoinedFeatures
from toptune.train.fusion.members import (
    check_complete,
    check_together,
    failed_in_any,
    open_members,
    told_of,
)
from toptune.train.rows.chosen_rows import ChosenRows, choose_rows
from toptune.train.rows.copies import digests_of
from toptune.train.runs.best_record import BestRecord
from toptune.train.runs.options import JOIN, LATE, TrainOptions
from toptune.train.runs.record import seal_run
from toptune.train.runs.training import (
    Fitted,
    Prepared,
    check_head_options,
    fit_prepared,
    fit_to_rows,
    prepare,
    read_for_task,
    scoring_room,
    settled,
    stored_arrays,
    with_new_head,
)
from toptune.train.runs.writing import check_out
from toptune.train.tasks.names import CLASSIFICATION, MULTILABEL

if TYPE_CHECKING:  # these import torch and scikit-learn, which a training that is refused does not need
    from toptune.train.fusion.fused_run import FusedRun
    from toptune.train.fusion.fusing import Member
    from toptune.train.runs.scoring import Scored


def train_late(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str,
    models: Sequence[str],
    out: str | os.PathLike[str],
    options: TrainOptions,
    progress: Callable[[str], None] | None = None,
    best: BestRecord | None = None,
) -> "FusedRun":
    """Train a head on the features of each model and weigh them; see `toptune.train.train`."""
    phases = Phases(progress)
    path = check_out(out)
    options = _checked(options, len(models))
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    features, options = read_for_task(
        lambda asked: open_members(opened, dataset, {model: asked.for_model(model) for model in models}),
        options,
        lambda found: found[models[0]].manifest,
    )
    _refuse_task(options.rows.task)
    of_models = {model: options.for_model(model) for model in models}
    arrays = {}
    for model in models:
        with told_of(model):
            arrays[model] = stored_arrays(features[model], of_models[model])
    names = {model: [each.name for each in arrays[model]] for model in models}
    check_complete(opened, features, names)
    rows = choose_rows(
        features[models[0]].manifest, options.rows, cv=options.head.cv,
        failed=failed_in_any(features, names), digests=digests_of(JoinedFeatures.of([*features.values()])),
    )  # fmt: skip
    rows.check_tested()
    check_together(
        options,
        [sum(array.dim for array in arrays[model]) for model in models],
        n=len(rows.split.train),
        n_classes=len(rows.classes),
    )
    # One device fits all heads, so that the widest features say whether it is worth a GPU.
    n_columns = max(sum(array.dim for array in arrays[model]) for model in models)
    limits = settled(options, shape=(len(rows.split.train), n_columns))
    prepared = []
    for model in models:
        features[model].mark_used()
        of_model = replace(of_models[model], limits=limits)
        with told_of(model):
            ready = prepare(
                features[model],
                arrays[model],
                rows,
                of_model,
                models=[model],
                phases=phases,
                is_compared=True,
            )
        prepared.append(ready)
    from toptune.train.fusion.fusing import Training, fused_run, score_together_with, write_fused

    fitted, rows = _fit_all(prepared, rows, phases, path=path, store=opened.root)
    training = Training.of(rows, class_weight=options.head.class_weight)
    members = [_member(each, rows) for each in fitted]
    with phases("weigh"):
        run, kept, said = fused_run(path, members, training)
        run = replace(run, record=replace(run.record, best=best))
    with phases("test"), scoring_room(options):
        scored = score_together_with(run, kept, rows.manifest, rows.split.test, tree=fitted[0].kept.tree)
    return write_fused(
        run, kept, scored, rows.manifest, phases, folds=rows.folds, all_members=members, said=said
    )


def _refuse_task(task: str) -> None:
    """Refuse a task whose answers no weights of probabilities combine."""
    if task not in (CLASSIFICATION, MULTILABEL):
        raise InputError(
            f"fusion {LATE!r} does not know --task {task}; give --fusion {JOIN}, or one model",
            option="fusion",
        )


def _checked(options: TrainOptions, n_models: int) -> TrainOptions:
    """Refuse options that no late fusion can follow; share the time of head ``auto`` among the models."""
    check_head_options(options)
    head = options.head
    if head.is_auto:
        options = replace(options, head=replace(head, budget=share_of_budget(head.budget, n_models)))
    return options


def share_of_budget(budget: float | None, n_models: int) -> float:
    """Return the seconds that head ``auto`` has for each of several models; None is the default for all."""
    from toptune.train.heads.trials import DEFAULT_BUDGET_SECONDS

    return (DEFAULT_BUDGET_SECONDS if budget is None else budget) / n_models


def _fit_all(
    prepared: Sequence[Prepared], rows: ChosenRows, phases: Phases, *, path: Path, store: Path | str
) -> tuple[list[Fitted], ChosenRows]:
    """Fit the preprocessing and the head of each model to rows that are finite for all models."""
    with phases("preprocess"):
        found = [fit_to_rows(each, rows) for each in prepared]
        bad_rows = np.unique(np.concatenate([bad for _, bad in found]))
        if len(bad_rows):
            # A row that is bad for one model leaves all, and the means of the others were taken with it.
            rows = rows.without(bad_rows)
            found = [fit_to_rows(each, rows) for each in prepared]
    fitted = []
    for each, (preprocessing, _) in zip(prepared, found, strict=True):
        (model,) = each.models
        phases.notify(model)
        with phases("fit"), told_of(model):
            # What the memory limit leaves is less by the heads that are fitted already.
            ready = with_new_head(each, is_compared=True)
            fitted.append(fit_prepared(ready, preprocessing, rows, path=path, store=store))
    return fitted, rows


def _member(fitted: Fitted, rows: ChosenRows) -> "Member":
    from toptune.train.fusion.fusing import Member

    if fitted.left_out is None:
        raise InputError(
            f"head {fitted.run.head.name!r} left out no rows, by which late fusion weighs heads; take "
            "another head, or one model",
            option="head",
        )

    def write(folder: Path, scored: "Scored", metrics: dict[str, object]) -> None:
        whole = replace(fitted, run=replace(fitted.run, metrics=metrics))
        whole.write(folder, rows, scored)
        seal_run(folder)

    return Member(
        name=fitted.prepared.models[0],
        run=fitted.run,
        features=fitted.prepared.features,
        left_out=fitted.left_out,
        seconds=fitted.seconds,
        costs=fitted.costs,
        feature_bytes=fitted.feature_bytes,
        write=write,
    )
