"""Splits of a data set into training and test rows, the same for every head and layer."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from toptune.errors import InputError
from toptune.store.datasets.manifest import LABEL_SEPARATOR, LABELS_COLUMN, Manifest
from toptune.text import counted, named
from toptune.train.rows.decisions import Decisions
from toptune.train.rows.groups import row_keys
from toptune.train.rows.options import RowOptions
from toptune.train.tasks.choice import task_of
from toptune.train.tasks.names import AUTO_TASK, CLASSIFICATION, MULTILABEL, REGRESSION
from toptune.train.tasks.stratification import spread
from toptune.train.tasks.task import Task

Rows = npt.NDArray[np.int64]

# The rule of a split that the manifest names begins with these words.
NAMED = "the manifest's own split"


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of a data set that train and that test; both are sorted, and no row is in both.

    Attributes
    ----------
    train, test : ndarray of int64
        Row numbers of the manifest.
    n_unlabelled : int
        Rows in neither, because they have no label.
    n_unused : int
        Labeled rows in neither, because their split is not asked for.
    rule : str
        How the rows were divided, in words.
    n_not_drawn : int
        Training rows left out because only a sample of them was asked for.
    n_excluded : int
        Rows of both sides that were left out because a person decided so.
    """

    train: Rows
    test: Rows
    n_unlabelled: int
    n_unused: int
    rule: str
    n_not_drawn: int = 0
    n_excluded: int = 0


def split_manifest(
    manifest: Manifest,
    *,
    seed: int = 0,
    test_fraction: float = 0.2,
    val: str = "train",
    group_by: str | None = None,
    resplit: bool = False,
    decisions: Decisions | None = None,
    task: str = CLASSIFICATION,
) -> Split:
    """Split the rows of a manifest into training and test rows.

    Where the manifest names splits, rows of ``train`` train, rows of ``test`` test, and rows of ``val`` do
    what `val` says. Without a test split in the manifest, or with `resplit`, a share `test_fraction` of each
    class is held out by a hash of (seed, id), so that the order of the rows has no effect.

    Parameters
    ----------
    manifest : Manifest
        Rows with ids, labels and perhaps splits.
    seed : int
        Seed of the hash; has no effect where the manifest names the splits.
    test_fraction : float
        Share of each class held out, in (0, 1).
    val : {"train", "test", "drop"}
        What rows of the split ``val`` do: train, test, or be left out.
    group_by : str, optional
        An extra column of the manifest, or a regular expression on the id whose first group is the
        key. Rows of equal keys stay on one side.
    resplit : bool
        Draw a new split over all labeled rows even where the manifest names one.
    decisions : Decisions, optional
        Images that are left out after the split, so that the others stay on their sides; and images that are
        kept together, as the rows of a group are. Labels are those of the manifest.
    task : str
        What the labels mean; see `toptune.train.tasks.task.Task`.

    Returns
    -------
    Split

    Raises
    ------
    InputError
        For an unknown split name or option, unlabeled training rows where the manifest names a
        split, a group found on both sides of the manifest's own split, or an empty side.

    Examples
    --------
    >>> from toptune.store import Manifest
    >>> ids = [f"{number}.jpg" for number in range(10)]
    >>> labels = ["cat", "dog"] * 5
    >>> manifest = Manifest.from_columns(ids=ids, labels=labels, splits=[None] * 10, sizes=[1] * 10)
    >>> split = split_manifest(manifest, test_fraction=0.4)
    >>> len(split.train), sorted(labels[row] for row in split.test)
    (6, ['cat', 'cat', 'dog', 'dog'])
    """
    RowOptions(test_fraction=test_fraction, val=val)  # refuses values out of range
    decided = decisions or Decisions()
    groups = row_keys(manifest, group_by=group_by, together=decided.groups)
    is_named = not resplit and any(split is not None for split in manifest.splits)
    has_classes = task in (AUTO_TASK, CLASSIFICATION)
    split = _named(manifest, val, must_be_labeled=has_classes) if is_named else _unsplit(manifest)
    if len(split.train) == 0:
        several = advice_on_several_labels(manifest, _unlabeled(manifest)) if has_classes else ""
        raise InputError(
            f"no labeled row is left to train on among {manifest.n_rows} ({split.rule}); "
            + (several or "check the labels and the split")
        )
    if len(split.test):
        split = _without(split, manifest, decided.excluded)
        if groups is not None:
            _refuse_shared(groups, split, manifest, group_by=group_by)
        return split
    rows = split.train
    is_test = held_out(
        [manifest.ids[row] for row in rows],
        [str(manifest.labels[row]) for row in rows],
        seed=seed,
        test_fraction=test_fraction,
        groups=None if groups is None else [groups[row] for row in rows],
        task=task,
    )
    if groups is not None and not is_test.any():
        raise InputError(
            f"no group is small enough to be held out: {len(set(groups))} groups{_by(group_by)}, and a test "
            f"share of {test_fraction:g} of each class; group more finely or raise the test fraction"
        )
    kept = f", groups{_by(group_by)} kept together" if group_by is not None else ""
    copies = f", {counted(len(decided.groups), 'group')} of copies kept together" if decided.groups else ""
    split = replace(
        split,
        train=rows[~is_test],
        test=rows[is_test],
        rule=f"{test_fraction:g} of each {_stratum(task)} by a hash of (seed {seed}, id){kept}{copies}",
    )
    return _without(split, manifest, decided.excluded)


def held_out(
    ids: Sequence[str],
    labels: Sequence[str],
    *,
    seed: int,
    test_fraction: float = 0.2,
    groups: Sequence[str] | None = None,
    task: str = CLASSIFICATION,
) -> npt.NDArray[np.bool_]:
    """Mark the rows that are held out for testing: a share of each class, in whole groups.

    Groups (or rows, without groups) are taken in the order of a hash of (seed, key). A group that would make
    a class exceed its quota, ``round(test_fraction * members)``, is passed over. The order of the rows has no
    effect. Of other tasks, `toptune.train.tasks.stratification` spreads the strata over both sides.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    keys = list(ids if groups is None else groups)
    if task not in (AUTO_TASK, CLASSIFICATION):
        return _held_out_strata(keys, labels, seed=seed, test_fraction=test_fraction, task=task_of(task))
    members: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        members.setdefault(key, []).append(row)
    quota = {label: round(test_fraction * count) for label, count in Counter(labels).items()}
    is_test = np.zeros(len(keys), dtype=bool)
    for key in sorted(members, key=lambda key: (hash_of(seed, key), key)):
        counts = Counter(labels[row] for row in members[key])
        if all(count <= quota[label] for label, count in counts.items()):
            is_test[members[key]] = True
            for label, count in counts.items():
                quota[label] -= count
    return is_test


def _held_out_strata(
    keys: Sequence[str], labels: Sequence[str], *, seed: int, test_fraction: float, task: Task
) -> npt.NDArray[np.bool_]:
    if not keys:
        return np.zeros(0, dtype=np.bool_)
    rows, codes = task.strata(task.targets(labels, task.names(labels)).values)
    names = sorted(set(keys), key=lambda key: (hash_of(seed, key), key))
    rank_of = {key: rank for rank, key in enumerate(names)}
    ranks = np.array([rank_of[key] for key in keys], dtype=np.int64)
    return np.asarray(spread(rows, codes, ranks, shares=[1 - test_fraction, test_fraction]) == 1)


def _stratum(task: str) -> str:
    """Name the parts of which a split takes equal shares."""
    return {MULTILABEL: "label", REGRESSION: "part of the targets' range"}.get(task, "class")


def hash_of(seed: int, key: str) -> int:
    """Return a 64-bit hash of (seed, key), the same on every machine and in every version."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest(), "little")


def _labeled(manifest: Manifest) -> npt.NDArray[np.bool_]:
    return np.array([label is not None for label in manifest.labels], dtype=bool)


def _unlabeled(manifest: Manifest) -> npt.NDArray[np.int64]:
    return np.flatnonzero(~_labeled(manifest))


def _unsplit(manifest: Manifest) -> Split:
    labeled = _labeled(manifest)
    return Split(
        train=np.flatnonzero(labeled),
        test=np.zeros(0, dtype=np.int64),
        n_unlabelled=int((~labeled).sum()),
        n_unused=0,
        rule="no split",
    )


def _named(manifest: Manifest, val: str, *, must_be_labeled: bool) -> Split:
    labeled = _labeled(manifest)
    names = np.array([split or "" for split in manifest.splits])
    unknown = sorted(set(names.tolist()) - {"train", "val", "test", ""})
    if unknown:
        raise InputError(f"unknown split {unknown[0]!r} in the manifest; use 'train', 'val' or 'test'")
    trains, tests = names == "train", names == "test"
    trains |= (names == "val") & (val == "train")
    tests |= (names == "val") & (val == "test")
    missing = np.flatnonzero(trains & ~labeled)
    # Other tasks leave such rows out: nothing is known of them, or --drop-missing says so.
    if len(missing) and must_be_labeled:
        raise InputError(
            f"{len(missing)} training rows have no label of their own, the first is "
            f"{manifest.ids[missing[0]]!r}: {several}"
            if (several := advice_on_several_labels(manifest, missing))
            else f"{len(missing)} training rows have no label, the first is {manifest.ids[missing[0]]!r}; "
            + _remedy(names[missing])
        )
    return Split(
        train=np.flatnonzero(trains & labeled),
        test=np.flatnonzero(tests & labeled),
        n_unlabelled=int((~labeled).sum()),
        n_unused=int((labeled & ~trains & ~tests).sum()),
        rule=f"{NAMED} (val: {val})",
    )


def _remedy(splits: npt.NDArray[np.str_]) -> str:
    """Say what to do about rows without a label, by their splits."""
    if (splits == "val").all():
        return "all of them are of the split val, which trains by default: leave it out with --val drop"
    n_val = int((splits == "val").sum())
    return (
        "label them, move them to another split, or leave the split out (--label-column names another column "
        "of labels)"
    ) + (f"; --val drop leaves out the {n_val} of the split val" if n_val else "")


def _by(group_by: str | None) -> str:
    return "" if group_by is None else f" by {group_by!r}"


def _without(split: Split, manifest: Manifest, excluded: Collection[str]) -> Split:
    """Leave images out of both sides of a split."""
    if not excluded:
        return split
    rows = np.flatnonzero([image in excluded for image in manifest.ids])
    train, test = (np.setdiff1d(side, rows) for side in (split.train, split.test))
    n_left = len(split.train) + len(split.test) - len(train) - len(test)
    return replace(split, train=train, test=test, n_excluded=n_left)


def _refuse_shared(groups: list[str], split: Split, manifest: Manifest, *, group_by: str | None) -> None:
    """Refuse groups on both sides of a split that the manifest names, which no option moves."""
    shared = {groups[row] for row in split.train} & {groups[row] for row in split.test}
    if not shared:
        return
    if group_by is not None:
        raise InputError(
            f"{counted(len(shared), 'group')} with rows in both training and test split of the manifest: "
            f"{named(sorted(shared))}; correct the manifest's split, draw another one (--resplit), or "
            "leave --group-by and --answer-by out"
        )
    crossing = [manifest.ids[row] for row in split.train.tolist() if groups[row] in shared]
    raise InputError(
        f"{counted(len(shared), 'group')} of copies with images in both training and test split of the data "
        f"set, of which {named(crossing)} train; exclude these (--exclude), draw another split (--resplit), "
        "or leave --keep-together out",
        option="keep_together",
    )


def advice_on_several_labels(manifest: Manifest, rows: npt.NDArray[np.int64]) -> str:
    """Say which of some rows have several labels, and what to do; an empty text if no row has several.

    Parameters
    ----------
    manifest : Manifest
    rows : array (m,) of int
        Rows without a label.

    Returns
    -------
    str
        A sentence, or an empty text.
    """
    if LABELS_COLUMN not in manifest.extra_names:
        return ""
    joined = manifest.column(LABELS_COLUMN)
    several = [row for row in rows.tolist() if LABEL_SEPARATOR in (joined[row] or "")]
    if not several:
        return ""
    first = several[0]
    return (
        f"{counted(len(several), 'image')} with several labels, for instance {manifest.ids[first]!r} with "
        f"{joined[first]!r}; this head takes one label an image: train with --task multilabel, or "
        "give each image one where the labels stand (for instance in a manifest's column 'label') and "
        "extract with --update, which computes nothing anew for labels"
    )
