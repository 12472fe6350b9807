"""Memory that was freed does not count as taken."""

import sys

import pytest

from toptune.machine.memory import left_bytes, taken_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells what a process takes")
def test_names_that_were_read_and_let_go_are_not_held_against_a_limit() -> None:
    import pyarrow as pa

    limit = 64 * 2**30
    before = left_bytes(limit)
    # A list of every second name keeps the C library from giving the pages between them back by itself.
    names = [bytes([number % 256]) * 600 for number in range(100_000)]
    kept = names[::50]
    table = pa.array(names)
    taken = taken_bytes()
    del names, table
    assert before - left_bytes(limit) < 0.5 * (taken - (limit - before)), len(kept)
