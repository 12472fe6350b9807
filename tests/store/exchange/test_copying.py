"""Copies between stores and formats: verified, resumed, equal."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_store import DIMS, commit, make_recipe, open_empty, shard_bytes, write_all

from toptune.store import (
    CONTENT_ARRAY,
    ConflictError,
    CorruptError,
    FeatureCache,
    FeatureStore,
    InputError,
    Manifest,
    Recipe,
    StoreError,
    StoreNotFoundError,
    copy_store,
    import_features,
    verify,
)
from toptune.store.files.local_place import LocalPlace

NAMES = [*DIMS, CONTENT_ARRAY]


def the_cache(store: FeatureStore) -> FeatureCache:
    return store.cache("resnet10t.demo", "pets")


@pytest.fixture
def target(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(tmp_path / "copy")


def test_a_copy_is_byte_for_byte(complete: FeatureCache, target: FeatureStore) -> None:
    source = FeatureStore(complete.root)
    report = copy_store(source, target)
    assert (report.units_copied, report.units_already, report.incomplete) == (12, 0, ())
    copied = the_cache(target)
    assert shard_bytes(copied) == shard_bytes(complete)
    for name in ("recipe.json", "cache.json"):
        assert (copied.path / name).read_bytes() == (complete.path / name).read_bytes()
    assert (target.root / "datasets/pets/dataset.json").read_bytes() == (
        complete.root / "datasets/pets/dataset.json"
    ).read_bytes()
    assert {name: copied.entries(name) for name in NAMES} == {name: complete.entries(name) for name in NAMES}
    assert verify(target, deep=True).exit_code == 0
    again = copy_store(source, target)
    assert (again.units_copied, again.units_already, again.n_bytes) == (0, 12, 0)


@pytest.mark.parametrize("there_and_back", [False, True])
def test_formats_are_converted(complete: FeatureCache, target: FeatureStore, there_and_back: bool) -> None:
    copy_store(FeatureStore(complete.root), target, format="hdf5")
    copied = the_cache(target)
    assert copied.format == "hdf5"
    assert copied.failed_rows() == complete.failed_rows()
    np.testing.assert_array_equal(
        copied.blocks(list(DIMS)).take(np.arange(27)), complete.blocks(list(DIMS)).take(np.arange(27))
    )
    np.testing.assert_array_equal(copied.content_digests()[0], complete.content_digests()[0])
    if there_and_back:
        back = FeatureStore.create(target.root.with_name("back"))
        copy_store(target, back, format="zarr")
        assert shard_bytes(the_cache(back)) == shard_bytes(complete)
        assert {n: the_cache(back).entries(n) for n in NAMES} == {n: complete.entries(n) for n in NAMES}


def test_interrupted_it_goes_on(
    complete: FeatureCache, target: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = LocalPlace.put_if_absent, [0]

    def die_later(place: LocalPlace, data: bytes) -> bool:
        calls[0] += 1
        if calls[0] == 15:
            raise KeyboardInterrupt
        return plain(place, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalPlace, "put_if_absent", die_later)
        with pytest.raises(KeyboardInterrupt):
            copy_store(FeatureStore(complete.root), target)
    assert not the_cache(target).is_complete()
    report = copy_store(FeatureStore(complete.root), target)
    assert report.units_already > 0
    assert shard_bytes(the_cache(target)) == shard_bytes(complete)


def test_move_removes_the_source_only_after_the_copy(complete: FeatureCache, target: FeatureStore) -> None:
    source = FeatureStore(complete.root)
    shutil.copytree(complete.root, complete.root.with_name("kept"))
    shard = complete.shard_path("last.cls", 1)
    data = shard.read_bytes()
    shard.write_bytes(data[:40] + b"!" + data[41:])
    with pytest.raises(CorruptError, match=str(shard)):
        copy_store(source, target, move=True)
    assert source.datasets() == ["pets"]
    shard.write_bytes(data)
    assert copy_store(source, target, move=True).moved
    assert source.datasets() == []
    assert list(source.cache_folders()) == []
    kept = the_cache(FeatureStore(complete.root.with_name("kept")))
    assert shard_bytes(the_cache(target)) == shard_bytes(kept)


def test_parts_of_a_store(complete: FeatureCache, target: FeatureStore) -> None:
    source = FeatureStore(complete.root)
    report = copy_store(source, target, dataset="pets", model="resnet10t.demo", layers=["last"])
    assert report.units_copied == 8
    assert [spec.name for spec in the_cache(target).arrays()] == ["last.cls"]
    copy_store(source, target, layers=["layer4*"])
    assert shard_bytes(the_cache(target)) == shard_bytes(complete)


def test_an_incomplete_cache_stays_incomplete(root: Path, target: FeatureStore) -> None:
    cache = open_empty(root)
    commit(cache, 2)
    report = copy_store(FeatureStore(root), target)
    assert report.incomplete == (f"{cache.name}/pets",)
    assert the_cache(target).missing_units("last.cls") == [0, 1, 3]
    write_all(root)
    assert copy_store(FeatureStore(root), target).incomplete == ()


def test_refusals(complete: FeatureCache, target: FeatureStore) -> None:
    source = FeatureStore(complete.root)
    with pytest.raises(InputError, match="to itself"):
        copy_store(source, source)
    with pytest.raises(StoreNotFoundError, match="no features of model 'x'; choose one of "):
        copy_store(source, target, model="x")
    with pytest.raises(InputError, match="whole caches"):
        copy_store(source, target, layers=["last"], move=True)
    with pytest.raises(InputError, match=r"matches nothing, of nothing; choose one of last\.cls"):
        copy_store(source, target, layers=["nothing", "of nothing"])
    with pytest.raises(StoreError, match="no data set 'birds'"):
        copy_store(source, target, dataset="birds")


def test_the_target_holds_something_else(
    complete: FeatureCache, target: FeatureStore, tmp_path: Path
) -> None:
    target.register("pets", Manifest.from_columns(ids=["a"], sizes=[1]))
    with pytest.raises(ConflictError, match="1 image against 27"):
        copy_store(FeatureStore(complete.root), target)
    other = FeatureStore.create(tmp_path / "other")
    copy_store(FeatureStore(complete.root), other)
    with pytest.raises(ConflictError, match=r"zarr\) than the copy would be .*hdf5"):
        copy_store(FeatureStore(complete.root), other, format="hdf5")
    copied = the_cache(other)
    entry, shard = copied.ledger("last.cls"), copied.shard_path("last.cls", 0)
    shard.unlink()
    copied.commit_unit(0, {"last.cls": np.ones((8, 3), np.float16)})
    assert entry.recorded(0) is not None
    with pytest.raises(ConflictError, match="to other values than"):
        copy_store(FeatureStore(complete.root), other)
    assert make_recipe().digest == copied.digest


def test_nothing_is_moved_onto_itself(complete: FeatureCache, tmp_path: Path) -> None:
    """A link to the source looks like a finished copy of it."""
    source = FeatureStore(complete.root)
    link = tmp_path / "link"
    link.symlink_to(complete.root)
    for target in (link, FeatureStore(link), complete.root):
        with pytest.raises(InputError, match="to itself"):
            copy_store(source, target, move=True)
    for place in (complete.root / "inner", tmp_path):
        with pytest.raises(InputError, match="lies within the other"):
            copy_store(source, place, move=True)
    assert not (complete.root / "inner").exists()
    assert verify(source, deep=True).exit_code == 0


def test_one_and_the_same_cache_under_two_stores_is_not_removed(
    complete: FeatureCache, target: FeatureStore
) -> None:
    (target.root / "datasets").symlink_to(complete.root / "datasets")
    (target.root / "features").symlink_to(complete.root / "features")
    with pytest.raises(StoreError, match="symbolic link"):
        copy_store(FeatureStore(complete.root), target, move=True)
    assert complete.is_complete()


def test_what_is_damaged_is_not_taken_for_missing(complete: FeatureCache, target: FeatureStore) -> None:
    source = FeatureStore(complete.root)
    complete.pack_ledgers(["layer4.mean"])
    shard, packed = complete.shard_path("last.cls", 1), complete.ledger("layer4.mean").packed_path
    record = complete.path / "cache.json"
    for path, data in (
        (shard, b"half"),
        (shard, None),
        (complete.entry_path("last.cls", 1), b"half"),
        (packed, b"half"),
        (record, b"{}"),
        (complete.path / "recipe.json", None),
        (complete.root / "datasets/pets/manifest.parquet", b"half"),
    ):
        before = path.read_bytes() if path.exists() else None
        path.unlink(missing_ok=True) if data is None else path.write_bytes(data)
        with pytest.raises(StoreError, match=r"damaged|gone|does not match|differs"):
            copy_store(source, target, move=True)
        path.unlink(missing_ok=True) if before is None else path.write_bytes(before)
    assert verify(source, deep=True).exit_code == 0
    assert copy_store(source, target, move=True).incomplete == ()


def test_a_conversion_that_is_there_is_compared_by_values(
    complete: FeatureCache, target: FeatureStore
) -> None:
    source = FeatureStore(complete.root)
    copy_store(source, target, format="hdf5")
    again = copy_store(source, target, format="hdf5")
    assert (again.units_copied, again.units_already) == (0, 12)
    copied = the_cache(target)
    copied.shard_path("last.cls", 0).unlink()
    copied.commit_unit(0, {"last.cls": np.ones((8, 3), np.float16)})
    with pytest.raises(ConflictError, match="to other values than"):
        copy_store(source, target, format="hdf5")


def test_a_source_that_grows_is_not_removed(
    root: Path, target: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_empty(root)
    commit(cache, 0)
    from toptune.store.exchange import copying

    def verify_late(copied: FeatureCache, *, deep: bool) -> object:
        if not cache.entry("last.cls", 1):
            commit(cache, 1)
        return verify(copied, deep=deep)

    with monkeypatch.context() as patch:
        patch.setattr(copying, "verify", verify_late)
        with pytest.raises(StoreError, match="gained units 1 while it was copied"):
            copy_store(FeatureStore(root), target, move=True)
    assert cache.entry("last.cls", 1) is not None
    copy_store(FeatureStore(root), target, move=True)
    assert the_cache(target).missing_units("last.cls") == [2, 3]


def test_other_names_of_the_model_are_copied(complete: FeatureCache, target: FeatureStore) -> None:
    source = FeatureStore(complete.root)
    source.create_cache("alias", "pets", make_recipe(), unit_rows=8, batch_size=4, backbone={})
    complete.remember_request("key", ["last.cls"])
    copy_store(source, target)
    assert target.cache("alias", "pets").name == complete.name
    found = target.find_request("pets", "key")
    assert found is not None
    assert found[1] == ["last.cls"]
    assert verify(target, deep=True).exit_code == 0


def test_the_other_recipe_of_a_name_is_another_cache(complete: FeatureCache, target: FeatureStore) -> None:
    copy_store(FeatureStore(complete.root), target)
    recipe: Recipe = make_recipe(weights="cd" * 32)
    other = FeatureStore(complete.root).create_cache(
        "resnet10t.demo", "pets", recipe, unit_rows=8, batch_size=4, backbone={}
    )
    copy_store(FeatureStore(complete.root), target)
    assert {cache.name for cache in target.caches()} == {complete.name, other.name}


VICTIM = """
import sys
from toptune.store import FeatureStore, copy_store
print("ready", flush=True)
copy_store(FeatureStore.open(sys.argv[1]), sys.argv[2], format=sys.argv[3])
"""


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_killed_copies(complete: FeatureCache, tmp_path: Path, form: str) -> None:
    source, place = FeatureStore(complete.root), tmp_path / "copy"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    n_killed = 0
    for seconds in (0.0, 0.01, 0.03):
        command = [sys.executable, "-W", "error", "-c", VICTIM, source.root, place, form]
        victim = subprocess.Popen([*map(str, command)], env=environment, stdout=subprocess.PIPE, text=True)
        assert victim.stdout is not None
        victim.stdout.readline()
        time.sleep(seconds)
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=60)
        n_killed += victim.returncode == -signal.SIGKILL
    assert n_killed >= 1
    copy_store(source, place, format=form)
    undisturbed = FeatureStore.create(tmp_path / "undisturbed")
    copy_store(source, undisturbed, format=form)
    copied = FeatureStore.open(place)
    assert verify(copied, deep=True).exit_code == 0
    for name in NAMES:
        assert the_cache(copied).entries(name) == the_cache(undisturbed).entries(name)


def test_a_model_is_copied_over_all_data_sets(tmp_path: Path) -> None:
    source = FeatureStore.create(tmp_path / "source")
    for number, (dataset, model) in enumerate([("pets", "one"), ("birds", "one"), ("fish", "two")]):
        values = np.full((4, 3), number, dtype=np.float32)
        import_features(source, {"last": values}, dataset=dataset, model=model, labels=list("abab"))
    report = copy_store(source, tmp_path / "copy", model="one")
    assert report.datasets == ("birds", "pets")
    assert FeatureStore.open(tmp_path / "copy").datasets() == ["birds", "pets"]
