"""What ``--layers upper`` means for networks of tokens and of maps, and beside other layers."""

import pytest

from toptune.extract import Tap, load_backbone, named_layers
from toptune.extract.backbone.upper_half import split_upper, upper_arrays, upper_blocks


@pytest.mark.parametrize(
    ("n_blocks", "indices"),
    [
        (0, []), (1, [0]), (2, [0, 1]), (3, [1, 2]), (4, [1, 2, 3]), (5, [2, 3, 4]), (7, [3, 4, 5, 6]),
        (12, [5, 7, 9, 11]), (24, [11, 15, 19, 23]),
    ],
)  # fmt: skip
def test_four_blocks_at_equal_distances_end_with_the_last(n_blocks: int, indices: list[int]) -> None:
    assert upper_blocks([f"blocks.{i}" for i in range(n_blocks)]) == [f"blocks.{i}" for i in indices]


def tokens(name: str, default: str = "cls") -> Tap:
    return Tap(name, "tokens", (17, 8), default, n_prefix=1, has_class_token=True, grid=(4, 4))


def as_map(name: str, channels: int = 8, side: int = 4) -> Tap:
    return Tap(name, "map", (channels, side, side), "mean", grid=(side, side))


LAST = Tap("last", "vector", (8,), "none")


@pytest.mark.parametrize(
    ("blocks", "names"),
    [
        ([tokens("a"), tokens("b")], "a.cls a.mean b.mean last.none"),
        ([tokens("a", "mean"), tokens("b", "mean")], "a.cls a.mean b.cls last.none"),
        ([as_map("a"), as_map("b")], "a.mean b.grid2 last.none"),
        ([as_map("a"), as_map("b", channels=3)], "a.mean b.mean b.grid2 last.none"),
        ([as_map("a"), as_map("b", side=1)], "a.mean last.none"),
        ([Tap("a", "vector", (5,), "none")], "a.none last.none"),
        ([], "last.none"),
    ],
)
def test_poolings_by_kind_of_layer(blocks: list[Tap], names: str) -> None:
    assert " ".join(array.name for array in upper_arrays(blocks, LAST)) == names


@pytest.mark.parametrize(
    ("layers", "rest", "is_there"),
    [
        ("upper", "", True),
        ("upper, 3,", " 3,", True),
        ("3", "3", False),
        (["upper", -1], [-1], True),
        (2, 2, False),
    ],
)
def test_the_word_among_others(layers: object, rest: object, is_there: bool) -> None:
    assert split_upper(layers) == (rest, is_there)  # type: ignore[arg-type]


def test_a_network_resolves_it_alone_beside_others_and_with_a_pooling() -> None:
    backbone = load_backbone("random:test_vit", img_size=32)
    alone = [array.name for array in backbone.resolve()]
    assert alone == [array.name for array in named_layers(backbone.taps)["upper"]]
    assert alone[-3:] == ["blocks.4.mean", "blocks.5.mean", "last.none"]
    assert [array.name for array in backbone.resolve("blocks.0, upper, blocks.5")] == [
        "blocks.0.cls", *alone[:-2], "blocks.5.cls", *alone[-2:]
    ]  # fmt: skip
    assert [array.name for array in backbone.resolve("upper", "max")] == [
        *(f"blocks.{i}.max" for i in (2, 3, 4, 5)), "last.none"
    ]  # fmt: skip
