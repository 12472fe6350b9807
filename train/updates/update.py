"""`train --update` and `--forget`: a run brought up to date by reading only the images that changed."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt

from toptune.costs.phases import Phases
from toptune.errors import InputError
from toptune.machine.devices import AUTO, check_device_name, settle_head_device
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.files.json_values import json_ready
from toptune.store.files.provenance import provenance
from toptune.store.joined.joined_features import members_of
from toptune.text import counted, named
from toptune.train.heads.kinds import why_small
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.rows.chosen_rows import note_untested, rows_digest
from toptune.train.rows.copies import digests_of, note_copies
from toptune.train.rows.folds import Folds
from toptune.train.rows.splits import Split
from toptune.train.runs.record import ManifestIdentity, RunRecord, UpdateRecord
from toptune.train.runs.run import Run
from toptune.train.runs.scoring import Scored, score
from toptune.train.runs.sources import open_sources
from toptune.train.runs.writing import check_out, new_run_folder, write_run
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import REGRESSION
from toptune.train.updates.difference import Difference, find_difference, forgotten_ids, without_failed
from toptune.train.updates.fold_change import FoldChange, find_fold_change

if TYPE_CHECKING:  # these import torch and scikit-learn, which an update that is refused does not need
    from toptune.train.answers.class_tree import ClassTree
    from toptune.train.answers.kept import Kept
    from toptune.train.heads.native_heads import OwnHead
    from toptune.train.solvers.saved_sums import SavedSums
    from toptune.train.updates.head_update import Change

Rows = npt.NDArray[np.int64]


class UpdateArguments(TypedDict, total=False):
    """The keywords of `UpdateOptions`."""

    forget: Sequence[str]
    dataset_version: int | None
    allow_failed: bool
    device: str | None


@dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """Options of `update_run`.

    Attributes
    ----------
    forget : sequence of str
        Ids of images of the run. A later update does not bring them back.
    dataset_version : int, optional
        Version of the data set to bring the run to; by default the latest.
    allow_failed : bool
        Leave out new images that could not be read, instead of refusing the update.
    device : str, optional
        torch device of the sums: ``auto`` (CUDA where there is a CUDA device, else the CPU), ``cpu``,
        ``cuda`` or ``cuda:N``. None is the CPU.
    """

    forget: Sequence[str] = ()
    dataset_version: int | None = None
    allow_failed: bool = False
    device: str | None = AUTO

    def __post_init__(self) -> None:
        if self.device is not None:
            check_device_name(self.device, is_for_head=True)


@dataclass(frozen=True, kw_only=True)
class Updatable:
    """A run with its sums, and the features before and after an update.

    Attributes
    ----------
    old : Run
    head : OwnHead
        The head of the run.
    saved : SavedSums
    before, after : StoredFeatures
        Both are open: rows that leave must be subtracted with the features with which they were added.
    """

    old: Run
    head: "OwnHead"
    saved: "SavedSums"
    before: StoredFeatures
    after: StoredFeatures

    @classmethod
    def of(
        cls, old: Run, store: str | os.PathLike[str] | FeatureStore | None, dataset_version: int | None
    ) -> "Updatable":
        """Open what an update of a run needs; errors are those of `update_run`."""
        head, saved = _saved_head(old)
        before, after = _features(old, store, dataset_version)
        return cls(old=old, head=head, saved=saved, before=before, after=after)

    @property
    def failed(self) -> dict[int, str]:
        """Rows of the new manifest whose image could not be used, with the reason."""
        return self.after.failed_rows([array.name for array in self.old.arrays])


@dataclass(frozen=True, kw_only=True)
class Updated:
    """An updated run that has no metrics yet.

    Attributes
    ----------
    run : Run
    kept : Kept
        What sets of labels and novelty need, of the rows that stay.
    labeled : ndarray of int64
        As of `Difference`.
    after : StoredFeatures
    folds : Folds or None
    forgotten : sequence of str
        Ids that may never come back.
    seconds : float
        Seconds of the update.
    """

    run: Run
    kept: "Kept"
    labeled: Rows
    after: StoredFeatures
    folds: Folds | None
    forgotten: Sequence[str]
    seconds: float

    def write(self, folder: Path, scored: Scored) -> None:
        """Write the files of the run, whose metrics are known by now."""
        write_run(self.run, folder, self.after.manifest, scored, folds=self.folds, forgotten=self.forgotten)
        self.kept.write(folder)


def update_head_run(
    old: Run,
    *,
    out: str | os.PathLike[str],
    store: str | os.PathLike[str] | FeatureStore | None,
    options: UpdateOptions,
    progress: Callable[[str], None] | None,
) -> Run:
    """Bring the run of one head up to date; see `toptune.train.update_run`."""
    phases = Phases(progress)
    path = check_out(out)
    ready = Updatable.of(old, store, options.dataset_version)
    updated = change_run(ready, options, failed=ready.failed, phases=phases, path=path)
    new = updated.run
    with phases("test"):
        # The head has changed, so that all test images are scored again and not only the new ones.
        scored = score(new, updated.after, new.test_rows, tree=updated.kept.tree)
    metrics = (
        scored.metrics
        | scored.tables.files
        | {
            "n_train": len(new.train_rows),
            "n_test": len(new.test_rows),
            "n_skipped": new.record.split.n_skipped,
            "seconds": phases.seconds | {"total": phases.elapsed},
            "costs": phases.costs(),
        }
    )
    new = replace(new, metrics=json_ready(metrics))
    phases.notify("write")
    with new_run_folder(path) as folder:
        replace(updated, run=new).write(folder, scored)
    return new


def change_run(
    ready: Updatable, options: UpdateOptions, *, failed: Mapping[int, str], phases: Phases, path: Path
) -> Updated:
    """Add and subtract the rows that changed.

    Parameters
    ----------
    ready : Updatable
    options : UpdateOptions
    failed : mapping of int to str
        Rows of the new manifest that cannot be used, with the reason.
    phases : Phases
    path : Path
        Folder that the updated run will have.

    Raises
    ------
    InputError
        If nothing changed, an id is no image of the run, or an image failed and may not be left out.
    """
    clock = time.perf_counter()
    old, before, after = ready.old, ready.before, ready.after
    phases.notify("compare")
    # An image that was forgotten on request stays forgotten, although the data set may still hold it.
    earlier = forgotten_ids(old)
    found = find_difference(
        old, before, after, forget=options.forget, forgotten=earlier | old.decisions.excluded
    )
    difference, n_skipped = without_failed(found, after.manifest, failed, allow=options.allow_failed)
    # An id without a training row may be forgotten too; the new run then records that it must not come
    # back.
    if not len(difference.added) and not len(difference.removed) and not options.forget:
        raise InputError(
            f"nothing to update: data set {after.dataset!r} in version {after.dataset_version} holds what "
            "the run was trained on, and no id is to be forgotten"
        )
    before.mark_used()
    after.mark_used()
    with phases("update"):
        folds = find_fold_change(
            old,
            before.manifest,
            after.manifest,
            difference,
            n_folds=len(ready.saved.sums.validated().gram),
        )
        small = why_small(
            old.head.name,
            old.head.params,
            n_rows=len(folds.added) + len(folds.removed),
            n_columns=sum(array.dim for array in old.arrays),
        )
        device = settle_head_device(options.device, small_because=small)
        updated = _changed_head(
            old, ready.head, ready.saved, difference, folds, before=before, after=after, device=device
        )
    # Images of the run keep their side of the split. A test image that began to train would make the test
    # of the updated run dishonest.
    split, notes = _known_rows(difference, updated, after.manifest)
    notes += [*folds.notes, *_decided_again(old, after.manifest)]
    # An image that was added may be a copy of one on the other side of the split.
    digests = digests_of(after)
    notes += [] if digests is None else note_copies(digests, split)
    record = replace(
        _updated_record(old, updated, difference, split, after, n_skipped=n_skipped, notes=notes),
        folds=folds.record,
    )
    new = Run(
        folder=path,
        record=record,
        metrics={},
        head=updated,
        preprocessing=old.preprocessing,
        train_rows=split.train,
        test_rows=split.test,
        decisions=old.decisions,
    )
    return Updated(
        run=new,
        kept=_kept(old, difference, updated.classes),
        labeled=difference.labeled,
        after=after,
        folds=folds.folds,
        forgotten=sorted({*earlier, *options.forget}),
        seconds=time.perf_counter() - clock,
    )


def _kept(old: Run, difference: Difference, classes: Sequence[str]) -> "Kept":
    """Return what stays of what sets of labels and novelty need; older runs have nothing."""
    from toptune.train.answers.kept import Kept

    targets = old.form.names if old.form.task == REGRESSION else None
    kept = Kept.read(old.folder, n_columns=old.preprocessing.n_outputs, targets=targets)
    kept = replace(kept, tree=_tree(old, classes))
    return kept.changed(difference.labeled, np.where(difference.is_spent, -1, difference.now))


def _tree(old: Run, classes: Sequence[str]) -> "ClassTree | None":
    """Return the tree of the classes that are there now.

    Raises
    ------
    InputError
        If a new class has no parent in the tree of the run, which an update does not change.
    """
    from toptune.train.answers.class_tree import ClassTree

    tree = ClassTree.read(old.folder, old.classes, advice="train again")
    if tree is None:
        return None
    if new := sorted(set(classes) - tree.parents.keys()):
        raise InputError(
            f"the update brings {counted(len(new), 'class')} that the tree of run {old.folder} does not "
            f"have: {named(new)}; train again with --class-tree, which names their parents"
        )
    return ClassTree.of(tree.parents, classes, where=str(old.folder))


def _decided_again(old: Run, manifest: Manifest) -> list[str]:
    """Say of how many images the data set still has the decisions of the run before count."""
    decisions = old.decisions
    if not decisions.files:
        return []
    known = {*manifest.ids}
    excluded, relabeled = len(decisions.excluded & known), len(decisions.labels.keys() & known)
    images = counted(excluded, "image")
    return [f"decided as in the run before: {images} excluded, {relabeled} relabeled [TT307]"]


def _features(
    old: Run, store: str | os.PathLike[str] | FeatureStore | None, dataset_version: int | None
) -> tuple[StoredFeatures, StoredFeatures]:
    """Open the features that a run was trained on, and the features of the version after the update."""
    if old.record.relabelled is not None:
        raise InputError(
            f"run {old.folder} cannot be updated: an earlier toptune made it by train --relabel, for labels "
            "that are not those of the data set; train again"
        )
    if old.record.split.n_not_drawn:
        raise InputError(
            f"run {old.folder} cannot be updated: it was trained on a sample (--shots, --train-size), and "
            "whether new images belong to it depends on all others; train again"
        )
    opened = store if isinstance(store, FeatureStore) else FeatureStore.open(store or old.store)
    dataset = old.record.dataset
    before, after = (
        open_sources(
            opened,
            old.sources,
            dataset,
            version=version,
            **old.row_options.reading(old.decisions.relabel_again),
        )
        for version in (old.dataset_version, dataset_version)
    )
    # Rows count by position, so that other images under the same name would be subtracted in place of those
    # that trained.
    if before.manifest.pictures_digest != old.record.manifest.pictures_digest:
        raise InputError(
            f"data set {before.dataset!r} has other images than the run was trained on; train again"
        )
    digests = [features.digest for features in members_of(after).values()]
    if digests != [source.cache.digest for source in old.sources]:
        raise InputError(f"the features of {after.dataset!r} were computed otherwise; train again")
    return before, after


def _changed_head(
    old: Run,
    head: "OwnHead",
    saved: "SavedSums",
    difference: Difference,
    folds: FoldChange,
    *,
    before: StoredFeatures,
    after: StoredFeatures,
    device: str | None,
) -> "OwnHead":
    """Give the head of a run with the rows of a difference added and subtracted."""
    from toptune.train.updates.head_update import updated_head

    # Heads without centers, such as `ridge`, have none to lose.
    indices = getattr(head.estimator, "center_indices_", None)
    centers = old.train_rows[[] if indices is None else indices]
    is_spent = difference.is_spent[centers]
    updated = updated_head(
        head,
        saved,
        added=_change(old, after, folds.added, folds.added_places),
        removed=_change(old, before, folds.removed, folds.removed_places),
        n_folds=folds.n_folds,
        gone_centers=np.flatnonzero(is_spent),
        device=device,
    )
    if indices is not None:
        # The indices of centers count the training rows, whose numbers the update has changed.
        stay = np.searchsorted(difference.train, difference.now[centers[~is_spent]])
        updated.estimator.center_indices_ = stay.astype(np.int64)
    return updated


def _change(old: Run, cache: StoredFeatures, rows: Rows, places: Rows) -> "Change":
    """Give rows of a cache as the head of a run sees them: preprocessed, labeled, with their folds."""
    from toptune.train.updates.head_update import Change

    names = [array.name for array in old.arrays]
    return Change(
        blocks=PreprocessedBlocks(cache.blocks(names, rows), old.preprocessing),
        labels=[str(cache.manifest.labels[row]) for row in rows],
        places=places,
        task=old.record.task_name,
    )


def _known_rows(difference: Difference, head: "OwnHead", manifest: Manifest) -> tuple[Split, list[str]]:
    """Give the rows of an updated run, without test rows of classes that have no training row, and notes."""
    classes, task = set(head.classes), task_of(head.task)
    texts = [str(manifest.labels[row]) for row in difference.test.tolist()]
    is_known = np.array([classes.issuperset(task.names([text])) for text in texts], bool)
    split = Split(train=difference.train, test=difference.test[is_known], n_unlabelled=0, n_unused=0, rule="")
    return split, note_untested(is_known)


def _updated_record(
    old: Run,
    head: "OwnHead",
    difference: Difference,
    split: Split,
    after: StoredFeatures,
    *,
    n_skipped: int,
    notes: Sequence[str],
) -> RunRecord:
    """Give the record of an updated run: that of the old run with everything that the update changed."""
    counts = task_of(head.task).members([str(after.manifest.labels[row]) for row in split.train.tolist()])
    # Hyperparameters stay as they were chosen. These two figures follow from the updated sums alone.
    measured = {name: head.report[name] for name in ("squared_error", "rank")}
    return replace(
        old.record,
        dataset_version=after.dataset_version,
        classes={name: counts.get(name, 0) for name in head.classes},
        split=replace(
            old.record.split,
            n_train=len(split.train),
            n_test=len(split.test),
            n_skipped=n_skipped,
            rows_digest=rows_digest(split, after.manifest),
        ),
        manifest=ManifestIdentity.of(after.manifest),
        # What was tried was compared on the old rows, and says nothing about the updated head.
        auto=None,
        best=None,
        selected=json_ready({**old.record.selected, **measured}),
        warnings=(*notes, *head.report["warnings"]),
        report=json_ready(head.report),
        created=provenance(),
        update=UpdateRecord(
            run=str(old.folder),
            n_added=len(difference.added),
            n_removed=len(difference.removed),
            n_new=difference.n_new,
            n_changed=difference.n_changed,
            n_forgotten=difference.n_forgotten,
        ),
    )


def _saved_head(run: Run) -> "tuple[OwnHead, SavedSums]":
    """Return the head of a run and its sums, or refuse a run that has no sums to add to or subtract from."""
    from toptune.train.heads.native_heads import OwnHead
    from toptune.train.solvers.saved_sums import FILE, KEEPERS, SavedSums

    options = run.record.options
    # Each reason below is a case in which the kept sums cannot follow the data set.
    reason = None
    if not (run.folder / FILE).is_file():
        reason = f"it has no sums ({KEEPERS}, unless told not to)"
    elif options["class_weight"] is not None:
        reason = "its classes are balanced, so that every new image changes the weight of all others"
    elif options["cv"] == "leave-one-group-out":
        reason = "its folds are groups, and new images may be of none of them"
    elif not isinstance(run.head, OwnHead):
        reason = f"its head {run.head.name!r} is not one of toptune's own"
    if reason or not isinstance(run.head, OwnHead):
        raise InputError(f"run {run.folder} cannot be updated: {reason}; train again")
    run.record.check_files(run.folder, [FILE])
    return run.head, SavedSums.load(run.folder)
