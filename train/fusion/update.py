"""`update_run`: a run brought up to date by reading only the images that changed, of one head or several."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, overload

from toptune.costs.phases import Phases
from toptune.options import options_of
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.provenance import provenance
from toptune.train.answers.files import ADVICE
from toptune.train.answers.left_out import LeftOut
from toptune.train.fusion.fused_run import FusedRun, load_run
from toptune.train.fusion.fusing import Member, score_together_with, shared_notes, write_fused
from toptune.train.runs.record import RunRecord, seal_run
from toptune.train.runs.run import Run
from toptune.train.runs.scoring import Scored
from toptune.train.runs.writing import check_out
from toptune.train.updates.update import (
    Updatable,
    UpdateArguments,
    Updated,
    UpdateOptions,
    change_run,
    update_head_run,
)


@overload
def update_run(
    run: Run,
    *,
    out: str | os.PathLike[str],
    store: str | os.PathLike[str] | FeatureStore | None = None,
    progress: Callable[[str], None] | None = None,
    **arguments: Unpack[UpdateArguments],
) -> Run: ...
@overload
def update_run(
    run: FusedRun,
    *,
    out: str | os.PathLike[str],
    store: str | os.PathLike[str] | FeatureStore | None = None,
    progress: Callable[[str], None] | None = None,
    **arguments: Unpack[UpdateArguments],
) -> FusedRun: ...
@overload
def update_run(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    store: str | os.PathLike[str] | FeatureStore | None = None,
    progress: Callable[[str], None] | None = None,
    **arguments: Unpack[UpdateArguments],
) -> Run | FusedRun: ...
def update_run(
    run: Run | FusedRun | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    store: str | os.PathLike[str] | FeatureStore | None = None,
    progress: Callable[[str], None] | None = None,
    **arguments: Unpack[UpdateArguments],
) -> Run | FusedRun:
    """Bring a run up to date with its data set, and forget images; the old RUN folder stays as it is.

    New images and classes are added to the sums that the training kept. Images that left the data set, or
    that are to be forgotten, are subtracted; relabeled images are subtracted and added. Only the features of
    these images are read, and the features of the test images, which are scored again. Centers, width,
    penalty, temperature and preprocessing stay, and scores equal the scores of a new training with the same
    values. If the image of a center is gone, the center leaves the head with its coefficients.

    Of a run of several models every head is brought up to date, and their weights stay too.

    Parameters
    ----------
    run : Run, FusedRun or path
        A run of head ``falkon`` (solver ``direct``) or ``ridge``, without class weights; or of such heads.
    out : path
        RUN folder to make.
    store : path or FeatureStore, optional
        Where the features are; by default the store that the run was trained from.
    progress : callable, optional
        Called with a line about each phase, just before it begins.
    **arguments
        The fields of `UpdateOptions`.

    Raises
    ------
    InputError
        If nothing changed, an id is no image of the run, an option is unknown, or the run cannot be
        updated.
    StoreError
        If the store does not hold the features.
    """
    options = options_of(UpdateOptions, arguments, call="update_run")
    old = run if isinstance(run, Run | FusedRun) else load_run(run)
    if isinstance(old, Run):
        return update_head_run(old, out=out, store=store, options=options, progress=progress)
    return _update_members(old, out=out, store=store, options=options, progress=progress)


def _update_members(
    old: FusedRun,
    *,
    out: str | os.PathLike[str],
    store: str | os.PathLike[str] | FeatureStore | None,
    options: UpdateOptions,
    progress: Callable[[str], None] | None,
) -> FusedRun:
    """Bring every head of a run up to date; the weights stay."""
    phases = Phases(progress)
    path = check_out(out)
    # A member that cannot be updated is refused before any other is.
    ready = [Updatable.of(member, store, options.dataset_version) for member in old.members]
    # An image that failed for one model leaves all, so that their rows stay the same.
    failed: dict[int, str] = {}
    for each in ready:
        failed = each.failed | failed
    members = []
    for each, record in zip(ready, old.fusion.members, strict=True):
        phases.notify(record.name)
        updated = change_run(each, options, failed=failed, phases=phases, path=path)
        members.append(_member(record.name, updated))
    first = updated
    new = FusedRun(
        folder=path,
        record=_record(old, members),
        metrics={},
        members=tuple(member.run for member in members),
        train_rows=first.run.train_rows,
        test_rows=first.run.test_rows,
    )
    manifest = first.after.manifest
    said = LeftOut.read(old.folder, advice=ADVICE)
    with phases("test"):
        scored = score_together_with(new, members, manifest, new.test_rows, tree=first.kept.tree)
    return write_fused(
        new, members, scored, manifest, phases, folds=first.folds, all_members=members,
        said=said and said.changed(first.labeled), forgotten=first.forgotten,
    )  # fmt: skip


def _member(name: str, updated: Updated) -> Member:
    run = updated.run

    def write(folder: Path, scored: Scored, metrics: dict[str, Any]) -> None:
        replace(updated, run=replace(run, metrics=metrics)).write(folder, scored)
        seal_run(folder)

    return Member(
        name=name,
        run=run,
        features=updated.after,
        left_out=None,
        seconds=updated.seconds,
        costs={},
        feature_bytes=updated.after.n_rows * sum(array.dim * array.dtype_bytes for array in run.arrays),
        write=write,
    )


def _record(old: FusedRun, members: Sequence[Member]) -> RunRecord:
    """Give the record of the updated run: what its members share now, and the weights as they were."""
    base = members[0].run.record
    # The figures of left-out rows were those of the heads before the update.
    unmeasured = [
        replace(member, left_out_accuracy=None, left_out_log_loss=None) for member in old.fusion.members
    ]
    assert base.update is not None
    return replace(
        old.record,
        dataset_version=base.dataset_version,
        classes=base.classes,
        split=base.split,
        folds=base.folds,
        manifest=base.manifest,
        report=None,
        best=None,
        fusion=replace(old.fusion, members=tuple(unmeasured)),
        warnings=(
            "the weights and the temperature of all heads together are those of the run before the update; "
            "how well they do on left-out rows is not known, because an update reads changed images alone "
            "[TT414]",
            *shared_notes(members),
        ),
        created=provenance(),
        update=replace(base.update, run=str(old.folder)),
    )
