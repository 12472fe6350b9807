import pytest

from toptune.store import ArraySpec, InputError
from toptune.train import choose_arrays
from toptune.train.layers.stored_layers import by_depth


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


def test_outputs_inside_of_blocks_stand_with_their_block() -> None:
    names = ["last.none", "blocks.10.mean", "blocks.2.mlp.act.mean", "blocks.2.mean", "blocks.2.norm2.mean"]
    assert [each.name for each in by_depth([spec(name) for name in names])] == [
        "blocks.2.mean", "blocks.2.mlp.act.mean", "blocks.2.norm2.mean", "blocks.10.mean", "last.none"
    ]  # fmt: skip
    assert [each.name for each in choose_arrays([spec(name) for name in names], "all")] == names
