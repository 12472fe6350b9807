"""What a hundred million images ask of the store: arithmetic, and that nothing reads more than its own."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_store import DIMS, commit, make_manifest, open_empty

from toptune.store import CONTENT_ARRAY, FeatureCache, KnownDigests, Manifest, choose_unit_rows, known_digests
from toptune.store.arrays import ledger
from toptune.store.arrays.units import count_units
from toptune.store.datasets import manifest
from toptune.store.files.reading import read_file

NAMES = [*DIMS, CONTENT_ARRAY]


def test_a_hundred_million_images_of_twelve_layers_make_some_thousand_units() -> None:
    rows, bytes_per_row = 100_000_000, 12 * 768 * 2
    unit_rows = choose_unit_rows(rows, bytes_per_row, 32)
    n_units = count_units(rows, unit_rows)
    assert unit_rows == 8192
    assert n_units == 12_208
    assert n_units * 13 < 200_000  # shards: as many ledger entries until they are packed
    assert unit_rows * bytes_per_row < 2**28  # what a writer holds


class Reads:
    """Counts the ledger entries that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n = 0

        def reading(path: Path) -> bytes:
            self.n += 1
            return read_file(path)

        monkeypatch.setattr(ledger, "read_file", reading)


def fresh(cache: FeatureCache) -> FeatureCache:
    return open_empty(cache.root)


def test_packing_what_is_not_complete_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_empty(tmp_path)
    for unit in range(cache.n_units - 1):
        commit(cache, unit)
    reads, again = Reads(monkeypatch), fresh(cache)
    again.pack_ledgers(NAMES)
    assert reads.n == 0
    commit(again, again.n_units - 1)
    again.pack_ledgers(NAMES)
    assert len(list(again.path.glob("ledger/*/packed.jsonl"))) == len(NAMES)


def test_failures_of_some_units_read_only_theirs(
    complete: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, again = Reads(monkeypatch), fresh(complete)
    everything = again.failed_rows()
    (row,) = everything
    unit = row // again.unit_rows
    again = fresh(complete)
    reads.n = 0
    assert again.failed_rows(["last.cls"], units=[unit]) == everything
    assert again.failed_rows(["last.cls"], units=[u for u in range(again.n_units) if u != unit]) == {}
    assert reads.n == again.n_units


def test_digests_unit_by_unit_are_those_of_all(tmp_path: Path) -> None:
    cache = open_empty(tmp_path)
    for unit in (0, 2):
        commit(cache, unit)
    expected, known = known_digests([cache], cache.n_rows)
    assert 0 < known.sum() < cache.n_rows
    some = KnownDigests([cache])
    for size in (1, 5, cache.unit_rows + 3, cache.n_rows):
        for start in range(0, cache.n_rows, size):
            rows = slice(start, min(start + size, cache.n_rows))
            digests, here = some.of(rows)
            assert np.array_equal(here, known[rows])
            assert np.array_equal(digests, expected[rows])


@pytest.mark.parametrize("cut", [lambda table: table, lambda table: pa.concat_tables([table[:3], table[3:]])])
def test_the_digest_of_images_does_not_depend_on_how_arrow_holds_them(
    cut: Callable[[pa.Table], pa.Table],
) -> None:
    ids = ["a", "b/ü.png", "c" * 40, "日本", "e", "f"]
    sizes = [3, 1, 4, 1, 5, 9]
    whole = Manifest.from_columns(ids=["before", *ids], sizes=[0, *sizes])
    names = [name.encode() for name in ids]
    expected = hashlib.sha256(
        b"toptune pictures 1\n"
        + np.array(sizes, "<i8").tobytes()
        + np.array([len(name) for name in names], "<i8").tobytes()
        + b"".join(names)
    )
    assert Manifest(cut(whole.table[1:])).pictures_digest == expected.hexdigest()


def test_rows_are_taken_in_pieces_where_text_is_too_much_for_one_array(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = make_manifest()
    rows = np.array([26, 0, 13, 13, 5], dtype=np.intp)
    expected = whole.take(rows)
    monkeypatch.setattr(manifest, "_MOST_TEXT", 0)
    monkeypatch.setattr(manifest, "_PIECE_ROWS", 2)
    pieces = whole.take(rows)
    assert pieces.table["id"].num_chunks > 1
    assert pieces.table.equals(expected.table)
    assert pieces.table.schema == whole.table.schema
    assert pieces.differences(expected) == []
    assert whole.take(rows[:0]).n_rows == 0
