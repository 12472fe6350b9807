"""How rows are cut: arithmetic, also for sizes that no test could write."""

import pytest
from hypothesis import given, strategies as st

from toptune.store import InputError, choose_unit_rows, format_units, shard_units
from toptune.store.arrays.units import MAX_UNIT_BYTES, choose_chunk_rows, count_units


@pytest.mark.parametrize("n_rows", [1000, 1797])
@pytest.mark.parametrize("batch_size", [16, 32, 64])
def test_small_sets_have_units_of_about_a_hundred_rows(n_rows: int, batch_size: int) -> None:
    assert 64 <= choose_unit_rows(n_rows, 20_000, batch_size) <= 128


@pytest.mark.parametrize(("n_rows", "low", "high"), [(1_281_167, 200, 1000), (100_000_000, 2000, 10_000)])
def test_large_sets_have_some_thousand_units_of_tens_of_megabytes(n_rows: int, low: int, high: int) -> None:
    bytes_per_row = 2 * 2048
    unit_rows = choose_unit_rows(n_rows, bytes_per_row, 256)
    assert low <= count_units(n_rows, unit_rows) <= high
    assert 2**23 <= unit_rows * bytes_per_row <= 2**28


def test_wide_rows_make_smaller_units() -> None:
    assert choose_unit_rows(10**8, 10**5, 64) * 10**5 <= MAX_UNIT_BYTES
    assert choose_unit_rows(10**8, 10**9, 64) == 64  # never less than one batch


@given(st.integers(1, 10**9), st.integers(1, 10**7), st.integers(1, 5000))
def test_units_are_whole_batches_and_chunks_divide_them(n_rows: int, width: int, batch_size: int) -> None:
    unit_rows = choose_unit_rows(n_rows, width, batch_size)
    assert unit_rows % batch_size == 0 or unit_rows == n_rows < batch_size
    chunk_rows = choose_chunk_rows(unit_rows)
    assert unit_rows % chunk_rows == 0
    assert chunk_rows <= 1024 or chunk_rows == unit_rows


@given(st.integers(0, 10**6), st.integers(1, 300))
def test_shards_are_a_partition(n_units: int, n: int) -> None:
    shards = [shard_units(n_units, i, n) for i in range(n)]
    assert [shard.start for shard in shards] == [0, *(shard.stop for shard in shards[:-1])]
    assert shards[-1].stop == n_units
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_a_shard_may_be_empty() -> None:
    assert [list(shard_units(2, i, 3)) for i in range(3)] == [[], [0], [1]]


@pytest.mark.parametrize(("i", "n"), [(-1, 2), (2, 2), (0, 0)])
def test_shards_that_do_not_exist_are_refused(i: int, n: int) -> None:
    with pytest.raises(InputError, match="count from 0"):
        shard_units(10, i, n)


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_numbers_must_be_positive(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        choose_unit_rows(*numbers)


def test_unit_numbers_are_written_as_ranges() -> None:
    assert format_units([7, 0, 1, 2, 3]) == "0-3, 7"
    assert format_units(range(0, 100, 2)).endswith("and 30 more ranges")
