"""Folds that know the labels: rows, or whole groups, are ranked by a hash and dealt out class by class.

The rule, which all heads, searches and comparisons share:

1. Groups come in the order of their size, large ones first; groups of one size in the order of their class
   (the first by name, of several); and those of one class in the order of a hash of the group's key. Without
   groups the key of a row is its id, and every row is a group.
2. Each group goes whole to the fold that has fewest rows of its classes. Of several classes in a group each
   counts by ``rows here / rows of the class`` squared, so that a rare class is spread before a frequent one.
   Among such folds the one with fewest rows in all is taken, and then the first.

Rows that are groups by themselves are thereby dealt out like cards: in any two folds the rows of a class
differ by at most one, and so do all rows. The order of the rows has no effect, and rows that have a fold
already (of a run that is updated) keep it: the rule goes on where they are.

A class whose rows all lie in one fold cannot be predicted by a fit without that fold. Such rows take no part
in cross-validation, neither in the fits without a fold nor in left-out figures; the final fit has them.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from toptune.errors import FoldsError, InputError
from toptune.text import counted, named
from toptune.train.rows.splits import hash_of
from toptune.train.tasks.stratification import spread

Numbers = npt.NDArray[np.int64]

# A value of `cv` in place of a number of folds: every group of rows is a fold of its own.
LEAVE_ONE_GROUP_OUT = "leave-one-group-out"
# Every fold keeps sums of its own in memory, so that many folds are refused.
MAX_GROUPS = 100
# Shares are compared in whole numbers of this unit, because sums of floats would break ties differently from
# machine to machine.
_UNIT = 2**40
_SHOWN = 5


class FoldsReducedWarning(UserWarning):
    """Cross-validation has fewer folds than were asked for, or leaves out rows whose class is in one fold."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Folds:
    """The folds of the training rows.

    Attributes
    ----------
    numbers : ndarray of int64, shape (n,)
        Fold of each row, 0 to count - 1.
    count : int
        Number of folds; 1 where nothing is left out.
    is_validated : ndarray of bool, shape (n,)
        Whether the row takes part in cross-validation, because its class has rows in another fold too.
    notes : tuple of str
        What a user should know.
    """

    numbers: Numbers
    count: int
    is_validated: npt.NDArray[np.bool_]
    notes: tuple[str, ...] = ()

    @property
    def places(self) -> Numbers:
        """Fold of each row (n,), or `count` for a row that takes no part in cross-validation."""
        return np.where(self.is_validated, self.numbers, self.count)

    def warn(self) -> None:
        """Give the notes as Python warnings, for whoever fits an estimator directly."""
        for note in self.notes:
            warnings.warn(note, FoldsReducedWarning, stacklevel=3)


def draw_folds(
    codes: Numbers,
    classes: npt.NDArray[np.generic],
    *,
    cv: int | str | None,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> Folds:
    """Deal the training rows out over folds, by the rule of this module.

    Parameters
    ----------
    codes : ndarray of int64, shape (n,)
        Position of the class of each row in `classes`.
    classes : ndarray, shape (n_classes,)
        Names, sorted.
    cv : int, "leave-one-group-out" or None
        Number of folds; or every group is a fold; or all rows are one fold, and no row is left out. There are
        no more folds than the largest class has groups.
    seed : int
        Seed of the order of rows without groups.
    groups : sequence of str, optional
        Id or group of each row.

    Raises
    ------
    InputError
        For ``cv`` below 2, groups of another number than rows, or where fewer than two classes have rows in
        more than one fold.

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.array([0, 0, 0, 0, 1, 1, 2])
    >>> folds = draw_folds(codes, np.array(["cat", "dog", "owl"]), cv=2, groups=list("abcdefg"))
    >>> np.bincount(folds.numbers[codes == 0]).tolist(), np.bincount(folds.numbers[codes == 1]).tolist()
    ([2, 2], [1, 1])
    >>> folds.is_validated.tolist()
    [True, True, True, True, True, True, False]
    """
    n = len(codes)
    if cv is None:
        return Folds(numbers=np.zeros(n, dtype=np.int64), count=1, is_validated=np.ones(n, dtype=np.bool_))
    if groups is not None and len(groups) != n:
        raise InputError(f"groups has {len(groups)} entries for {n} rows; give one a row")
    if isinstance(cv, str):
        if cv != LEAVE_ONE_GROUP_OUT:
            raise InputError(f"cv is {cv!r}; it must be a number of folds or {LEAVE_ONE_GROUP_OUT!r}")
        if groups is None:
            raise InputError(f"{LEAVE_ONE_GROUP_OUT} needs the group of each of the {n} rows; none given")
        numbers, count = folds_of_groups(list(map(str, groups)))
        return validated(numbers, count, codes, classes)
    ranks = _ranks(n, groups, seed=seed)
    # A row of the table is a class in a group; so many groups does each class have.
    of_group = np.unique(np.stack([codes, ranks]), axis=1)[0]
    count, notes = usable_folds(int(np.bincount(of_group).max()), cv)
    numbers = deal(codes, ranks, count=count, n_classes=len(classes))
    return validated(numbers, count, codes, classes, notes)


def draw_strata_folds(
    rows: npt.NDArray[np.signedinteger],
    codes: npt.NDArray[np.signedinteger],
    *,
    n: int,
    cv: int | str | None,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    known: Numbers | None = None,
) -> Folds:
    """Spread rows that are in several strata each evenly over folds; every row takes part.

    Parameters
    ----------
    rows, codes : ndarray of int, shape (m,)
        The strata; see `toptune.train.tasks.task.Task.strata`.
    n : int
        Number of rows.
    cv, seed, groups
        As of `draw_folds`, and so are the errors.
    known : ndarray of int64, shape (n,), optional
        Fold of each row that has one already, and -1.
    """
    everything = np.ones(n, dtype=np.bool_)
    if cv is None:
        return Folds(numbers=np.zeros(n, dtype=np.int64), count=1, is_validated=everything)
    if groups is not None and len(groups) != n:
        raise InputError(f"groups has {len(groups)} entries for {n} rows; give one a row")
    if isinstance(cv, str):
        if cv != LEAVE_ONE_GROUP_OUT or groups is None:
            raise InputError(
                f"cv is {cv!r}; it must be a number of folds, or {LEAVE_ONE_GROUP_OUT!r} with groups"
            )
        numbers, count = folds_of_groups(list(map(str, groups)))
        return Folds(numbers=numbers, count=count, is_validated=everything)
    ranks = _ranks(n, groups, seed=seed)
    n_groups = len(np.unique(ranks))
    if n_groups < 2:
        raise FoldsError(
            f"{counted(n_groups, 'group')} of training rows, and cross-validation needs 2: give more images "
            "(with --group-by: groups)"
        )
    count, notes = usable_folds(n_groups, cv)
    numbers = spread(rows, codes, ranks, shares=[1 / count] * count, known=known)
    return Folds(numbers=numbers, count=count, is_validated=everything, notes=notes)


def validated(
    numbers: Numbers,
    count: int,
    codes: Numbers,
    classes: npt.NDArray[np.generic],
    notes: Sequence[str] = (),
    *,
    may_lack: bool = False,
) -> Folds:
    """Tell which rows take part in cross-validation: those of classes that have rows in two folds or more.

    Raises
    ------
    FoldsError
        If these are fewer than two classes, unless `may_lack`; nothing can then be chosen or calibrated by
        rows that are left out.
    """
    table = np.zeros((len(classes), count), dtype=np.bool_)
    table[codes, numbers] = True
    is_spread = table.sum(axis=1) > 1
    if is_spread.sum() < 2 and not may_lack:
        raise FoldsError(
            f"{int(is_spread.sum())} of {len(classes)} classes have training rows in more than one fold, and "
            "cross-validation needs two such classes: give more images (with --group-by: groups) of each "
            "class; or do without folds: head forest, or ridge or falkon with --cv none, one --penalty and, "
            "for falkon, one --sigma"
        )
    is_validated = is_spread[codes]
    if not is_validated.all():
        aside = [str(name) for name in classes[np.unique(codes[~is_validated])]]
        notes = (
            *notes,
            f"left out of cross-validation: {int((~is_validated).sum())} training rows of {len(aside)} of "
            f"{len(classes)} classes ({named(aside, most=_SHOWN)}), because each such class lies in one "
            "fold; the head is fitted to them, but hyperparameters, temperature and left-out figures are not "
            "theirs: give each class a second image (with --group-by: a second group) [TT312]",
        )
    return Folds(numbers=numbers, count=count, is_validated=is_validated, notes=tuple(notes))


def usable_folds(most: int, cv: int) -> tuple[int, tuple[str, ...]]:
    """Return how many folds to use, and a note where they are fewer than `cv`.

    With more folds than any class has rows, every fold would lack some classes. Few shots of each class then
    make as many folds, each with one row of every class.

    Parameters
    ----------
    most : int
        Rows, or groups, of the largest class.
    cv : int
        Folds asked for.

    Raises
    ------
    InputError
        For ``cv`` below 2.
    """
    if cv < 2:
        raise InputError(f"cv is {cv}; at least 2 folds are needed")
    count = max(2, min(cv, most))
    if count == cv or most < 2:
        return count, ()
    return count, (
        f"{count} folds in place of {cv}, because no class has more than {most} training rows (with "
        "--group-by: groups) [TT311]",
    )


def deal(
    codes: Numbers,
    ranks: Numbers,
    *,
    count: int,
    n_classes: int,
    known: tuple[Numbers, Numbers] | None = None,
) -> Numbers:
    """Return the fold of each row, by the rule of this module.

    Parameters
    ----------
    codes : ndarray of int64, shape (n,)
        Class of each row.
    ranks : ndarray of int64, shape (n,)
        Rank of the row's group by hash, from 0 without gaps; rows of one group have one rank.
    count : int
        Number of folds.
    n_classes : int
    known : (ndarray, ndarray) of int64, optional
        Folds and classes of rows that have a fold already.
    """
    sizes = np.bincount(ranks)
    # Without groups and without known rows the rule deals out in turn, whose answer needs no counting.
    if known is None and len(sizes) == len(codes):
        folds = np.empty(len(codes), dtype=np.int64)
        folds[np.lexsort((ranks, codes))] = np.arange(len(codes)) % count
        return folds
    held = np.zeros((count, n_classes), dtype=np.int64)
    if known is not None:
        np.add.at(held, known, 1)
    of_class = np.maximum(held.sum(axis=0) + np.bincount(codes, minlength=n_classes), 1)
    unit = np.maximum(_UNIT // of_class**2, 1)
    # Rows of the cells (group, class), group by group.
    (of_cell, class_of), members = np.unique(np.stack([ranks, codes]), axis=1, return_counts=True)
    ends = np.cumsum(np.bincount(of_cell, minlength=len(sizes)))
    first_class = class_of[ends - np.bincount(of_cell, minlength=len(sizes))]
    totals = held.sum(axis=1)
    of_group = np.empty(len(sizes), dtype=np.int64)
    for group in np.lexsort((np.arange(len(sizes)), first_class, -sizes)).tolist():
        cells = slice(ends[group - 1] if group else 0, ends[group])
        mine, rows = class_of[cells], members[cells]
        costs = held[:, mine] @ (rows * unit[mine])
        fold = min(range(count), key=lambda at: (costs[at], totals[at], at))
        held[fold, mine] += rows
        totals[fold] += sizes[group]
        of_group[group] = fold
    return of_group[ranks]


def ranks_of(keys: Sequence[str]) -> Numbers:
    """Return the rank (n,) of each key in the order of a hash, from 0 without gaps; equal keys rank alike."""
    # Names are sorted before a stable sort by hash, so that keys of one hash have an order of their own.
    names = sorted(set(keys))
    hashes = np.array([hash_of(0, f"fold\0{key}") for key in names], dtype=np.uint64)
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[np.argsort(hashes, kind="stable")] = np.arange(len(names))
    rank_of = dict(zip(names, ranks.tolist(), strict=True))
    return np.array([rank_of[key] for key in keys], dtype=np.int64)


def _ranks(n: int, groups: Sequence[str] | None, *, seed: int) -> Numbers:
    if groups is not None:
        return ranks_of(list(map(str, groups)))
    ranks: Numbers = np.argsort(np.random.default_rng(seed).permutation(n)).astype(np.int64)
    return ranks


def folds_of_groups(groups: Sequence[str]) -> tuple[Numbers, int]:
    """Return the fold of each row, one fold for each group in the order of the names, and how many there are.

    Raises
    ------
    InputError
        If there are fewer than 2 groups, or more than `MAX_GROUPS`.
    """
    names, folds = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    if not 2 <= len(names) <= MAX_GROUPS:
        raise InputError(
            f"{LEAVE_ONE_GROUP_OUT} has {len(names)} groups to leave out; 2 to {MAX_GROUPS} are possible: "
            "give --group-by, or a number of folds with --cv, over which whole groups are dealt out"
        )
    return folds.astype(np.int64), len(names)


def folds_by_hash(keys: Sequence[str], *, n_folds: int) -> Numbers:
    """Return the folds (n,) of rows by a hash of their keys alone, as runs have before folds knew labels.

    Such a run is updated by the same rule, which needs no stored folds.
    """
    fold_of = {key: hash_of(0, f"fold\0{key}") % n_folds for key in dict.fromkeys(keys)}
    return np.array([fold_of[key] for key in keys], dtype=np.int64)
