"""Rows are chosen by one function, whichever command asks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from toptune.store import InputError, Manifest
from toptune.train.rows.chosen_rows import choose_rows
from toptune.train.rows.options import RowOptions

LABELS = ["a", "b"] * 50
IDS = [f"g{row // 2}_{row}" for row in range(100)]


def manifest(splits: Sequence[str | None] = (None,) * 100) -> Manifest:
    return Manifest.from_columns(ids=IDS, labels=LABELS, splits=splits, sizes=[1] * 100)


def test_rows_know_their_classes_groups_and_labels() -> None:
    rows = choose_rows(manifest(), RowOptions(group_by="^(g[0-9]+)_"), cv=5)
    assert rows.classes == {"a": rows.train_labels.count("a"), "b": rows.train_labels.count("b")}
    assert rows.groups[:4] == ["g0", "g0", "g1", "g1"]
    assert rows.train_groups == [f"g{row // 2}" for row in rows.split.train.tolist()]
    assert choose_rows(manifest(), RowOptions(), cv=5).groups == IDS


@pytest.mark.parametrize(
    ("splits", "options", "notes"),
    [
        (
            ["train"] * 80 + ["test"] * 20,
            {"test_fraction": 0.5},
            ["test_fraction is not used: the data set names"],
        ),
        (
            ["train"] * 80 + ["val"] * 20,
            {"test_fraction": 0.5, "val": "drop"},
            ["not used: 20 labeled images"],
        ),
        ([None] * 100, {"val": "test"}, ["val 'test' is not used: the data set has no split val"]),
        (
            ["train"] * 80 + ["val"] * 20,
            {"resplit": True, "val": "drop"},
            ["val 'drop' is not used: the split is"],
        ),
        ([None] * 100, {"resplit": True}, ["resplit is not used: the data set has no split of its own"]),
        ([None] * 100, {}, []),
    ],
)
def test_rows_and_options_without_use_are_told(
    splits: list[str | None], options: dict[str, Any], notes: list[str]
) -> None:
    found = choose_rows(manifest(splits), RowOptions(**options), cv=5).notes
    assert len(found) == len(notes)
    assert all(note.startswith(start) for note, start in zip(found, notes, strict=True))


def test_copies_across_the_split_are_counted() -> None:
    splits = ["train"] * 80 + ["test"] * 20
    digests = np.arange(3200, dtype=np.int64).reshape(100, 32).astype(np.uint8)
    digests[:, :2] = np.stack([np.arange(100), np.full(100, 7)], axis=1)
    known = np.ones(100, dtype=bool)

    def notes(**options: Any) -> list[str]:
        return choose_rows(manifest(splits), RowOptions(), cv=5, digests=(digests, known), **options).notes

    assert notes() == []
    digests[[90, 95, 96]] = digests[3]
    digests[4] = digests[5]  # a copy within the training rows is no leak
    digests[[6, 97]] = 0  # images that could not be read
    digests[98], known[98] = digests[7], False
    (found,) = notes()
    assert found.startswith("leak: 3 test images of 20 have the same bytes as a training image")
    # No test row is read in a cross-validation, but the manifest names the test rows all the same.
    assert notes(needs_test=False) == [found]


def test_failed_rows_go_before_the_sample_is_drawn() -> None:
    failed = {0: "truncated", 2: "truncated"}
    with pytest.raises(InputError, match="2 of the images to train and test on"):
        choose_rows(manifest(splits=["train"] * 90 + ["test"] * 10), RowOptions(), cv=5, failed=failed)
    options = RowOptions(allow_failed=True, train_size=20)
    rows = choose_rows(manifest(), options, cv=5, failed=failed)
    assert len(rows.split.train) == 20
    assert rows.n_skipped == 2
    assert not np.isin([0, 2], np.concatenate([rows.split.train, rows.split.test])).any()


def test_test_rows_that_nobody_reads_may_have_failed() -> None:
    named = manifest(splits=["train"] * 90 + ["test"] * 10)
    rows = choose_rows(named, RowOptions(), cv=5, failed={95: "truncated"}, needs_test=False)
    assert (len(rows.split.train), len(rows.split.test), rows.n_skipped) == (90, 0, 0)


def test_rows_found_bad_later_are_left_out_and_the_rest_is_checked_anew() -> None:
    rows = choose_rows(manifest(), RowOptions(allow_failed=True), cv=5)
    bad = rows.split.train[:3]
    fewer = rows.without(bad)
    assert fewer.n_skipped == 3
    assert sum(fewer.classes.values()) == len(rows.split.train) - 3
    of_a = np.array([row for row in rows.split.train if LABELS[row] == "a"])
    with pytest.raises(InputError, match="one class only"):
        rows.without(of_a)
    with pytest.raises(InputError, match="not finite"):
        choose_rows(manifest(), RowOptions(), cv=5).without(bad)


def test_advice_on_labels_that_are_numbers_names_their_column() -> None:
    ages = [f"{row % 3}.5" for row in range(100)]
    rows = Manifest.from_columns(ids=IDS, labels=LABELS, sizes=[1] * 100, extra={"age in days": ages})
    (note,) = choose_rows(
        Manifest.relabeled(rows, "age in days"), RowOptions(label_column="age in days"), cv=5
    ).notes
    assert "train --task regression --target 'age in days' learns numbers" in note
    (note,) = choose_rows(Manifest.relabeled(rows, "age in days"), RowOptions(), cv=5).notes
    assert "--target label learns" in note


def test_a_question_mark_among_zeros_and_ones_is_told() -> None:
    def notes(labels: Sequence[str]) -> list[str]:
        there = Manifest.from_columns(ids=IDS, labels=labels, sizes=[1] * 100)
        return list(choose_rows(there, RowOptions(test_fraction=0.2), cv=5).notes)

    (note,) = notes(["0", "1", "?", "1"] * 25)
    assert note.startswith("label '?' of 20 training images is a class of its own beside '0', '1'")
    assert "empty these cells in the manifest and extract with --update" in note
    assert notes(["0", "1"] * 50) == notes(["cat", "?"] * 50) == []
