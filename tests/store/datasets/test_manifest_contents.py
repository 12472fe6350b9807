"""Classes, splits and images without a label, counted."""

from collections.abc import Sequence

import pytest

from toptune.store import Manifest
from toptune.store.datasets.contents import count_contents


@pytest.mark.parametrize(
    ("labels", "splits", "text"),
    [
        (["a", "b", "a"], [None] * 3, "2 classes (a 2, b 1)"),
        (["a", "a", "a"], ["train", "train", "test"], "1 class (a 3); test 1, train 2"),
        (
            ["a", None, "b"],
            ["train", "test", None],
            "2 classes (a 1, b 1); test 1, train 1, no split 1; 1 without a label",
        ),
        ([None] * 3, [None] * 3, "0 classes; 3 without a label"),
    ],
)
def test_counts_are_told(labels: Sequence[str | None], splits: Sequence[str | None], text: str) -> None:
    manifest = Manifest.from_columns(ids=["1", "2", "3"], labels=labels, splits=splits, sizes=[1, 1, 1])
    assert str(count_contents(manifest)) == text


def test_a_image_with_several_labels_is_not_without() -> None:
    manifest = Manifest.from_columns(
        ids=["1", "2", "3"], labels=["a", None, None], sizes=[1, 1, 1], extra={"labels": ["a", "a|b", None]}
    )
    contents = count_contents(manifest)
    assert (contents.n_classes, contents.splits, contents.n_unlabelled) == (2, {"": 3}, 1)


def test_several_labels_none_and_unknown_ones_are_counted() -> None:
    labels = ["a|b", "a", "", "?", "b|?c", None]
    manifest = Manifest.from_columns(
        ids=[*"123456"], labels=[None] * 6, sizes=[1] * 6, extra={"labels": labels}
    )
    told = "2 labels (a 2, b 2); an image may have several, 1 have none; 2 unknown"
    assert str(count_contents(manifest)) == told


def test_of_many_classes_the_largest_and_the_smallest_are_named() -> None:
    labels = [f"class {number:02}" for number in range(12) for _ in range(20 - number)]
    ids = [str(number) for number in range(len(labels))]
    contents = count_contents(Manifest.from_columns(ids=ids, labels=labels, sizes=[1] * len(ids)))
    assert list(contents.largest.items()) == [(f"class {number:02}", 20 - number) for number in range(10)]
    assert contents.smallest == {"class 11": 9}
    assert str(contents).startswith("12 classes (the largest: class 00 20, class 01 19, ")
    assert str(contents).endswith(", class 09 11; the smallest: class 11 9)")
