import numpy as np
import pytest
import torch

from toptune.extract.backbone.pooling import TapValue, pool
from toptune.extract.backbone.taps import MAX_DIM, Tap, select_names, tap_arrays
from toptune.store import InputError

BLOCKS = [f"blocks.{i}" for i in range(4)]
MODULES = ["stem", *(f"blocks.{i}{part}" for i in range(4) for part in ("", ".mlp", ".mlp.fc1")), "head"]
TOKENS = Tap("blocks.0", "tokens", (5, 8), "cls", n_prefix=1, has_class_token=True, grid=(2, 2))
MAP = Tap("layer1", "map", (8, 6, 6), "mean", grid=(6, 6))
VECTOR = Tap("last", "vector", (8,), "none")


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("last", ["last"]),
        ("all", [*BLOCKS, "last"]),
        ("2", ["blocks.2", "blocks.3"]),
        (2, ["blocks.2", "blocks.3"]),
        ("2,", ["blocks.2"]),
        ([2], ["blocks.2"]),
        ("-1", ["blocks.3"]),
        ("-1,-3", ["blocks.1", "blocks.3"]),
        ("0,3", ["blocks.0", "blocks.3"]),
        ("0,-4,0", ["blocks.0"]),
        ("2,last", ["blocks.2", "blocks.3", "last"]),
        ("blocks.*.mlp.fc1", [f"blocks.{i}.mlp.fc1" for i in range(4)]),
        ("blocks.[01]", ["blocks.0", "blocks.1"]),
        ("**.fc1, stem", ["stem", *(f"blocks.{i}.mlp.fc1" for i in range(4))]),
        ("head,blocks.1", ["blocks.1", "head"]),
        (["last", "stem"], ["stem", "last"]),
    ],
)
def test_language(layers: str, names: list[str]) -> None:
    assert select_names(layers, indexed=BLOCKS, modules=MODULES) == names


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("5", "n from 1 to 4"),
        ("0", "'0,'"),
        ("0,4", "index 4 is out of range: this model has 4 blocks, -4 to 3"),
        ("blocks.9", "did you mean 'blocks"),
        ("**.fc9", "toptune layers"),
        (" , ", "no layers"),
    ],
)
def test_language_refuses(layers: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        select_names(layers, indexed=BLOCKS, modules=MODULES)


@pytest.mark.parametrize(
    ("layers", "said"), [("0", "write '\\[0\\]'"), ("0,2", "called '0'"), ("9", "by their paths")]
)
def test_numbers_are_no_names_where_nothing_is_counted(layers: str, said: str) -> None:
    plain = ["0", "1", "2"]
    with pytest.raises(InputError, match=f"numbers count blocks, and this model has none; .*{said}"):
        select_names(layers, indexed=[], modules=plain)
    assert select_names("[0],[2],last", indexed=[], modules=plain) == ["0", "2", "last"]


def test_default_poolings() -> None:
    assert [array.name for array in tap_arrays([TOKENS, MAP, VECTOR], None)] == [
        "blocks.0.cls",
        "layer1.mean",
        "last.none",
    ]


def test_several_poolings_leave_vectors_alone() -> None:
    arrays = tap_arrays([MAP, VECTOR], "mean, grid2,max,flatten")
    assert {array.name: array.dim for array in arrays} == {
        "layer1.mean": 8,
        "layer1.grid2": 32,
        "layer1.max": 8,
        "layer1.flatten": 288,
        "last.none": 8,
    }


@pytest.mark.parametrize(
    ("tap", "pooling", "message"),
    [
        (MAP, "cls", "does not fit layer1"),
        (TOKENS, "grid3", "does not fit"),
        (MAP, "none", "does not fit"),
        (VECTOR, "mean", "nothing to pool"),
        (MAP, "median", "unknown pooling 'median'"),
        (MAP, "grid0", "unknown"),
        (
            Tap("big", "map", (64, 112, 112), "mean", grid=(112, 112)),
            "flatten",
            "802816 .*'grid4' leaves 1024",
        ),
    ],
)
def test_poolings_that_cannot_be(tap: Tap, pooling: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tap_arrays([tap], pooling)
    assert MAX_DIM == 200_000


def test_pooling_values() -> None:
    body = torch.randn(3, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    prefix = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(1))
    array = body.numpy()
    as_map, as_tokens = TapValue(body), TapValue(body, prefix, is_tokens=True)
    assert np.allclose(pool(as_map, "mean"), array.mean((2, 3)), atol=1e-6)
    assert np.array_equal(pool(as_map, "max"), array.max((2, 3)))
    assert np.array_equal(pool(as_map, "flatten"), array.reshape(3, -1))
    cells = array.reshape(3, 8, 2, 3, 2, 3).mean((3, 5))
    assert np.allclose(pool(as_map, "grid2"), cells.reshape(3, -1), atol=1e-6)
    assert np.array_equal(pool(as_tokens, "cls"), prefix[:, 0])
    assert np.allclose(pool(as_tokens, "mean"), array.mean((2, 3)), atol=1e-6)
    tokens = np.concatenate([prefix.numpy(), array.reshape(3, 8, 36).transpose(0, 2, 1)], axis=1)
    assert np.array_equal(pool(as_tokens, "flatten"), tokens.reshape(3, -1))


def test_pooled_values_do_not_share_memory_with_the_model() -> None:
    vector = torch.zeros(2, 3)
    out = pool(TapValue(vector), "none")
    vector += 1
    assert out.eq(0).all()
