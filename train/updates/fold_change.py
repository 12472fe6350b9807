"""The folds of a run are kept by updates, and dealt out further for new rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.store.datasets.manifest import Manifest
from toptune.train.rows.folds import Folds, deal, folds_by_hash, ranks_of
from toptune.train.runs.record import HASHED, FoldsRecord
from toptune.train.runs.run import Run
from toptune.train.runs.run_folds import folds_of, folds_record, read_folds
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import CLASSIFICATION
from toptune.train.tasks.stratification import spread
from toptune.train.tasks.task import Task
from toptune.train.updates.difference import Difference

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldChange:
    """Rows that leave the sums of a run, and rows that enter them, with the folds that they leave and enter.

    Attributes
    ----------
    removed, removed_places : ndarray of int64
        Rows of the old manifest, and the place of each; see `Folds.places`.
    added, added_places : ndarray of int64
        Rows of the new manifest, and the place of each.
    folds : Folds or None
        Folds of all training rows of the updated run; None if it stores none.
    record : FoldsRecord or None
        What ``run.json`` of the updated run says of its folds.
    n_folds : int
        Folds of the sums.
    """

    removed: Rows
    removed_places: Rows
    added: Rows
    added_places: Rows
    folds: Folds | None
    record: FoldsRecord | None
    n_folds: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the folds of the updated run."""
        return () if self.folds is None else self.folds.notes


def find_fold_change(
    run: Run, before: Manifest, after: Manifest, difference: Difference, *, n_folds: int
) -> FoldChange:
    """Find the folds that the rows of a difference leave and enter.

    Old rows keep their fold, also those whose label or content changed. A new row joins the fold of its
    group; otherwise it is dealt out by the rule of `toptune.train.rows.folds`, which goes on where the old
    rows are: to the smallest fold of its class. Rows of a class that comes to lie in one fold, or no longer
    does, change their place without a change of the image.

    Parameters
    ----------
    run : Run
        The run before the update.
    before, after : Manifest
        Of the data set that the run was trained on, and of the data set now.
    difference : Difference
        What changed between both.
    n_folds : int
        Folds of the sums of the run; 1 if nothing was left out.

    Raises
    ------
    CorruptError
        If the stored folds are damaged.
    """
    keys = _keys(run, after)
    if n_folds == 1 or run.record.folds is None or run.record.folds.rule == HASHED:
        old_keys = _keys(run, before)

        def places(keys: Sequence[str], rows: Rows) -> Rows:
            if n_folds == 1:
                return np.zeros(len(rows), dtype=np.int64)
            return folds_by_hash([keys[row] for row in rows.tolist()], n_folds=n_folds)

        return FoldChange(
            removed=difference.removed,
            removed_places=places(old_keys, difference.removed),
            added=difference.added,
            added_places=places(keys, difference.added),
            folds=None,
            record=None if n_folds == 1 else FoldsRecord(rule=HASHED, count=n_folds),
            n_folds=n_folds,
        )
    numbers = read_folds(run)
    task = run.record.task_name
    old = folds_of(numbers, n_folds, _labels(before, run.train_rows), task=task)
    # Positions of the training rows among themselves: of each old row now, and of each new row before.
    train = difference.train
    now = difference.now[run.train_rows]
    at_now = np.searchsorted(train, now)
    stays = np.isin(now, train)
    known = np.full(len(train), -1, dtype=np.int64)
    known[at_now[stays]] = numbers[stays]
    labels = _labels(after, train)
    dealt = _dealt_on(known, labels, [keys[row] for row in train.tolist()], n_folds, task=task_of(task))
    new = folds_of(dealt, n_folds, labels, task=task)
    # Rows that stay as they are and change their place alone leave one place and enter the other.
    has_moved = np.zeros(len(numbers), dtype=np.bool_)
    has_moved[stays] = old.places[stays] != new.places[at_now[stays]]
    leaves = np.isin(run.train_rows, difference.removed) | has_moved
    enters = np.isin(train, difference.added)
    enters[at_now[has_moved]] = True
    return FoldChange(
        removed=run.train_rows[leaves],
        removed_places=old.places[leaves],
        added=train[enters],
        added_places=new.places[enters],
        folds=new,
        record=folds_record(new, [after.ids[row] for row in train.tolist()]),
        n_folds=n_folds,
    )


def _dealt_on(known: Rows, labels: Sequence[str], keys: Sequence[str], n_folds: int, *, task: Task) -> Rows:
    """Return folds (n,) of all rows, of which some are known and the others -1."""
    fold_of = {key: fold for key, fold in zip(keys, known.tolist(), strict=True) if fold >= 0}
    numbers = np.array([fold_of.get(key, -1) for key in keys], dtype=np.int64)
    numbers[known >= 0] = known[known >= 0]
    fresh = numbers < 0
    if fresh.any() and task.name != CLASSIFICATION:
        rows, codes = task.strata(task.targets(labels, task.names(labels)).values)
        return spread(rows, codes, ranks_of(keys), shares=[1 / n_folds] * n_folds, known=numbers)
    if fresh.any():
        classes, codes = np.unique(labels, return_inverse=True)
        numbers[fresh] = deal(
            codes[fresh],
            ranks_of([keys[at] for at in np.flatnonzero(fresh).tolist()]),
            count=n_folds,
            n_classes=len(classes),
            known=(numbers[~fresh], codes[~fresh]),
        )
    return numbers


def _labels(manifest: Manifest, rows: Rows) -> list[str]:
    labels = manifest.labels
    return [str(labels[row]) for row in rows.tolist()]


def _keys(run: Run, manifest: Manifest) -> Sequence[str]:
    keys = run.keys(manifest)
    return manifest.ids if keys is None else keys
