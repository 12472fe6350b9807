"""Folds: every class is spread evenly, groups stay whole, and nothing depends on the order of the rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st

from toptune.store import InputError
from toptune.train.rows.folds import deal, draw_folds, folds_by_hash, ranks_of

Numbers = npt.NDArray[np.int64]
# Classes of rows, of which each has at least two so that any number of folds can be dealt.
CODES = st.lists(st.integers(0, 6), min_size=2, max_size=80).map(
    lambda codes: np.unique([*codes, *codes, 0, 0, 1, 1], return_inverse=True)[1].astype(np.int64)
)


def ids(n: int) -> list[str]:
    return [f"image {row}.png" for row in range(n)]


def table_of(codes: Numbers, numbers: Numbers, count: int) -> Numbers:
    """Count the rows of each class in each fold."""
    table = np.zeros((int(codes.max()) + 1, count), dtype=np.int64)
    np.add.at(table, (codes, numbers), 1)
    return table


def slowly(codes: Numbers, keys: Sequence[str], count: int) -> Numbers:
    """Deal out by the rule as it is written, one group after the other."""
    rank = dict(zip(keys, ranks_of(keys).tolist(), strict=True))
    members: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        members.setdefault(key, []).append(row)
    total = np.bincount(codes)
    folds = np.zeros(len(codes), dtype=np.int64)
    held: list[list[int]] = [[] for _ in range(count)]

    def order(key: str) -> tuple[int, int, int]:
        return -len(members[key]), min(int(codes[row]) for row in members[key]), rank[key]

    for key in sorted(members, key=order):
        here = np.bincount(codes[members[key]], minlength=len(total))

        def cost(fold: int, here: Numbers = here) -> tuple[int, int, int]:
            there = np.bincount(codes[held[fold]], minlength=len(total)) if held[fold] else 0 * total
            shares = sum(
                int(a * b) * (2**40 // int(n) ** 2) for a, b, n in zip(here, there, total, strict=True)
            )
            return shares, len(held[fold]), fold

        best = min(range(count), key=cost)
        held[best] += members[key]
        folds[members[key]] = best
    return folds


@settings(max_examples=60, deadline=None)
@given(codes=CODES, cv=st.integers(2, 9), seed=st.integers(0, 3), has_ids=st.booleans())
def test_rows_are_dealt_out_evenly(codes: Numbers, cv: int, seed: int, has_ids: bool) -> None:
    classes = np.unique(codes)
    folds = draw_folds(codes, classes, cv=cv, seed=seed, groups=ids(len(codes)) if has_ids else None)
    assert folds.count == min(cv, int(np.bincount(codes).max()))
    table = table_of(codes, folds.numbers, folds.count)
    assert np.ptp(table, axis=1).max() <= 1
    assert np.ptp(table.sum(axis=0)) <= 1
    assert folds.is_validated.all()


@settings(max_examples=60, deadline=None)
@given(codes=CODES, cv=st.integers(2, 6), n_groups=st.integers(2, 40), seed=st.integers(0, 99))
def test_groups_stay_whole_and_order_has_no_effect(codes: Numbers, cv: int, n_groups: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys = [f"slide {number}" for number in rng.integers(0, n_groups, len(codes))]
    n_classes = int(codes.max()) + 1
    folds = deal(codes, ranks_of(keys), count=cv, n_classes=n_classes)
    assert len(set(zip(keys, folds.tolist(), strict=True))) == len(set(keys))
    assert folds.tolist() == slowly(codes, keys, cv).tolist()
    order = rng.permutation(len(codes))
    again = deal(codes[order], ranks_of([keys[row] for row in order]), count=cv, n_classes=n_classes)
    assert again.tolist() == folds[order].tolist()


@settings(max_examples=40, deadline=None)
@given(codes=CODES, sizes=st.lists(st.integers(1, 5), min_size=4, max_size=30), cv=st.integers(2, 5))
def test_groups_of_one_class_are_spread_as_evenly_as_groups_can_be(
    codes: Numbers, sizes: list[int], cv: int
) -> None:
    of_group = np.resize(codes, len(sizes))
    of_group = np.unique(of_group, return_inverse=True)[1].astype(np.int64)
    rows = np.repeat(of_group, sizes)
    keys = [f"group {number}" for number in np.repeat(np.arange(len(sizes)), sizes)]
    folds = deal(rows, ranks_of(keys), count=cv, n_classes=int(of_group.max()) + 1)
    table = table_of(rows, folds, cv)
    largest = np.array([max(np.array(sizes)[of_group == each]) for each in range(len(table))])
    assert (np.ptp(table, axis=1) <= largest).all()


@settings(max_examples=40, deadline=None)
@given(codes=CODES, cv=st.integers(2, 5), n_known=st.integers(0, 60), seed=st.integers(0, 9))
def test_further_rows_go_to_the_smallest_fold_of_their_class(
    codes: Numbers, cv: int, n_known: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n_classes = int(codes.max()) + 1
    known = rng.integers(0, cv, n_known), rng.integers(0, n_classes, n_known)
    folds = deal(codes, ranks_of(ids(len(codes))), count=cv, n_classes=n_classes, known=known)
    before = table_of(np.append(known[1], n_classes - 1), np.append(known[0], 0), cv)
    before[-1, 0] -= 1
    after = before + table_of(codes, folds, cv)
    for old, new in zip(before, after, strict=True):
        # No fold that got a row has more than one row above the smallest fold.
        assert (new[new > old] <= new.min() + 1).all()


def test_a_rare_class_is_spread_before_a_frequent_one() -> None:
    """Two slides with the only rows of a class go to different folds, whatever else is on the slides."""
    codes = np.array([0] * 30 + [1] * 20 + [2] * 2)
    keys = [f"slide {row % 12}" for row in range(50)] + ["slide 0", "slide 5"]
    folds = deal(codes, ranks_of(keys), count=2, n_classes=3)
    assert set(folds[50:].tolist()) == {0, 1}


def test_classes_in_one_fold_take_no_part() -> None:
    codes, classes = np.array([0, 0, 0, 1, 1, 2, 3, 3]), np.array(["ant", "bee", "cat", "dog"])
    folds = draw_folds(codes, classes, cv=5, groups=[*"abcdefgg"])
    assert folds.count == 3
    assert folds.is_validated.tolist() == [True] * 5 + [False] * 3
    assert (folds.places[5:] == 3).all()
    assert folds.places[:5].tolist() == folds.numbers[:5].tolist()
    fewer, aside = folds.notes
    assert "3 folds in place of 5, because no class has more than 3" in fewer
    assert "3 training rows of 2 of 4 classes ('cat', 'dog')" in aside


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cv": 1}, "cv is 1; at least 2"),
        ({"cv": "loo"}, "cv is 'loo'"),
        ({"cv": 2, "groups": ["a"] * 3}, "3 entries for 4 rows"),
        ({"cv": "leave-one-group-out"}, "needs the group of each of the 4 rows"),
        ({"cv": "leave-one-group-out", "groups": ["a"] * 4}, "1 groups to leave out; 2 to 100"),
        ({"cv": "leave-one-group-out", "groups": ["a", "a", "b", "b"]}, "0 of 2 classes"),
        (
            {"cv": 2, "groups": ["a", "a", "b", "c"]},
            "1 of 2 classes have training rows in more than one fold",
        ),
    ],
)
def test_what_cannot_be_cross_validated_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_folds(np.array([0, 0, 1, 1]), np.array(["ant", "bee"]), **options)


def test_without_folds_every_row_is_in_one() -> None:
    folds = draw_folds(np.array([0, 1, 1]), np.array(["ant", "bee"]), cv=None)
    assert (folds.count, folds.numbers.tolist(), folds.notes) == (1, [0, 0, 0], ())


def test_old_runs_have_folds_by_hash() -> None:
    names = [f"slide{row % 25}_{row:03d}.png" for row in range(200)]
    folds = folds_by_hash(names, n_folds=5)
    assert folds_by_hash(names[50:], n_folds=5).tolist() == folds[50:].tolist()
    # Folds that an older toptune gave these rows.
    assert folds[:12].tolist() == [1, 2, 0, 4, 0, 0, 2, 4, 1, 0, 4, 2]
    assert np.bincount(folds).min() > 20
