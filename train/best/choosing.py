"""`train_best`: the best of all that is stored of a data set, chosen by left-out rows within a budget."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from toptune.costs.phases import Phases
from toptune.errors import InputError
from toptune.machine.plans import plan_logger
from toptune.store.arrays.stored_layers import AUTO
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import ModelFeatures
from toptune.store.joined.joined_features import JoinedFeatures
from toptune.train.best.candidates import Arrays, Candidate, candidates, tried_together
from toptune.train.fusion.join import train_join
from toptune.train.fusion.late import train_late
from toptune.train.fusion.members import check_complete, failed_in_any, open_members, told_of
from toptune.train.heads.budget import attempt_within
from toptune.train.preprocessing.finite_rows import non_finite_rows
from toptune.train.rows.chosen_rows import ChosenRows, choose_rows
from toptune.train.rows.copies import digests_of
from toptune.train.runs.best_record import BestRecord
from toptune.train.runs.options import LATE, TrainOptions
from toptune.train.runs.run import Run
from toptune.train.runs.training import settled, stored_arrays, train_run
from toptune.train.runs.writing import check_out

if TYPE_CHECKING:  # these import torch and scikit-learn, which a training that is refused does not need
    from toptune.train.best.trials import TrialBench, Tried
    from toptune.train.fusion.fused_run import FusedRun

BEST_BUDGET_SECONDS = 600.0


def train_best(
    store: str | os.PathLike[str] | FeatureStore,
    *,
    dataset: str,
    models: Sequence[str],
    out: str | os.PathLike[str],
    options: TrainOptions,
    progress: Callable[[str], None] | None = None,
) -> "Run | FusedRun":
    """Try what may be trained on the stored features of some models, and train the best of it.

    Each candidate is fitted on the same training rows and folds, and only its answers for left-out rows are
    kept. The chosen one is then trained as if its options had been given: no test row is read before.
    """
    path = check_out(out)
    phases = Phases(progress)
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
    features, arrays = open_stored(opened, dataset, models, options)
    rows = shared_rows(features, arrays, options)
    budget = BEST_BUDGET_SECONDS if options.head.budget is None else options.head.budget
    from toptune.train.best.trials import TrialBench

    # One device fits all candidates, so that the widest features of a model say whether it is worth a GPU.
    widest = max(sum(array.dim for array in own) for own in arrays.values())
    limits = settled(options, shape=(len(rows.split.train), widest))
    bench = TrialBench(features=features, rows=rows, options=replace(options, limits=limits), phases=phases)
    clock = time.perf_counter()
    with phases("try"):
        tried = try_within(budget, list(candidates(arrays, options)), bench)
    record, chosen = choose_among(tried, bench, budget=budget, seconds=time.perf_counter() - clock)
    plan_logger.info("chosen: %s", chosen.record())
    phases.notify(f"train {chosen.record()}")
    final = chosen.options(options)
    if chosen.fusion is None:
        (model,) = chosen.models
        return train_run(opened, dataset=dataset, model=model, out=path, options=final, progress=progress,
                         best=record)  # fmt: skip
    train = train_late if chosen.fusion == LATE else train_join
    return train(opened, dataset=dataset, models=chosen.models, out=path, options=final, progress=progress,
                 best=record)  # fmt: skip


def open_stored(
    store: FeatureStore, dataset: str, models: Sequence[str], options: TrainOptions
) -> tuple[dict[str, ModelFeatures], dict[str, Arrays]]:
    """Open the features of all models, and list the arrays of each that may be used."""
    of_models = {model: options.for_model(model) for model in models}
    if searched := [model for model in models if of_models[model].layers == AUTO]:
        raise InputError(
            f"layers is {AUTO!r} for {searched[0]!r} with best, which compares sets of layers by itself; "
            "leave layers out, or name layers",
            option="layers",
        )
    features = open_members(store, dataset, of_models)
    arrays: dict[str, Arrays] = {}
    for model in models:
        with told_of(model):
            arrays[model] = stored_arrays(features[model], of_models[model])
        features[model].mark_used()
    check_complete(store, features, {model: [each.name for each in arrays[model]] for model in models})
    return features, arrays


def shared_rows(
    features: Mapping[str, ModelFeatures], arrays: Mapping[str, Arrays], options: TrainOptions
) -> ChosenRows:
    """Choose rows that all models have, so that all candidates leave out the same ones."""
    names = {model: [each.name for each in own] for model, own in arrays.items()}
    first = next(iter(features.values()))
    rows = choose_rows(
        first.manifest,
        options.rows,
        cv=options.head.cv,
        failed=failed_in_any(features, names),
        digests=digests_of(JoinedFeatures.of([*features.values()])),
    )
    rows.check_tested()
    used = np.concatenate([rows.split.train, rows.split.test])
    bad = [used[non_finite_rows(features[model].blocks(own, used))] for model, own in names.items()]
    return rows.without(np.unique(np.concatenate(bad)))


def try_within(budget: float, wanted: Sequence[Candidate], bench: "TrialBench") -> "list[Tried]":
    """Fit candidates in turn while the budget lasts; the first is the default, and always fitted."""
    from toptune.train.best.trials import Tried

    expected = [bench.expected_seconds(candidate) for candidate in wanted]
    if expected[0] > budget:
        raise InputError(
            f"budget is {budget:g} seconds, and the default alone, {wanted[0].record()}, is expected to take "
            f"{expected[0]:.2g}; give a longer --budget, or train without --best",
            option="budget",
        )
    jobs = [
        (seconds, partial(bench.attempt, candidate, must_fit=number == 0))
        for number, (candidate, seconds) in enumerate(zip(wanted, expected, strict=True))
    ]
    tried: list[Tried] = []
    for candidate, attempt in zip(wanted, attempt_within(budget, jobs), strict=True):
        if attempt.result is None:
            together = tried_together(candidate, bench.options)
            tried += [Tried(candidate=each, skipped=attempt.skipped) for each in together]
        else:
            tried += attempt.result
    return tried


def choose_among(
    tried: "Sequence[Tried]", bench: "TrialBench", *, budget: float, seconds: float
) -> tuple[BestRecord, Candidate]:
    """Choose among the candidates that were fitted, and make the account of the choice."""
    from toptune.train.best.choice import choose_best

    left_out = bench.left_out
    assert left_out is not None
    fitted = [at for at, each in enumerate(tried) if each.answers is not None]
    answers = [each.answers for each in tried if each.answers is not None]
    choice = choose_best(answers, weights=left_out.weights, folds=left_out.folds)
    place = {at: number for number, at in enumerate(fitted)}
    records = [
        each.record(accuracy=choice.accuracies[place[at]], log_loss=choice.log_losses[place[at]])
        if at in place
        else each.record()
        for at, each in enumerate(tried)
    ]
    record = BestRecord(
        budget_seconds=budget,
        seconds=seconds,
        tried=tuple(records),
        chosen=fitted[choice.chosen],
        next_best=None if choice.next_best is None else fitted[choice.next_best],
        accuracy=choice.accuracy,
        log_loss=choice.log_loss,
        n_rows=len(left_out.codes),
    )
    return record, tried[fitted[choice.chosen]].candidate
