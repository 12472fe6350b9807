from collections import Counter
from typing import Any

import numpy as np
import pytest

from toptune.store import InputError, Manifest
from toptune.train import split_manifest
from toptune.train.rows.splits import held_out

IDS = [f"slide{i % 25}_{i:03d}.png" for i in range(200)]
LABELS = [f"class {i * 7 % 4 if i < 150 else 0}" for i in range(200)]


def make(**changes: Any) -> Manifest:
    columns: dict[str, Any] = {"ids": IDS, "labels": LABELS, "splits": [None] * 200, "sizes": [1] * 200}
    return Manifest.from_columns(**{**columns, **changes})


def test_a_fifth_of_each_class_is_held_out() -> None:
    split = split_manifest(make(), seed=3)
    assert sorted([*split.train, *split.test]) == list(range(200))
    total, test = Counter(LABELS), Counter(LABELS[row] for row in split.test)
    assert test == {label: round(0.2 * count) for label, count in total.items()}
    assert "seed 3" in split.rule


def test_split_depends_on_seed_and_ids_only() -> None:
    first = split_manifest(make(), seed=1)
    order = np.random.default_rng(0).permutation(200)
    mixed = split_manifest(make(ids=[IDS[i] for i in order], labels=[LABELS[i] for i in order]), seed=1)
    assert {IDS[row] for row in first.test} == {IDS[order[row]] for row in mixed.test}
    assert set(split_manifest(make(), seed=2).test) != set(first.test)
    # An image added to another class moves nothing of this one.
    more = held_out([*IDS, "new"], [*LABELS, "class 9"], seed=1)
    assert (np.flatnonzero(more) == first.test).all()


@pytest.mark.parametrize("group_by", ["slide", r"^(slide\d+)_"])
def test_groups_stay_on_one_side(group_by: str) -> None:
    manifest = make(extra={"slide": [name.split("_")[0] for name in IDS]})
    split = split_manifest(manifest, group_by=group_by)
    train, test = ({IDS[row].split("_")[0] for row in rows} for rows in (split.train, split.test))
    assert not train & test
    assert 0.1 <= len(split.test) / 200 <= 0.2


def test_manifest_decides_where_it_names_splits() -> None:
    splits = ["train"] * 100 + ["val"] * 40 + ["test"] * 50 + [None] * 10
    split = split_manifest(make(splits=splits))
    assert (len(split.train), len(split.test), split.n_unused) == (140, 50, 10)
    assert len(split_manifest(make(splits=splits), val="drop").train) == 100
    assert len(split_manifest(make(splits=splits), val="test").test) == 90
    assert len(split_manifest(make(splits=splits), resplit=True).test) == 40


def test_training_rows_are_held_out_where_no_test_is_named() -> None:
    split = split_manifest(make(splits=["train"] * 150 + [None] * 50))
    assert (len(split.train), len(split.test), split.n_unused) == (120, 30, 50)


def test_unlabeled_rows_are_counted() -> None:
    split = split_manifest(make(labels=[None] * 20 + LABELS[20:]))
    assert split.n_unlabelled == 20
    assert min([*split.train, *split.test]) == 20


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"labels": [None] * 200}, {}, "no labeled row"),
        ({"labels": [None, *LABELS[1:]], "splits": ["train"] * 200}, {}, "1 training rows have no label"),
        ({"splits": ["training"] * 200}, {}, "unknown split 'training'"),
        ({"splits": ["test"] * 200}, {}, "no labeled row"),
        ({"splits": ["train", "test"] * 100}, {"group_by": "(slide)"}, "both training and test"),
        ({}, {"test_fraction": 1.5}, "1.5"),
        ({}, {"val": "maybe"}, "'maybe'"),
        ({}, {"group_by": "("}, "neither a column"),
        ({}, {"group_by": "slide"}, "no column that was kept"),
        ({}, {"group_by": "(nothing)"}, "does not match 200 ids, for instance"),
    ],
)
def test_bad_input(changes: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_manifest(make(**changes), **options)


@pytest.mark.parametrize("missing", [None, ""])
def test_labeled_rows_without_a_group_are_refused_by_their_number(missing: str | None) -> None:
    slides = [missing if row < 7 else f"slide{row}" for row in range(200)]
    with pytest.raises(InputError, match="7 labeled rows of 200 rows have no value in the column 'slide'"):
        split_manifest(make(extra={"slide": slides}), group_by="slide")
    # Rows without a label neither train nor test, and need no group.
    split = split_manifest(make(labels=[None] * 7 + LABELS[7:], extra={"slide": slides}), group_by="slide")
    assert len(split.train) + len(split.test) == 193
