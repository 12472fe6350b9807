"""A file of any size in the place of one of the store's: nobody takes it into memory, and repair mends it."""

import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_store import KINDS, commit, every_kind, make_manifest, open_empty, shard_bytes, write_all

from toptune.store import CorruptError, FeatureStore, grow, repair, verify
from toptune.store.datasets.versions import read_dataset_version, rows_path, version_path, version_record
from toptune.store.files.place import place_at
from toptune.store.files.reading import MAX_RECORD_BYTES, read_file, read_matching

SIZE = 300 << 20


def swell(path: Path) -> None:
    """Make a file large: zeros that take no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        os.truncate(file.fileno(), SIZE)


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [*KINDS, "packed ledger", "HDF5 metadata", "HDF5 unit"])
def test_repair_asks_sizes_first(root: Path, kind: str) -> None:
    form = "hdf5" if kind.startswith("HDF5") else "zarr"
    cache = write_all(root, format=form)
    if kind == "packed ledger":
        cache.pack_ledgers(["last.cls"])
    path = {
        "packed ledger": cache.ledger("last.cls").packed_path,
        "HDF5 metadata": cache.path / "layer4.mean/all.h5",
        "HDF5 unit": cache.shard_path("last.cls", 2),
    }.get(kind) or every_kind(cache)[kind]
    before = shard_bytes(cache)
    swell(path)
    with little_memory():
        assert [each for each, _ in verify(FeatureStore(root)).damaged] == [str(path)]
        report = repair(root)
    if kind in ("cache", "recipe"):
        assert [each for each, _ in report.left] == [str(path)]
        return
    assert report.exit_code == 0, report
    assert not path.exists() or path.stat().st_size < SIZE
    assert shard_bytes(write_all(root, format=form)) == before


def test_rows_of_a_version(complete: object, root: Path) -> None:
    store = FeatureStore.open(root)
    grow(store, "pets", make_manifest(29))
    digest = version_record(root, "pets", 2).rows_sha256
    rows, record = rows_path(root, "pets", digest), version_path(root, "pets", 2)
    swell(record)
    with little_memory():
        assert repair(root).rebuilt == (str(record),)
    swell(rows)
    with little_memory():
        with pytest.raises(CorruptError, match="differs from what was registered"):
            read_dataset_version(root, "pets", 2)
        assert repair(root).dropped_versions == ("version 2 of data set pets",)
    assert verify(FeatureStore(root)).damaged == ()


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_a_writer_finds_it_in_the_place_of_its_files(root: Path, form: str) -> None:
    """Before anything is in the ledger."""
    cache = open_empty(root, format=form)
    swell(cache.shard_path("last.cls", 0))
    swell(cache.shard_path("content.sha256", 0))
    swell(cache.entry_path("layer4.mean", 0))
    with little_memory():
        commit(cache, 0)
    assert set(cache.entries("last.cls")) == set(cache.entries("layer4.mean")) == {0}


def test_the_limit_is_a_sentence_with_the_next_step(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    swell(path)
    with pytest.raises(CorruptError, match=f"{SIZE} bytes .* {MAX_RECORD_BYTES} at most; run store repair"):
        read_file(path)
    assert read_matching(path, "00" * 32) is None


def test_a_file_that_is_set_aside_is_renamed(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"labels")
    place_at(path).hide()
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith(".tmp-")
    assert aside.read_bytes() == b"labels"
