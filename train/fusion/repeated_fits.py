"""`blended`: heads of runs that exist are weighed by fits that are repeated on their folds."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toptune.costs.phases import Phases
from toptune.errors import InputError
from toptune.machine.limits import RunLimits
from toptune.store.arrays.stored_layers import AUTO, choose_arrays
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.joined.member_costs import member_costs
from toptune.train.answers.class_tree import ClassTree
from toptune.train.answers.files import ADVICE
from toptune.train.fusion.fused_run import FusedRun
from toptune.train.fusion.fusing import Member, Training, fused_run, score_together_with, write_fused
from toptune.train.heads.kinds import kind_of
from toptune.train.passes.training_rows import LeftOutScores
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.rows.folds import LEAVE_ONE_GROUP_OUT, Folds
from toptune.train.rows.groups import group_keys
from toptune.train.runs.evaluation import stored_rows
from toptune.train.runs.run import Run, read_labels
from toptune.train.runs.run_folds import folds_of, read_folds
from toptune.train.runs.scoring import Scored
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import CLASSIFICATION
from toptune.train.tasks.task import TargetMatrix

# Left-out log-losses of one fit and of its repetition that differ by more than this are told.
_SAME_LOSS = 0.01


def blended(
    folders: Sequence[Path],
    *,
    path: Path,
    store: str | os.PathLike[str] | FeatureStore | None,
    limits: RunLimits,
    phases: Phases,
) -> FusedRun:
    """Make one run of the runs in some folders; see `toptune.train.blend`.

    Parameters
    ----------
    folders : sequence of Path
        Of runs of heads, trained on the same rows with the same folds.
    path : Path
        RUN folder to make.
    store : path or FeatureStore, optional
        Where the features are; by default the store that each run was trained from.
    limits : RunLimits
    phases : Phases
    """
    opened = [Run.load(folder) for folder in folders]
    first = opened[0].record.folds
    assert first is not None, "runs without folds are refused before they are opened"
    folds = read_folds(opened[0])
    limits = limits.settled()
    labels = read_labels(opened[0].folder)
    texts, task = [labels[row] for row in opened[0].train_rows.tolist()], task_of(opened[0].record.task_name)
    known = folds_of(folds, first.count, texts, task=task.name)
    targets = texts if task.name == CLASSIFICATION else task.targets(texts, list(opened[0].classes))
    members, notes = [], []
    for name, run in zip(_names(opened), opened, strict=True):
        features = stored_rows(run, store=store, dataset=None, split="all").cache
        phases.notify(name)
        with phases("leave out"):
            left_out, note = _left_out(run, features, targets, known, limits)
        notes += note
        members.append(_member(name, run, features, left_out))
    # Heads of differently weighted classes are weighed by rows that count the same.
    weightings = {run.record.options.get("class_weight") for run in opened}
    class_weight = "balanced" if weightings == {"balanced"} else None
    with phases("weigh"):
        training = Training.taught(targets, folds, class_weight=class_weight)
        new, kept, said = fused_run(path, members, _with_things(training, members[0]))
    fusion = replace(new.fusion, runs=tuple(str(run.folder) for run in opened))
    new = replace(new, record=replace(new.record, fusion=fusion, warnings=(*new.record.warnings, *notes)))
    manifest = kept[0].features.manifest
    tree = ClassTree.read(kept[0].run.folder, new.classes, advice=ADVICE)
    with phases("test"):
        scored = score_together_with(new, kept, manifest, new.test_rows, labels, tree=tree)
    return write_fused(new, kept, scored, manifest, phases, folds=known, all_members=members, said=said)


def _with_things(training: Training, member: Member) -> Training:
    """Add the thing that each training row shows, as the run of a member tells things."""
    options = member.run.row_options
    if options.answer_by is None:
        return training
    keys = group_keys(member.features.manifest, options.answer_by, option="answer_by")
    things = [keys[row] for row in member.run.train_rows.tolist()]
    return replace(training, things=things, answers_from=options.answers_from)


def _names(runs: Sequence[Run]) -> list[str]:
    """Call each run by its model, by model and head, or by its folder: by the first that tells all apart."""
    ways = (
        [run.record.model for run in runs],
        [f"{run.record.model} {run.head.name}" for run in runs],
        [run.folder.name for run in runs],
    )
    return next((names for names in ways if len(set(names)) == len(names)), [str(run.folder) for run in runs])


def _left_out(
    run: Run,
    features: StoredFeatures,
    targets: list[str] | TargetMatrix,
    folds: Folds,
    limits: RunLimits,
) -> tuple[LeftOutScores, list[str]]:
    """Repeat the fits of a run without each fold, with the parameters that it has chosen.

    A note says so if the repeated fits do not answer as those of the run did.
    """
    from toptune.train.heads.heads import make_head

    kind, class_weight = kind_of(run.head.name), run.record.options.get("class_weight")
    chosen = {
        name: value
        for name, value in run.record.selected.items()
        if name in kind.parameters and value is not None
    }
    head = make_head(
        run.head.name,
        params={**run.head.params, **chosen},
        seed=run.row_options.seed,
        # The stored folds are given as groups, each of which is a fold.
        cv=LEAVE_ONE_GROUP_OUT,
        class_weight=None if class_weight is None else str(class_weight),
        device=limits.device,
        memory_limit_bytes=limits.left_for_head(),
        dask=limits.dask,
        is_compared=True,
        task=run.record.task_name,
    )
    head.fit(_blocks(run, features), targets, groups=[f"{fold:06d}" for fold in folds.numbers.tolist()])
    if head.left_out_scores is None:
        raise InputError(
            f"head {run.head.name!r} of {run.folder} leaves out no rows, by which heads are weighed; blend "
            "runs of other heads",
            option="runs",
        )
    before, now = (None if each.left_out is None else each.left_out.log_loss for each in (run.head, head))
    if before is None or now is None or abs(now - before) <= _SAME_LOSS:
        return head.left_out_scores, []
    return head.left_out_scores, [
        f"{run.folder}: the repeated fits have the left-out log loss {now:.4f}, and those of the run had "
        f"{before:.4f}; it is weighed by the former [TT412]"
    ]


def _blocks(run: Run, features: StoredFeatures) -> PreprocessedBlocks:
    """Return the training rows as the fit of the run saw them."""
    saves = run.saves
    if saves.n_columns == saves.n_columns_trained_on:
        names, preprocessing = [array.name for array in run.arrays], run.preprocessing
    else:
        # A head that keeps some columns has chosen them by all rows; without a fold it must choose anew.
        options = run.record.options
        layers: Any = options.get("layers")
        if layers == AUTO:
            chosen: Any = (run.record.layer_search or {}).get("chosen")
            layers = chosen["arrays"]
        pooling = options.get("pooling")
        arrays = choose_arrays(features.arrays(), layers, None if pooling is None else str(pooling))
        names = [array.name for array in arrays]
        if len(arrays) != saves.n_arrays_trained_on:
            raise InputError(
                f"run {run.folder} chose its columns among {saves.n_arrays_trained_on} arrays, and its "
                f"layers mean {len(arrays)} by now; train again",
                option="runs",
            )
        preprocessing, _ = fit_preprocessing(
            str(options.get("preprocess") or kind_of(run.head.name).preprocessing),
            features.blocks(names, run.train_rows),
            tuple(array.dim for array in arrays),
        )
    return PreprocessedBlocks(features.blocks(names, run.train_rows), preprocessing, names)


def _member(name: str, run: Run, features: StoredFeatures, left_out: LeftOutScores) -> Member:
    def write(folder: Path, _scored: Scored, _metrics: dict[str, Any]) -> None:
        # The folder is copied byte by byte, with its seal.
        shutil.copytree(run.folder, folder, dirs_exist_ok=True)

    return Member(
        name=name,
        run=run,
        features=features,
        left_out=left_out,
        seconds=0.0,
        costs=member_costs(features, [array.name for array in run.arrays]),
        feature_bytes=features.n_rows * sum(array.dim * array.dtype_bytes for array in run.arrays),
        write=write,
    )
