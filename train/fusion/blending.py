"""`blend`: a late fusion of runs that exist, trained on the same rows and folds."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from toptune.costs.phases import Phases
from toptune.errors import InputError
from toptune.machine.limits import LimitArguments, RunLimits
from toptune.machine.plans import plan_logger
from toptune.options import options_of
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.joined.member_costs import member_costs
from toptune.train.fusion.fused_run import FusedRun, load_run
from toptune.train.fusion.fusing import Member, Training, fused_run, score_together_with, write_fused
from toptune.train.heads.kinds import kind_of
from toptune.train.layers.stored_layers import AUTO, choose_arrays
from toptune.train.passes.training_rows import LeftOutScores
from toptune.train.preprocessing.fitting import fit_preprocessing
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.rows.folds import LEAVE_ONE_GROUP_OUT, Folds
from toptune.train.runs.evaluation import stored_rows
from toptune.train.runs.options import LATE
from toptune.train.runs.record import HASHED
from toptune.train.runs.run import Run, read_labels
from toptune.train.runs.run_folds import folds_of, read_folds
from toptune.train.runs.scoring import Scored
from toptune.train.runs.writing import check_out

# Left-out log-losses of one fit and of its repetition that differ by more than this are told.
_SAME_LOSS = 0.01


def blend(
    runs: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str],
    store: str | os.PathLike[str] | FeatureStore | None = None,
    progress: Callable[[str], None] | None = None,
    **arguments: Unpack[LimitArguments],
) -> FusedRun:
    """Make one run of runs that exist: their heads as they are, weighed by their left-out rows.

    A run does not keep its left-out scores. The fits without each fold are done once more for each run, with
    the parameters that the run has chosen and on the folds that it has stored. The heads stay those of the
    runs, whose folders are copied; the runs themselves stay as they are.

    Parameters
    ----------
    runs : sequence of path
        RUN folders of heads, two at least, that were trained on the same rows with the same folds. They may
        be of different models, layers and heads.
    out : path
        RUN folder to make.
    store : path or FeatureStore, optional
        Where the features are; by default the store that each run was trained from.
    progress : callable, optional
        Called with the name of each phase as the phase begins.
    **arguments
        The fields of `toptune.machine.limits.RunLimits`: device, memory limit and dask workers.

    Raises
    ------
    InputError
        For fewer than two runs, a run that is given twice, runs of other rows, splits, classes or folds than
        the first, a run without folds, a run of several models or a fine-tuned network.
    StoreError
        If the store does not hold the features of a run.

    Examples
    --------
    >>> from toptune.extract import extract
    >>> from toptune.train import train
    >>> model = "resnet10t.toptune_glyphs"
    >>> _ = extract("digits", model=model, store="store")
    >>> options = {"dataset": "digits", "model": model, "train_size": 200}
    >>> _ = train("store", out="run-ridge", head="ridge", **options)
    >>> _ = train("store", out="run-lda", head="lda", **options)
    >>> run = blend(["run-ridge", "run-lda"], out="blended")
    >>> sum(member.weight for member in run.fusion.members)
    1.0
    """
    limits = options_of(RunLimits, arguments, call="blend")
    phases = Phases(progress)
    path = check_out(out)
    opened = _open(runs)
    folds = _check_alike(opened)
    limits = limits.settled()
    labels = read_labels(opened[0].folder)
    train_labels = [labels[row] for row in opened[0].train_rows.tolist()]
    known = folds_of(folds, _count(opened[0]), train_labels)
    members = []
    for name, run in zip(_names(opened), opened, strict=True):
        features = stored_rows(run, store=store, dataset=None, split="all").cache
        phases.notify(name)
        with phases("leave out"):
            left_out = _left_out(run, features, train_labels, known, limits)
        members.append(_member(name, run, features, left_out))
    # Heads of differently weighted classes are weighed by rows that count the same.
    weightings = {run.record.options.get("class_weight") for run in opened}
    class_weight = "balanced" if weightings == {"balanced"} else None
    with phases("weigh"):
        training = Training.labeled(train_labels, folds, class_weight=class_weight)
        new, kept = fused_run(path, members, training)
    fusion = replace(new.fusion, runs=tuple(str(run.folder) for run in opened))
    new = replace(new, record=replace(new.record, fusion=fusion))
    manifest = kept[0].features.manifest
    with phases("test"):
        scored = score_together_with(new, kept, manifest, new.test_rows, labels)
    return write_fused(new, kept, scored, manifest, phases, folds=known, all_members=members)


def _open(runs: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Open runs of heads, each of them once."""
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise InputError(f"{len(folders)} runs to blend; give at least 2", option="runs")
    seen: set[Path] = set()
    opened = []
    for folder in folders:
        if folder.resolve() in seen:
            raise InputError(f"run {folder} is given twice; give it once", option="runs")
        seen.add(folder.resolve())
        run = load_run(folder)
        if isinstance(run, FusedRun):
            raise InputError(
                f"{folder} is a run of several models; give its heads, the folders in {folder / 'members'}",
                option="runs",
            )
        opened.append(run)
    return opened


def _check_alike(runs: Sequence[Run]) -> npt.NDArray[np.int64]:
    """Return the fold of each training row, or refuse runs of other rows or folds than the first."""
    first = runs[0]
    for run in runs:
        record = run.record
        if record.folds is None or record.folds.rule == HASHED:
            why = "was fitted without folds" if record.folds is None else "is older than stored folds"
            raise InputError(
                f"run {run.folder} {why}, by whose left-out rows heads are weighed; train again (head "
                f"forest: several models in one command, with --fusion {LATE})",
                option="runs",
            )
    expected = _identity(first)
    for run in runs[1:]:
        for what, (value, remedy) in _identity(run).items():
            if value != expected[what][0]:
                raise InputError(
                    f"runs {first.folder} and {run.folder} differ in {what}: {expected[what][0]} and "
                    f"{value}; {remedy}",
                    option="runs",
                )
    return read_folds(first)


def _identity(run: Run) -> dict[str, tuple[object, str]]:
    """Give what runs must share, in the order in which a difference is told, and what closes each gap."""
    record = run.record
    assert record.folds is not None
    same = "train both with the same --seed, --test-fraction, --group-by, --shots and --skip-failed"
    images = record.manifest.pictures_digest
    return {
        "the data set": (record.dataset, "blend runs of one data set"),
        "the version of the data set": (run.dataset_version, "bring both up to date (train --update)"),
        "the images of the data set": (images and images[:12], "train again on the same images"),
        "the classes": (len(run.classes), same),
        "the number of training rows": (len(run.train_rows), same),
        "the number of test rows": (len(run.test_rows), same),
        "the rows, labels and split": ((record.split.rows_digest or "")[:12], same),
        "the number of folds": (record.folds.count, "train both with the same --cv"),
        "the folds": ((record.folds.digest or "")[:12], "train both with the same --cv and --group-by"),
    }


def _count(run: Run) -> int:
    assert run.record.folds is not None
    return run.record.folds.count


def _names(runs: Sequence[Run]) -> list[str]:
    """Call each run by its model, by model and head, or by its folder: by the first that tells all apart."""
    ways = (
        [run.record.model for run in runs],
        [f"{run.record.model} {run.head.name}" for run in runs],
        [run.folder.name for run in runs],
    )
    return next((names for names in ways if len(set(names)) == len(names)), [str(run.folder) for run in runs])


def _left_out(
    run: Run, features: StoredFeatures, labels: Sequence[str], folds: Folds, limits: RunLimits
) -> LeftOutScores:
    """Repeat the fits of a run without each fold, with the parameters that it has chosen."""
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
    )
    head.fit(_blocks(run, features), labels, groups=[f"{fold:06d}" for fold in folds.numbers.tolist()])
    if head.left_out_scores is None:
        raise InputError(
            f"head {run.head.name!r} of {run.folder} leaves out no rows, by which heads are weighed; blend "
            "runs of other heads",
            option="runs",
        )
    before, now = run.head.left_out, head.left_out
    if before and now and before.log_loss and now.log_loss:
        plan_logger.debug(
            "%s: left-out log loss %.4f, in the run %.4f", run.folder, now.log_loss, before.log_loss
        )
    return head.left_out_scores


def _blocks(run: Run, features: StoredFeatures) -> PreprocessedBlocks:
    """Return the training rows as the fit of the run saw them."""
    saves = run.saves
    if saves.n_columns == saves.n_columns_trained_on:
        names, preprocessing = [array.name for array in run.arrays], run.preprocessing
    elif run.record.sources is not None:
        raise InputError(
            f"run {run.folder} chose its columns among those of several models side by side, which blend "
            "cannot choose anew without a fold; blend runs of heads that keep all columns",
            option="runs",
        )
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
