"""What changed between a run's pictures and its data set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from toptune.store import FeatureView, InputError, Manifest, StoredFeatures
from toptune.train.chosen_rows import leave_out
from toptune.train.run import ROWS, Run
from toptune.train.splits import NAMED, Split, group_keys, held_out, split_manifest

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What an update changes, in row numbers of the old and of the new manifest.

    Attributes
    ----------
    removed : ndarray of int64
        Training rows to subtract, of the old manifest: gone, forgotten or changed.
    added : ndarray of int64
        Training rows to add, of the new manifest: new or changed.
    train, test : ndarray of int64
        All rows of the updated run, of the new manifest.
    gone : set of str
        Ids of training pictures that no centre may stand on any more.
    n_new, n_changed, n_forgotten : int
        Pictures that came, whose label or content changed, and that were to be forgotten.
    """

    removed: Rows
    added: Rows
    train: Rows
    test: Rows
    gone: set[str]
    n_new: int
    n_changed: int
    n_forgotten: int


def find_difference(
    run: Run, before: StoredFeatures, after: StoredFeatures, *, forget: Sequence[str], forgotten: set[str]
) -> Difference:
    """Compare the rows of a run with its data set as it is now.

    Pictures that were there keep their side of the split. New ones are put on theirs by the manifest's own
    split where the run followed that, or else drawn as the run's were, whole groups staying together.

    Parameters
    ----------
    forget : sequence of str
        Ids that must go.
    forgotten : set of str
        Ids that earlier updates were told to forget.

    Raises
    ------
    InputError
        If an id to forget is none of the run's pictures.
    """
    old, new = before.manifest, after.manifest
    old_places, new_places = _places(before), _places(after)
    where = {identity: row for row, identity in enumerate(new.ids)}
    sides = {"train": run.train_rows, "test": run.test_rows}
    known = {old.ids[row] for rows in sides.values() for row in rows}
    strange = [identity for identity in forget if identity not in known]
    if strange:
        raise InputError(
            f"{len(strange)} of the ids to forget are no pictures of the run, the first is {strange[0]!r}; "
            f"they are named in {run.folder / ROWS}"
        )
    leaving = set(forget)
    kept: dict[str, list[int]] = {"train": [], "test": []}
    n_changed = 0
    removed: list[int] = []
    added: list[int] = []
    gone: set[str] = set()
    for side, rows in sides.items():
        for row in rows.tolist():
            identity = old.ids[row]
            now = where.get(identity)
            stays = now is not None and identity not in leaving and new.labels[now] is not None
            if now is not None and stays:
                kept[side].append(now)
            if side == "test":
                continue
            if now is None or not stays:
                gone.add(identity)
                removed.append(row)
                continue
            is_other = new_places[now] != old_places[row]
            if is_other or new.labels[now] != old.labels[row]:
                removed.append(row)
                added.append(now)
                n_changed += 1
            if is_other:
                # The centre is the picture as it was.
                gone.add(identity)
    had_label = {identity for identity, label in zip(old.ids, old.labels, strict=True) if label is not None}
    fresh = [
        row
        for row, (identity, label) in enumerate(zip(new.ids, new.labels, strict=True))
        if label is not None and identity not in had_label and identity not in forgotten | leaving
    ]
    new_train, new_test = _sides(run, new, np.array(fresh, dtype=np.int64), kept)
    return Difference(
        removed=np.array(removed, dtype=np.int64),
        added=np.sort(np.concatenate([np.array(added, dtype=np.int64), new_train])),
        train=np.sort(np.concatenate([np.array(kept["train"], dtype=np.int64), new_train])),
        test=np.sort(np.concatenate([np.array(kept["test"], dtype=np.int64), new_test])),
        gone=gone,
        n_new=len(new_train) + len(new_test),
        n_changed=n_changed,
        n_forgotten=len(leaving),
    )


def forgotten_ids(run: Run) -> set[str]:
    """Ids that this run or one before it was told to forget."""
    with pq.ParquetFile(run.folder / ROWS) as file:
        table = file.read(columns=["id", "role"], use_threads=False)
    pairs = zip(table["id"].to_pylist(), table["role"].to_pylist(), strict=True)
    return {identity for identity, role in pairs if role == "forgotten"}


def without_failed(
    difference: Difference, cache: StoredFeatures, arrays: Sequence[str], *, allow: bool
) -> tuple[Difference, int]:
    """Leave pictures that could not be read out of what is added, or refuse and name them."""
    failed = cache.failed_rows(arrays)
    split = Split(train=difference.train, test=difference.test, n_unlabelled=0, n_unused=0, rule="")
    split, n_skipped = leave_out(
        split, np.array(sorted(failed), dtype=np.int64), cache.manifest, allow=allow, reasons=failed
    )
    added = np.intersect1d(difference.added, split.train)
    return replace(difference, added=added, train=split.train, test=split.test), n_skipped


def _places(cache: StoredFeatures) -> list[tuple[str, int]]:
    """Part and row of every picture: what stays as long as its content does."""
    if isinstance(cache, FeatureView):
        version = cache.version
        parts = [version.parts[part] for part in version.part]
        return list(zip(parts, version.part_row.tolist(), strict=True))
    return [(cache.dataset, row) for row in range(cache.n_rows)]


def _sides(run: Run, new: Manifest, fresh: Rows, kept: dict[str, list[int]]) -> tuple[Rows, Rows]:
    """Which of the new pictures train and which test."""
    options = run.config["options"]
    if len(fresh) == 0:
        return fresh, fresh
    if run.config["split"]["rule"].startswith(NAMED):
        split = split_manifest(new, val=options["val"], group_by=options["group_by"], seed=options["seed"])
        return np.intersect1d(split.train, fresh), np.intersect1d(split.test, fresh)
    keys = new.ids if options["group_by"] is None else group_keys(new, options["group_by"])
    side_of = {keys[row]: side for side, rows in kept.items() for row in rows}
    open_rows = np.array([row for row in fresh if keys[row] not in side_of], dtype=np.int64)
    is_test = held_out(
        [new.ids[row] for row in open_rows],
        [str(new.labels[row]) for row in open_rows],
        seed=options["seed"],
        test_fraction=options["test_fraction"],
        groups=[keys[row] for row in open_rows],
    )
    decided = [row for row in fresh if side_of.get(keys[row]) == "test"]
    test = np.sort(np.concatenate([open_rows[is_test], np.array(decided, dtype=np.int64)]))
    return np.setdiff1d(fresh, test), test
