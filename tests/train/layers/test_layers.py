from dataclasses import replace

import pytest

from toptune.store import ArraySpec, InputError
from toptune.store.arrays.stored_layers import by_depth, tell_choice
from toptune.train import choose_arrays


def spec(name: str) -> ArraySpec:
    return ArraySpec(name=name, dim=4, dtype="float16", unit_rows=8, chunk_rows=8, n_rows=16)


NAMES = ["layer1.0.mean", "layer1.0.max", "layer2.0.mean", "last.pre"]
STORED = [spec(name) for name in NAMES]


@pytest.mark.parametrize(
    ("layers", "pooling", "expected"),
    [
        (None, None, NAMES),
        (None, "max", ["layer1.0.max", "layer2.0.mean", "last.pre"]),
        ("last", None, ["last.pre"]),
        ("last", "mean", InputError),
        ("all", None, NAMES),
        ("all", "mean", ["layer1.0.mean", "layer2.0.mean", "last.pre"]),
        ("layer1.0", "max", ["layer1.0.max"]),
        ("layer1.0", None, InputError),
        ("layer2.0,last", None, ["layer2.0.mean", "last.pre"]),
        (["last", "last*", "layer2.0.mean"], None, ["last.pre", "layer2.0.mean"]),
        (["last", "layer1.0", "last"], "mean", InputError),
        ("layer1.0.mean,last", "cls", InputError),
        ("layer*.mean", None, ["layer1.0.mean", "layer2.0.mean"]),
        ("layer9", None, InputError),
        ("", None, InputError),
    ],
)
def test_choice(layers: str, pooling: str | None, expected: list[str] | type[InputError]) -> None:
    if isinstance(expected, list):
        assert [each.name for each in choose_arrays(STORED, layers, pooling)] == expected
    else:
        with pytest.raises(expected):
            choose_arrays(STORED, layers, pooling)


def test_messages_list_what_there_is() -> None:
    with pytest.raises(InputError, match=r"'layer9' is not in the store; .*hoose one of .*last\.pre"):
        choose_arrays(STORED, "layer9")
    with pytest.raises(InputError, match="poolings mean, max"):
        choose_arrays(STORED, "layer1.0")
    with pytest.raises(InputError, match="add some with toptune extract"):
        choose_arrays([], None)


@pytest.mark.parametrize("layers", ["upper", "last,upper", "3", "-1,-2", ["4"]])
def test_words_of_extract_are_refused_with_what_train_takes(layers: str | list[str]) -> None:
    with pytest.raises(InputError, match=r"a word of toptune extract, .* leave --layers out, or name arrays"):
        choose_arrays(STORED, layers)
    # What is stored under such a name can be named.
    assert [each.name for each in choose_arrays([spec("upper.none"), spec("3.none")], "upper,3")] == [
        "upper.none", "3.none"
    ]  # fmt: skip


def test_the_choice_is_told_with_what_takes_most_of_the_columns() -> None:
    flat = replace(spec("blocks.1.flatten"), dim=1000)
    few, last = [spec("blocks.1.mean"), spec("last.none")], spec("last.none")
    columns = sum(each.dim for each in few)
    told = tell_choice([flat, *few], [flat, *few], is_default=True)
    assert told.startswith(
        f"all 3 stored arrays, {1000 + columns} columns, 1000 of them in blocks.1.flatten; --layers with the "
        "names of others takes fewer; --layers auto"
    )
    assert "of them in" not in tell_choice(few, few, is_default=True)
    assert tell_choice([few[0]], [few[0]], is_default=True) == (
        f"blocks.1.mean, {few[0].dim} columns, and no other is stored"
    )
    assert "toptune extract with --layers upper stores others" in tell_choice([last], [last], is_default=True)


def test_outputs_inside_of_blocks_stand_with_their_block() -> None:
    names = ["last.none", "blocks.10.mean", "blocks.2.mlp.act.mean", "blocks.2.mean", "blocks.2.norm2.mean"]
    assert [each.name for each in by_depth([spec(name) for name in names])] == [
        "blocks.2.mean", "blocks.2.mlp.act.mean", "blocks.2.norm2.mean", "blocks.10.mean", "last.none"
    ]  # fmt: skip
    assert [each.name for each in choose_arrays([spec(name) for name in names], "all")] == names
