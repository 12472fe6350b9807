"""Sound files in the wrong place: each is undamaged by itself, and an error where it stands."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_store import BATCH_SIZE, DIMS, N_ROWS, UNIT_ROWS, features, make_manifest, make_recipe, write_all

from toptune.store import CorruptError, FeatureCache, FeatureStore, IncompleteError, repair, verify
from toptune.store.arrays.ledger_entry import KIND
from toptune.store.files.sealed import seal

FORMS = pytest.mark.parametrize("form", ["zarr", "hdf5"])


def swap(one: Path, two: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def without_checksums(cache: FeatureCache, name: str) -> None:
    """Write the ledger as it was before entries had a checksum."""
    for unit in range(cache.n_units):
        path = cache.entry_path(name, unit)
        values = json.loads(path.read_bytes())
        kept = set(values) - {"checksum", "cache", "self_sha256", "format", "version"}
        path.write_bytes(seal(KIND, {key: values[key] for key in kept}))


def expected(name: str) -> np.ndarray:
    values = features(name)
    values[13] = np.nan
    return values


@FORMS
@pytest.mark.parametrize("age", ["new", "old"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_swapped_units(root: Path, form: str, age: str, is_packed: bool) -> None:
    cache = write_all(root, format=form)
    before = {name: cache.shard_path(name, 0).read_bytes() for name in DIMS}
    if age == "old":
        without_checksums(cache, "last.cls")
    if is_packed:
        cache.pack_ledgers(["last.cls"])
    swap(cache.shard_path("last.cls", 0), cache.shard_path("last.cls", 2))
    cache = FeatureStore.open(root).cache("resnet10t.demo", "pets")
    for read in (
        lambda: cache.blocks(["last.cls"]).take([1]),
        lambda: cache.blocks(["last.cls"]).take(np.arange(N_ROWS)),
        lambda: list(cache.blocks(["layer4.mean", "last.cls"]).iterate()),
        lambda: cache.blocks(["last.cls"], [17, 18]).take([0]),
    ):
        with pytest.raises(CorruptError, match="not the file that the ledger names"):
            read()
    np.testing.assert_array_equal(cache.blocks(["last.cls"]).take([9]), expected("last.cls")[[9]])
    for deep in (False, True) if age == "new" else (True,):
        blamed = {path for path, _ in verify(FeatureStore.open(root), deep=deep).damaged}
        assert blamed == {str(cache.shard_path("last.cls", unit)) for unit in (0, 2)}
    assert list(repair(root).dropped.values()) == [[0, 2]]
    cache = write_all(root, format=form)
    assert {name: cache.shard_path(name, 0).read_bytes() for name in DIMS} == before
    assert verify(cache, deep=True).exit_code == 0


@FORMS
def test_an_old_ledger_is_read_and_resumed(root: Path, form: str) -> None:
    cache = write_all(root, format=form)
    for name in DIMS:
        without_checksums(cache, name)
    cache.entry_path("last.cls", 3).unlink()
    cache = write_all(root, format=form)
    for name in DIMS:
        np.testing.assert_array_equal(cache.blocks([name]).take(np.arange(N_ROWS)), expected(name))
        np.testing.assert_array_equal(cache.blocks([name], [3, 20]).take([1]), expected(name)[[20]])
    assert verify(cache).exit_code == 0


@FORMS
def test_an_array_of_another_data_set(root: Path, form: str) -> None:
    """The same model over as many other images: folders moved by hand, ledger and all."""
    cache = write_all(root, format=form)
    store = FeatureStore.open(root)
    store.register("dogs", make_manifest(N_ROWS).take(np.arange(N_ROWS)[::-1]))
    other = store.create_cache(
        "resnet10t.demo",
        "dogs",
        make_recipe(),
        unit_rows=UNIT_ROWS,
        batch_size=BATCH_SIZE,
        backbone={},
        format=form,
    )
    other.ensure_array("last.cls", dim=3, dtype="float16")
    for part in ("last.cls", "ledger/last.cls"):
        shutil.rmtree(other.path / part)
        shutil.copytree(cache.path / part, other.path / part)
    assert other.missing_units("last.cls") == [0, 1, 2, 3]
    with pytest.raises(IncompleteError, match="lacks 4 of 4 units"):
        other.blocks(["last.cls"])
    assert verify(store).exit_code != 0
    repair(root)
    for unit in range(4):
        other.commit_unit(unit, {"last.cls": features("last.cls")[::-1][other.unit_slice(unit)]})
    np.testing.assert_array_equal(
        other.blocks(["last.cls"]).take(np.arange(N_ROWS)), features("last.cls")[::-1]
    )
    assert verify(store, deep=True).exit_code == 0


@FORMS
@pytest.mark.parametrize("what", ["link", "pipe", "folder", "socket"])
def test_a_shard_that_is_no_file_of_the_store(root: Path, tmp_path: Path, form: str, what: str) -> None:
    """Readers, `verify` and writers agree; what a link leads to stays."""
    cache = write_all(root, format=form)
    path, elsewhere = cache.shard_path("last.cls", 1), tmp_path / "elsewhere"
    path.rename(elsewhere)
    if what == "link":
        path.symlink_to(elsewhere)
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        os.mknod(path, 0o140644)
    with pytest.raises(CorruptError, match=f"{path} (leads out of the store|is no regular file)"):
        cache.blocks(["last.cls"])
    for deep in (False, True):
        assert [where for where, _ in verify(cache, deep=deep).damaged] == [str(path)]
    assert cache.missing_units("last.cls") == [1]
    repair(root)
    assert verify(write_all(root, format=form), deep=True).exit_code == 0
    assert elsewhere.is_file()


def test_records_of_another_data_set(root: Path) -> None:
    store = FeatureStore.open(write_all(root).root)
    store.register("dogs", make_manifest(5))
    swap(root / "datasets/pets", root / "datasets/dogs")
    with pytest.raises(CorruptError, match="describes data set 'dogs'; was it moved"):
        store.manifest("pets")
    assert verify(store).exit_code == 1
