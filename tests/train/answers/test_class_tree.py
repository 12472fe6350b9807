"""Trees of classes: read from files and columns, refused where they are none, and summed along."""

from pathlib import Path

import numpy as np
import pytest

from toptune.errors import CorruptError, InputError
from toptune.store import Manifest
from toptune.train.answers.class_tree import ClassTree

CLASSES = ["cat", "dog", "oak"]
LINES = "class,parent\ncat,mammal\ndog,mammal\noak,plant\nmammal,animal\nanimal,\nplant,\n"
PROBABILITIES = np.array([[0.5, 0.4, 0.1], [0.3, 0.25, 0.45], [0.2, 0.1, 0.7]])


@pytest.fixture
def tree(tmp_path: Path) -> ClassTree:
    (tmp_path / "tree.csv").write_text(LINES)
    return ClassTree.of_file(tmp_path / "tree.csv", CLASSES)


def test_probabilities_add_up_along_the_tree(tree: ClassTree) -> None:
    sums = dict(zip(tree.nodes, tree.sums(PROBABILITIES).T.tolist(), strict=True))
    assert sums["mammal"] == pytest.approx([0.9, 0.55, 0.3])
    assert sums["animal"] == sums["mammal"]
    assert sums["plant"] == sums["oak"] == pytest.approx([0.1, 0.45, 0.7])


def test_the_deepest_class_is_answered_that_is_sure_enough(tree: ClassTree) -> None:
    assert [name for name, _ in tree.back_off(PROBABILITIES, 0.5)] == ["cat", "mammal", "oak"]
    assert [name for name, _ in tree.back_off(PROBABILITIES, 0.6)] == ["mammal", None, "oak"]
    assert [name for name, _ in tree.back_off(PROBABILITIES, 0.95)] == [None, None, None]


def test_levels_cut_the_tree_from_the_top(tree: ClassTree) -> None:
    assert [level.names for level in tree.levels] == [
        ("animal", "plant"), ("mammal", "oak"), ("cat", "dog", "oak")
    ]  # fmt: skip
    assert tree.levels[1].sums(PROBABILITIES)[0] == pytest.approx([0.9, 0.1])
    assert tree.levels[2].sums(PROBABILITIES) == pytest.approx(PROBABILITIES)


def test_a_class_may_be_the_parent_of_another(tmp_path: Path) -> None:
    (tmp_path / "tree.json").write_text('{"cat": "dog", "dog": null, "oak": null}')
    tree = ClassTree.of_file(tmp_path / "tree.json", CLASSES)
    sums = dict(zip(tree.nodes, tree.sums(PROBABILITIES)[0].tolist(), strict=True))
    assert sums == pytest.approx({"dog": 0.9, "oak": 0.1, "cat": 0.5})


def test_a_tree_is_written_and_read(tree: ClassTree, tmp_path: Path) -> None:
    tree.write(tmp_path)
    again = ClassTree.read(tmp_path, CLASSES, advice="train again")
    assert again is not None
    assert again.parents == tree.parents
    assert ClassTree.read(tmp_path / "none", CLASSES, advice="train again") is None
    (tmp_path / "class_tree.json").write_text('{"parents": {"cat": 3}}')
    with pytest.raises(CorruptError, match=r"has no parents by class\); train again"):
        ClassTree.read(tmp_path, CLASSES, advice="train again")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("cat,mammal\ndog,mammal\noak,\n", r"gives 'cat' the parent 'mammal', which has no line of its own"),
        (
            "cat,a\na,b\nb,a\ndog,\noak,\n",
            r"has a circle of parents, a -> b -> a; give one",
        ),
        ("cat,cat\ndog,\noak,\n", r"has a circle of parents, cat -> cat"),
        ("cat,\ndog,\n", r"lacks 1 class of the 3 of the run: 'oak'; give lines"),
        ("cat,a\ncat,b\ndog,\noak,\na,\nb,\n", r"gives 'cat' two parents, 'a' and 'b'; leave one of them"),
        ("cat,a,b\n", r"has the line 'cat,a,b' of 3 cells; give lines"),
        ("", r"is empty; give lines"),
        ('{"cat": ["a"]}', r"has \['a'\] for 'cat'; give lines"),
        ('{"cat": ', r"is no JSON that can be read"),
    ],
)
def test_what_is_no_tree_is_told(lines: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "tree.csv").write_text(lines)
    with pytest.raises(InputError, match=told) as raised:
        ClassTree.of_file(tmp_path / "tree.csv", CLASSES)
    assert raised.value.option == "class_tree"


def test_columns_name_the_parents_of_labels(tmp_path: Path) -> None:
    def manifest(genus: list[str]) -> Manifest:
        return Manifest.from_columns(
            ids=["1", "2", "3", "4"], labels=["cat", "cat", "dog", None], sizes=[1] * 4,
            extra={"genus": genus, "family": ["f", "f", "f", "f"]},
        )  # fmt: skip

    tree = ClassTree.of_columns("genus,family", manifest(["felis", "felis", "canis", "?"]), ["cat", "dog"])
    assert tree.parents == {"cat": "felis", "felis": "f", "f": None, "dog": "canis", "canis": "f"}
    with pytest.raises(InputError, match=r"gives 'cat' the parents 'felis' and 'lynx' \(image '2'\)"):
        ClassTree.of_columns("genus", manifest(["felis", "lynx", "canis", "?"]), ["cat", "dog"])
    with pytest.raises(InputError, match=r"no column 'genera'.*; or give a file of parents"):
        ClassTree.of_columns("genera", manifest(["a", "a", "b", "?"]), ["cat", "dog"])
