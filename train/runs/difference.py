"""What changed between a run's images and its data set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from toptune.errors import InputError
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.feature_view import FeatureView, StoredFeatures
from toptune.train.rows.chosen_rows import leave_out
from toptune.train.rows.splits import NAMED, Split, group_keys, held_out, split_manifest
from toptune.train.runs.record import ROWS
from toptune.train.runs.run import Run

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
    now : ndarray of int64
        Row of the new manifest of each row of the old one, -1 where it is gone.
    is_spent : ndarray of bool
        Whether a row of the old manifest is a training image that no center may stand on any more.
    n_new, n_changed, n_forgotten : int
        Images that came, whose label or content changed, and that were to be forgotten.
    """

    removed: Rows
    added: Rows
    train: Rows
    test: Rows
    now: Rows
    is_spent: npt.NDArray[np.bool_]
    n_new: int
    n_changed: int
    n_forgotten: int


def find_difference(
    run: Run, before: StoredFeatures, after: StoredFeatures, *, forget: Sequence[str], forgotten: set[str]
) -> Difference:
    """Compare the rows of a run with its data set as it is now.

    Images that were there keep their side of the split. New ones are put on theirs by the manifest's own
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
        If an id to forget is none of the run's images.
    """
    old, new = before.manifest, after.manifest
    old_ids, new_ids = old.table["id"], new.table["id"]
    sides = {"train": run.train_rows, "test": run.test_rows}
    _refuse_strangers(run, old_ids, forget)
    now = _found(old_ids, new_ids)
    has_label = new.table["label"].is_valid().to_numpy()
    leaves = _among(old_ids, forget)
    stays = (now >= 0) & ~leaves & has_label[now]
    train = run.train_rows
    kept_train = train[stays[train]]
    is_other = np.zeros(old.n_rows, dtype=np.bool_)
    is_other[kept_train] = _is_elsewhere(before, kept_train, after, now[kept_train])
    changed = is_other.copy()
    changed[kept_train] |= _labels(new, now[kept_train]) != _labels(old, kept_train)
    # A center stands for the image as it was.
    is_spent = np.zeros(old.n_rows, dtype=np.bool_)
    is_spent[train] = ~stays[train] | is_other[train]
    had_label = _among(new_ids, old_ids.filter(old.table["label"].is_valid()))
    fresh = np.flatnonzero(has_label & ~had_label & ~_among(new_ids, [*forgotten, *forget]))
    kept = {side: now[rows[stays[rows]]] for side, rows in sides.items()}
    new_train, new_test = _sides(run, new, fresh, kept)
    return Difference(
        removed=train[~stays[train] | changed[train]],
        added=np.sort(np.concatenate([now[train[changed[train]]], new_train])),
        train=np.sort(np.concatenate([kept["train"], new_train])),
        test=np.sort(np.concatenate([kept["test"], new_test])),
        now=now,
        is_spent=is_spent,
        n_new=len(new_train) + len(new_test),
        n_changed=int(changed.sum()),
        n_forgotten=len(set(forget)),
    )


def forgotten_ids(run: Run) -> set[str]:
    """Ids that this run or one before it was told to forget."""
    with pq.ParquetFile(run.folder / ROWS) as file:
        table = file.read(columns=["id", "role"], use_threads=False)
    return set(table["id"].filter(pc.equal(table["role"], "forgotten")).to_pylist())


def without_failed(
    difference: Difference, cache: StoredFeatures, arrays: Sequence[str], *, allow: bool
) -> tuple[Difference, int]:
    """Leave images that could not be read out of what is added, or refuse and name them."""
    failed = cache.failed_rows(arrays)
    split = Split(train=difference.train, test=difference.test, n_unlabelled=0, n_unused=0, rule="")
    split, n_skipped = leave_out(
        split, np.array(sorted(failed), dtype=np.int64), cache.manifest, allow=allow, reasons=failed
    )
    added = np.intersect1d(difference.added, split.train) if n_skipped else difference.added
    return replace(difference, added=added, train=split.train, test=split.test), n_skipped


def _refuse_strangers(run: Run, ids: Any, forget: Sequence[str]) -> None:
    used = np.zeros(len(ids) + 1, dtype=np.bool_)
    used[run.train_rows] = used[run.test_rows] = True
    # What is not found has number -1: the last place, which no row has.
    strange = [
        identity
        for identity, row in zip(forget, _found(pa.array(forget, pa.string()), ids).tolist(), strict=True)
        if not used[row]
    ]
    if strange:
        raise InputError(
            f"{len(strange)} of the ids to forget are no images of the run, the first is {strange[0]!r}; "
            f"they are named in {run.folder / ROWS}"
        )


def _found(values: Any, among: Any) -> Rows:
    """Position of each value among others, -1 where it is none of them."""
    return np.asarray(pc.index_in(values, value_set=among).fill_null(-1), dtype=np.int64)


def _among(values: Any, others: Any) -> npt.NDArray[np.bool_]:
    """Whether each value is one of others."""
    others = others if isinstance(others, pa.ChunkedArray) else pa.array(others, pa.string())
    return np.asarray(pc.is_in(values, value_set=others))


def _labels(manifest: Manifest, rows: Rows) -> npt.NDArray[np.object_]:
    labels: npt.NDArray[np.object_] = manifest.table["label"].to_numpy()[rows]
    return labels


def _is_elsewhere(
    before: StoredFeatures, old: Rows, after: StoredFeatures, new: Rows
) -> npt.NDArray[np.bool_]:
    """Whether images lie in another part or row than before: that changes when their content does."""
    (part, row), (new_part, new_row) = _places(before, old), _places(after, new)
    return np.asarray((part != new_part) | (row != new_row))


def _places(cache: StoredFeatures, rows: Rows) -> tuple[npt.NDArray[np.str_], Rows]:
    """Part and row of images."""
    if isinstance(cache, FeatureView):
        version = cache.version
        return np.array(version.parts)[version.part[rows]], version.part_row[rows]
    return np.full(len(rows), cache.dataset), rows


def _sides(run: Run, new: Manifest, fresh: Rows, kept: dict[str, Rows]) -> tuple[Rows, Rows]:
    """Which of the new images train and which test."""
    options = run.row_options
    if len(fresh) == 0:
        return fresh, fresh
    if run.record.split.rule.startswith(NAMED):
        split = split_manifest(new, val=options.val, group_by=options.group_by, seed=options.seed)
        return np.intersect1d(split.train, fresh), np.intersect1d(split.test, fresh)
    keys = new.ids if options.group_by is None else group_keys(new, options.group_by)
    # Without groups no other row has the key of a new one.
    old_sides = {} if options.group_by is None else kept
    side_of = {keys[row]: side for side, rows in old_sides.items() for row in rows.tolist()}
    open_rows = np.array([row for row in fresh if keys[row] not in side_of], dtype=np.int64)
    is_test = held_out(
        [new.ids[row] for row in open_rows],
        [str(new.labels[row]) for row in open_rows],
        seed=options.seed,
        test_fraction=options.test_fraction,
        groups=[keys[row] for row in open_rows],
    )
    decided = [row for row in fresh if side_of.get(keys[row]) == "test"]
    test = np.sort(np.concatenate([open_rows[is_test], np.array(decided, dtype=np.int64)]))
    return np.setdiff1d(fresh, test), test
