"""The contract of Blocks, for every implementation: any block size gives the same."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from grown_store import make_grown
from hypothesis import given, settings, strategies as st
from small_store import DIMS, N_ROWS, UNIT_ROWS, features

from toptune.store import ArrayBlocks, Blocks, FeatureCache, FeatureStore
from toptune.store.features.blocks import IndexedBlocks
from toptune.store.files.local_place import LocalPlace
from toptune.store.joined.joined_features import JoinedFeatures

NAMES = ["layer4.mean", "last.cls"]
SCATTERED = [20, 3, 26, 3, 0, 14, 15, 16]


def truth() -> npt.NDArray[np.float32]:
    values = np.concatenate([features(name) for name in NAMES], axis=1)
    values[13] = np.nan
    return values


@pytest.fixture(scope="module")
def cache(template: Path) -> FeatureCache:
    return FeatureStore.open(template).cache("resnet10t.demo", "pets")


Make = Callable[[FeatureCache], tuple[Blocks, npt.NDArray[np.float32]]]
IMPLEMENTATIONS: dict[str, Make] = {
    "array": lambda _: (ArrayBlocks(truth()), truth()),
    "cache": lambda cache: (cache.blocks(NAMES), truth()),
    "rows of a cache": lambda cache: (cache.blocks(NAMES, SCATTERED), truth()[SCATTERED]),
    "one array": lambda cache: (cache.blocks(["last.cls"], np.arange(5, 20)), truth()[5:20, 5:]),
    "no rows": lambda cache: (cache.blocks(NAMES, []), truth()[:0]),
}


@pytest.fixture(params=IMPLEMENTATIONS)
def pair(request: pytest.FixtureRequest, cache: FeatureCache) -> tuple[Blocks, npt.NDArray[np.float32]]:
    return IMPLEMENTATIONS[request.param](cache)


def joined(blocks: Blocks, block_rows: int | None) -> npt.NDArray[np.float32]:
    parts = [np.empty((0, blocks.shape[1]), blocks.dtype)]
    end = 0
    for rows, values in blocks.iterate(block_rows):
        assert rows.start == end
        assert values.shape == (rows.stop - rows.start, blocks.shape[1])
        assert values.dtype == blocks.dtype
        assert block_rows is None or len(values) <= block_rows
        end = rows.stop
        parts.append(values)
    assert end == blocks.shape[0]
    return np.concatenate(parts)


@pytest.mark.parametrize("block_rows", [None, 1, 2, 7, UNIT_ROWS, UNIT_ROWS + 1, N_ROWS, 1000])
def test_any_block_size_gives_the_same(
    pair: tuple[Blocks, npt.NDArray[np.float32]], block_rows: int | None
) -> None:
    blocks, expected = pair
    assert isinstance(blocks, Blocks)
    assert blocks.shape == expected.shape
    np.testing.assert_array_equal(joined(blocks, block_rows), expected)
    np.testing.assert_array_equal(joined(blocks, block_rows), expected)  # and again from the start


def test_two_iterations_at_once(pair: tuple[Blocks, npt.NDArray[np.float32]]) -> None:
    blocks, expected = pair
    for (_, one), (rows, two) in zip(blocks.iterate(3), blocks.iterate(3), strict=True):
        np.testing.assert_array_equal(one, expected[rows])
        np.testing.assert_array_equal(two, expected[rows])


def test_take(pair: tuple[Blocks, npt.NDArray[np.float32]]) -> None:
    blocks, expected = pair
    n = len(expected)
    for rows in ([], list(range(n)), list(range(n))[::-1], [0, 0, n // 2][: 3 * bool(n)]):
        np.testing.assert_array_equal(blocks.take(rows), expected[np.asarray(rows, dtype=int)])


def test_rows_that_do_not_exist(pair: tuple[Blocks, npt.NDArray[np.float32]]) -> None:
    blocks, expected = pair
    for row in (-1, len(expected)):
        with pytest.raises(IndexError, match="count from 0"):
            blocks.take([row])
    for rows in (np.ones(3, bool), [0.5], [[0]]):
        with pytest.raises(TypeError):
            blocks.take(rows)


@pytest.mark.parametrize("block_rows", [0, -3])
def test_block_rows_must_be_positive(pair: tuple[Blocks, npt.NDArray[np.float32]], block_rows: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        list(pair[0].iterate(block_rows))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.integers(0, N_ROWS - 1), max_size=40),
    block_rows=st.integers(1, 45),
    names=st.permutations(NAMES),
    taken=st.lists(st.integers(0, 10**6), max_size=10),
)
def test_rows_and_blocks_of_any_kind(
    cache: FeatureCache, rows: list[int], block_rows: int, names: list[str], taken: list[int]
) -> None:
    blocks = cache.blocks(names, rows)
    expected = np.concatenate(
        [np.where(np.arange(N_ROWS)[:, None] == 13, np.float32(np.nan), features(name)) for name in names],
        axis=1,
    )[rows]
    np.testing.assert_array_equal(joined(blocks, block_rows), expected)
    places = [place % len(rows) for place in taken] if rows else []
    np.testing.assert_array_equal(blocks.take(places), expected[places])


def test_blocks_travel_to_other_processes(pair: tuple[Blocks, npt.NDArray[np.float32]]) -> None:
    blocks: Blocks = pickle.loads(pickle.dumps(pair[0]))
    np.testing.assert_array_equal(joined(blocks, 5), pair[1])


def test_columns_say_where_each_array_stands(cache: FeatureCache) -> None:
    blocks = cache.blocks(NAMES)
    assert blocks.columns == {"layer4.mean": slice(0, 5), "last.cls": slice(5, 8)}
    for name, columns in blocks.columns.items():
        assert columns.stop - columns.start == DIMS[name]


def test_each_unit_is_read_once(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    plain = LocalPlace.read_scattered

    def counted(place: LocalPlace, *arguments: Any, **options: Any) -> None:
        read.append(f"{place.path.parents[2].name}/{place.path.parent.name}")
        plain(place, *arguments, **options)

    blocks = cache.blocks(NAMES)
    monkeypatch.setattr(LocalPlace, "read_scattered", counted)
    blocks.take([20, 3, 21, 4, 25, 3])
    assert sorted(read) == [f"{name}/{unit}" for name in sorted(NAMES) for unit in (0, 2, 3)]
    read.clear()
    for _ in blocks.iterate(3):
        pass
    assert sorted(read) == [f"{name}/{unit}" for name in sorted(NAMES) for unit in range(4)]


def test_blocks_are_indexed_as_an_array(pair: tuple[Blocks, npt.NDArray[np.float32]]) -> None:
    blocks, expected = pair
    assert isinstance(blocks, IndexedBlocks)
    assert len(blocks) == len(expected)
    for dtype in (None, np.float64):
        whole = np.asarray(blocks, dtype=dtype)
        assert whole.dtype == (blocks.dtype if dtype is None else dtype)
        np.testing.assert_array_equal(whole, expected)
    assert repr(blocks).endswith(f"(shape={expected.shape}, dtype={blocks.dtype})")
    mask = np.arange(len(expected)) % 2 == 0
    chosen: list[Any] = [slice(None), slice(3, -1), slice(None, None, -2), slice(5, 2), mask, []]
    for rows in chosen:
        np.testing.assert_array_equal(blocks[rows], expected[rows])
    np.testing.assert_array_equal([*blocks], [*expected])
    if len(expected):
        for row in (0, -1, np.int64(2), [2, -2, 2]):
            np.testing.assert_array_equal(blocks[row], expected[row])


def test_what_is_no_index_of_rows_is_refused(cache: FeatureCache) -> None:
    blocks = cache.blocks(NAMES)
    odds: list[Any] = [(0, 1), None, ..., 1.5, "a", [0.5]]
    for odd in odds:
        with pytest.raises(TypeError, match="row"):
            blocks[odd]
    for outside in (N_ROWS, -N_ROWS - 1, [0, N_ROWS], [-N_ROWS - 1], np.ones(3, dtype=bool)):
        with pytest.raises(IndexError, match=f"{N_ROWS} rows"):
            blocks[outside]
    with pytest.raises(ValueError, match="without a copy"):
        blocks.__array__(copy=False)


def test_several_arrays_are_no_array(cache: FeatureCache, tmp_path: Path) -> None:
    """numpy would make an array of shape () of them, and scikit-learn a message about its shape."""
    grown = make_grown(tmp_path / "store").features("tiny.demo", "pets")
    for stored in (cache, grown, JoinedFeatures({"a": cache, "b": cache})):
        assert len(stored) == stored.n_rows
        assert repr(stored).startswith(f"{type(stored).__name__}('{stored.name}', dataset='pets'")
        assert "\n" not in repr(stored)
        for use in (np.asarray, lambda each: each[0], lambda each: each[:2], list):
            with pytest.raises(TypeError, match=r"stored arrays \(.*\.blocks\(\[NAME\]\) gives rows"):
                use(stored)
