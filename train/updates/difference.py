"""`Difference`: what changed between the images of a run and its data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from toptune.errors import InputError
from toptune.store.datasets.manifest import Manifest
from toptune.store.features.feature_view import FeatureView, StoredFeatures
from toptune.store.joined.joined_features import members_of
from toptune.train.rows.chosen_rows import leave_out
from toptune.train.rows.splits import NAMED, Split, held_out, split_manifest
from toptune.train.runs.record import ROWS
from toptune.train.runs.run import Run, read_table

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What an update changes, in row numbers of the old and of the new manifest.

    Attributes
    ----------
    removed : ndarray of int64
        Rows of the old manifest that are subtracted from the training: gone, forgotten or changed images.
    added : ndarray of int64
        Rows of the new manifest that are added to the training: new or changed images.
    train, test : ndarray of int64
        All rows of the new manifest that train and that test the updated run.
    now : ndarray of int64
        For each row of the old manifest, the row of the new manifest; -1 where the image is gone.
    is_spent : ndarray of bool
        For each row of the old manifest, whether the row trained and its image is gone, forgotten or has
        other content. Such an image may not stay a center.
    n_new, n_changed, n_forgotten : int
        Number of new images, of images whose label or content changed, and of ids to forget.
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

    @property
    def labeled(self) -> Rows:
        """As `now`, and -1 also where the label or the image is not the one that trained."""
        labeled = self.now.copy()
        labeled[self.removed] = -1
        return labeled


def find_difference(
    run: Run, before: StoredFeatures, after: StoredFeatures, *, forget: Sequence[str], forgotten: set[str]
) -> Difference:
    """Compare the rows of a run with the present state of the data set.

    Images of the run stay on their side of the split. New images go to the side that the manifest names, if
    the run followed the manifest; else a side is drawn by the rule of the run, and groups stay together.

    Parameters
    ----------
    run : Run
    before, after : StoredFeatures
        The features that trained the run, and the features to bring the run to.
    forget : sequence of str
        Ids that must leave the run.
    forgotten : set of str
        Ids that earlier updates were told to forget, and that must not come back.

    Raises
    ------
    InputError
        If an id to forget is no image of the run.
    """
    old, new = before.manifest, after.manifest
    old_ids, new_ids = old.table["id"], new.table["id"]
    sides = {"train": run.train_rows, "test": run.test_rows}
    _refuse_strangers(run, old_ids, forget)
    now = _found(old_ids, new_ids)
    has_label = new.table["label"].is_valid().to_numpy()
    leaves = _among(old_ids, forget)
    # Position -1 of an image that is gone reads the label of the last row; `now >= 0` has the last word.
    stays = (now >= 0) & ~leaves & has_label[now]
    train = run.train_rows
    kept_train = train[stays[train]]
    is_other = np.zeros(old.n_rows, dtype=np.bool_)
    is_other[kept_train] = _is_elsewhere(before, kept_train, after, now[kept_train])
    changed = is_other.copy()
    changed[kept_train] |= _labels(new, now[kept_train]) != _labels(old, kept_train)
    # A relabeled image may stay a center, because a center is the features of the image and not the label.
    is_spent = np.zeros(old.n_rows, dtype=np.bool_)
    is_spent[train] = ~stays[train] | is_other[train]
    # An image that lacked a label took no part in the run, so that it is new once it has one.
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
    """Read the ids that this run, or an earlier run behind an update, was told to forget."""
    table = read_table(run.folder / ROWS, ["id", "role"])
    return set(table["id"].filter(pc.equal(table["role"], "forgotten")).to_pylist())


def without_failed(
    difference: Difference, manifest: Manifest, failed: Mapping[int, str], *, allow: bool
) -> tuple[Difference, int]:
    """Leave failed images out of a difference, or refuse the update and name the images.

    Parameters
    ----------
    difference : Difference
    manifest : Manifest
        The new one.
    failed : mapping of int to str
        Rows of the new manifest whose image could not be used, with the reason.
    allow : bool
        Leave them out.

    Returns
    -------
    difference : Difference
    n_skipped : int
        Number of failed images that are left out.
    """
    split = Split(train=difference.train, test=difference.test, n_unlabelled=0, n_unused=0, rule="")
    split, n_skipped = leave_out(
        split, np.array(sorted(failed), dtype=np.int64), manifest, allow=allow, reasons=failed
    )
    added = np.intersect1d(difference.added, split.train) if n_skipped else difference.added
    return replace(difference, added=added, train=split.train, test=split.test), n_skipped


def _refuse_strangers(run: Run, ids: pa.ChunkedArray, forget: Sequence[str]) -> None:
    """Refuse ids to forget that are no images of a run."""
    used = np.zeros(len(ids) + 1, dtype=np.bool_)
    used[run.train_rows] = used[run.test_rows] = True
    # An id that is not found has the position -1, which indexes the one spare element at the end.
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


def _found(values: pa.Array | pa.ChunkedArray, among: pa.ChunkedArray) -> Rows:
    """Return the position of each value among others, or -1 if a value is missing there."""
    return np.asarray(pc.index_in(values, value_set=among).fill_null(-1), dtype=np.int64)


def _among(values: pa.ChunkedArray, others: Sequence[str] | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Return, for each value, whether it is one of others."""
    others = others if isinstance(others, pa.ChunkedArray) else pa.array(others, pa.string())
    return np.asarray(pc.is_in(values, value_set=others))


def _labels(manifest: Manifest, rows: Rows) -> npt.NDArray[np.object_]:
    labels: npt.NDArray[np.object_] = manifest.table["label"].to_numpy()[rows]
    return labels


def _is_elsewhere(
    before: StoredFeatures, old: Rows, after: StoredFeatures, new: Rows
) -> npt.NDArray[np.bool_]:
    """Return, for each image, whether its features lie elsewhere, as they do if the content has changed."""
    (part, row), (new_part, new_row) = _places(before, old), _places(after, new)
    # Changed content gets a row of a new part, so that the place tells without reading an image.
    return np.asarray((part != new_part) | (row != new_row))


def _places(cache: StoredFeatures, rows: Rows) -> tuple[npt.NDArray[np.str_], Rows]:
    """Return the part of the data set and the row in the part, for each image."""
    # All members of joined features have the same images in the same parts.
    one = next(iter(members_of(cache).values()))
    if isinstance(one, FeatureView):
        version = one.version
        return np.array(version.parts)[version.part[rows]], version.part_row[rows]
    return np.full(len(rows), cache.dataset), rows


def _sides(run: Run, new: Manifest, fresh: Rows, kept: dict[str, Rows]) -> tuple[Rows, Rows]:
    """Return which of the new images train and which test."""
    options = run.row_options
    if len(fresh) == 0:
        return fresh, fresh
    if run.record.split.rule.startswith(NAMED):
        # The manifest named the sides of the old images and names those of the new ones.
        split = split_manifest(
            new,
            val=options.val,
            group_by=options.grouped_by,
            seed=options.seed,
            decisions=run.decisions,
            task=run.record.task_name,
        )
        return np.intersect1d(split.train, fresh), np.intersect1d(split.test, fresh)
    keys, old_sides = run.keys(new), kept
    if keys is None:
        # Without groups the key of a row is its id, and no row of the old run has the id of a new image.
        keys, old_sides = new.ids, {}
    side_of = {keys[row]: side for side, rows in old_sides.items() for row in rows.tolist()}
    open_rows = np.array([row for row in fresh if keys[row] not in side_of], dtype=np.int64)
    # New images are drawn by the rule of the run, so that the share of test images stays what was asked
    # for.
    is_test = held_out(
        [new.ids[row] for row in open_rows],
        [str(new.labels[row]) for row in open_rows],
        seed=options.seed,
        test_fraction=options.test_fraction,
        groups=[keys[row] for row in open_rows],
        task=run.record.task_name,
    )
    # A group that trains must not be tested, also not by images that came later.
    decided = [row for row in fresh if side_of.get(keys[row]) == "test"]
    test = np.sort(np.concatenate([open_rows[is_test], np.array(decided, dtype=np.int64)]))
    return np.setdiff1d(fresh, test), test
