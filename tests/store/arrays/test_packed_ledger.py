"""Entries of a complete array in one file: the same answers, whatever happens in between."""

import os
from pathlib import Path

import numpy as np
import pytest
from small_store import DIMS, commit, features, open_empty, shard_bytes, write_all

from toptune.store import (
    CONTENT_ARRAY,
    CorruptError,
    FeatureCache,
    FeatureStore,
    InputError,
    StoreError,
    collect_garbage,
    find_garbage,
    repair,
    summarize,
    verify,
)
from toptune.store.files.local_place import LocalPlace

NAMES = [*DIMS, CONTENT_ARRAY]


def reopened(cache: FeatureCache) -> FeatureCache:
    return FeatureStore.open(cache.root).cache("resnet10t.demo", "pets")


@pytest.fixture
def packed(complete: FeatureCache) -> FeatureCache:
    complete.pack_ledgers(NAMES)
    return reopened(complete)


def entries_of_their_own(cache: FeatureCache) -> list[Path]:
    return [path for path in cache.path.glob("ledger/*/*.json") if path.name != "array.json"]


def test_the_same_answers_from_one_file(complete: FeatureCache) -> None:
    before = {name: complete.entries(name) for name in NAMES}
    size = summarize(FeatureStore(complete.root))[0].to_dict()
    complete.pack_ledgers(NAMES)
    assert not entries_of_their_own(complete)
    for cache in (complete, reopened(complete)):
        assert {name: cache.entries(name) for name in NAMES} == before
        assert cache.is_complete()
        assert cache.failed_rows() == {13: "truncated JPEG"}
        assert cache.entry("last.cls", 3) == before["last.cls"][3]
        assert cache.entry("last.cls", 0) is not None
    assert summarize(FeatureStore(complete.root))[0].to_dict() == size
    assert verify(FeatureStore(complete.root), deep=True).exit_code == 0
    assert find_garbage(FeatureStore(complete.root)) == []


def test_incomplete_arrays_are_not_packed(root: Path) -> None:
    cache = open_empty(root)
    commit(cache, 1)
    cache.pack_ledgers(NAMES)
    assert len(entries_of_their_own(cache)) == 3
    assert cache.missing_units("last.cls") == [0, 2, 3]


def test_packed_twice_and_by_two(complete: FeatureCache) -> None:
    other = reopened(complete)
    complete.pack_ledgers(NAMES)
    data = (complete.path / "ledger/last.cls/packed.jsonl").read_bytes()
    other.pack_ledgers(NAMES)
    complete.pack_ledgers(NAMES)
    assert (complete.path / "ledger/last.cls/packed.jsonl").read_bytes() == data
    assert other.is_complete()


def test_killed_between_packing_and_removing(complete: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(_: LocalPlace) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalPlace, "free", die)
        with pytest.raises(KeyboardInterrupt):
            complete.pack_ledgers(NAMES)
    cache = reopened(complete)
    assert cache.is_complete()
    assert verify(cache, deep=True).exit_code == 0
    cache.pack_ledgers(NAMES)
    assert not entries_of_their_own(cache)
    assert cache.is_complete()


def test_another_writer_who_saw_nothing_of_it(packed: FeatureCache) -> None:
    before = shard_bytes(packed)
    commit(packed, 0)
    assert not entries_of_their_own(packed)
    assert shard_bytes(packed) == before


def test_a_lost_shard_computed_again_elsewhere(packed: FeatureCache) -> None:
    packed.shard_path("last.cls", 0).unlink()
    assert reopened(packed).missing_units("last.cls") == [0]
    packed.commit_unit(0, {"last.cls": features("last.cls")[:8] + np.float32(0.25)}, seconds=0)
    for cache in (packed, reopened(packed)):
        assert verify(cache, deep=True).exit_code == 0
        assert cache.blocks(["last.cls"]).take([0])[0, 0] == features("last.cls")[0, 0] + 0.25
    packed.pack_ledgers(NAMES)
    assert not entries_of_their_own(packed)
    assert verify(reopened(packed), deep=True).exit_code == 0


def test_a_flipped_bit_costs_one_unit(packed: FeatureCache) -> None:
    before = shard_bytes(packed)
    path = packed.path / "ledger/last.cls/packed.jsonl"
    data = bytearray(path.read_bytes())
    lines = bytes(data).split(b"\n")
    place = len(lines[0]) + 1 + len(lines[1]) + 1 + lines[2].index(b'"sha256":"') + 12
    data[place] ^= 1
    path.write_bytes(data)
    assert reopened(packed).missing_units("last.cls") == [1]
    report = verify(FeatureStore(packed.root))
    assert [where for where, _ in report.damaged] == [str(path)]
    done = repair(packed.root)
    assert done.exit_code == 0
    assert done.dropped == {"resnet10t.demo@d79a95bb/pets/last.cls": [1]}
    cache = write_all(packed.root)
    assert shard_bytes(cache) == before
    assert verify(FeatureStore(packed.root), deep=True).exit_code == 0


@pytest.mark.parametrize("line", [0, 4, 5])
def test_every_line_is_covered(packed: FeatureCache, line: int) -> None:
    path = packed.path / "ledger/layer4.mean/packed.jsonl"
    data = path.read_bytes()
    start = sum(len(each) + 1 for each in data.split(b"\n")[:line])
    stop = start + len(data.split(b"\n")[line]) + 1
    for place in range(start, stop):
        path.write_bytes(data[:place] + bytes([data[place] ^ 2]) + data[place + 1 :])
        assert verify(reopened(packed)).exit_code == 1, place
        assert len(reopened(packed).missing_units("layer4.mean")) <= 2
    path.write_bytes(data[:-20])
    assert verify(reopened(packed)).exit_code == 1


def test_a_damaged_unit_is_repaired_from_a_packed_ledger(packed: FeatureCache) -> None:
    before = shard_bytes(packed)
    path = packed.shard_path("layer4.mean", 2)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptError, match=str(path)):
        packed.blocks(["layer4.mean"]).take([17])
    assert repair(packed.root).dropped == {"resnet10t.demo@d79a95bb/pets/layer4.mean": [2]}
    assert reopened(packed).missing_units("layer4.mean") == [2]
    assert shard_bytes(write_all(packed.root)) == before


def test_leftovers_beside_a_packed_ledger(packed: FeatureCache) -> None:
    from datetime import timedelta

    store = FeatureStore(packed.root)
    (packed.path / "last.cls/c/9").mkdir()
    (packed.path / "last.cls/c/9/0").write_bytes(b"stray")
    items = find_garbage(store, grace=timedelta(0))
    assert [os.path.relpath(item.path, packed.path) for item in items] == ["last.cls/c/9/0"]
    collect_garbage(store, items)
    assert packed.is_complete()


def test_names_are_checked(packed: FeatureCache) -> None:
    with pytest.raises(InputError, match="path separator"):
        packed.missing_units("../x")
    (packed.path / "cache.json").unlink()
    with pytest.raises(StoreError, match="was removed"):
        packed.pack_ledgers(NAMES)
