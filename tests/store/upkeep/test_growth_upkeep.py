"""Keeping data sets that grew in order: ls, show, rm, gc, du, verify, repair."""

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from grown_store import NAME, extend, fill, make_grown, make_images, names, start
from small_store import make_recipe

from toptune.store import (
    GONE,
    ConflictError,
    CorruptError,
    FeatureStore,
    FeatureView,
    InputError,
    StoreNotFoundError,
    collect_garbage,
    copy_store,
    describe,
    export_features,
    find_garbage,
    measure,
    plan_removal,
    read_dataset_version,
    remove,
    repair,
    summarize,
    verify,
)
from toptune.store.datasets.dataset_records import dataset_files
from toptune.store.datasets.versions import rows_path, version_path, version_record
from toptune.store.features.hints import last_use


@pytest.fixture(scope="module")
def grown_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_grown(tmp_path_factory.mktemp("grown") / "store").root


@pytest.fixture
def store(grown_template: Path, root: Path) -> FeatureStore:
    shutil.copytree(grown_template, root)
    return FeatureStore.open(root)


def rows_of_version(root: Path, number: int) -> Path:
    return rows_path(root, "pets", version_record(root, "pets", number).rows_sha256)


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bytes(data))


def test_ls_and_show_speak_of_the_latest_version(store: FeatureStore) -> None:
    (row,) = summarize(store)
    assert (row.dataset, row.version, row.parts, row.n_rows) == ("pets", 3, 2, 13)
    assert (row.arrays, row.is_complete) == ((NAME,), True)
    assert json.loads(json.dumps(row.to_dict())) == row.to_dict()
    view = store.features("tiny.demo", "pets")
    assert isinstance(view, FeatureView)
    shown = describe(store, view)
    assert json.loads(json.dumps(shown)) == shown
    assert [part["part"] for part in shown["parts_in_detail"]] == ["pets", "pets~2"]
    assert sum(part["rows_of_this_version"] for part in shown["parts_in_detail"]) == 13
    assert shown["parts_in_detail"][0]["cache"]["others"] == []
    store.caches(dataset="pets~2")[0].entry_path(NAME, 0).unlink()
    assert not summarize(store)[0].is_complete
    shutil.rmtree(store.caches(dataset="pets~2")[0].path)
    assert not summarize(store, dataset="pets")[0].is_complete


def test_units_of_older_versions_may_be_missing(root: Path) -> None:
    store = start(root, make_images(names((0, 12))))
    extend(store, make_images(names((4, 12))))
    store.caches(dataset="pets")[0].entry_path(NAME, 0).unlink()
    assert summarize(store)[0].is_complete
    report = verify(store)
    assert (report.exit_code, report.missing) == (0, {})
    assert list(report.missing_before.values()) == [[0]]
    assert "for older versions only" in str(report)
    store.caches(dataset="pets")[0].entry_path(NAME, 1).unlink()
    assert verify(store).exit_code == 3


def test_the_data_set_goes_with_its_parts(store: FeatureStore) -> None:
    with pytest.raises(InputError, match=r"'pets~2' is a part of data set 'pets'.*remove all of 'pets'"):
        plan_removal(store, dataset="pets~2")
    fill(store, "pets~2", recipe=make_recipe(precision="bf16"))
    with pytest.raises(ConflictError, match="precision"):
        plan_removal(store, dataset="pets", model="tiny.demo")
    removal = plan_removal(store, dataset="pets")
    assert (len(removal.caches), removal.parts) == (2, ("pets~2",))
    files = [path for path in store.root.rglob("*") if path.is_file() and path.name != "toptune.json"]
    assert removal.n_bytes == sum(path.stat().st_size for path in files)
    remove(store, removal)
    left = sorted(path.name for path in store.root.rglob("*") if path.is_file())
    assert left == ["toptune.json"]


def test_a_model_goes_from_every_part(store: FeatureStore) -> None:
    removal = plan_removal(store, dataset="pets", model="tiny.demo", layers=["last"])
    remove(store, removal)
    assert [cache.arrays() for cache in store.caches()] == [[], []]
    remove(store, plan_removal(store, dataset="pets", model="tiny.demo"))
    assert store.caches() == []
    assert store.manifest("pets").n_rows == 13
    with pytest.raises(StoreNotFoundError):
        plan_removal(store, dataset="pets", model="tiny.demo")


def test_no_part_of_what_is_used_is_evicted(store: FeatureStore) -> None:
    long_ago = (datetime.now(UTC) - timedelta(days=50)).timestamp()
    for path in store.root.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    month = timedelta(days=30)
    assert len(find_garbage(store, older_than=month)) == 2
    caches = store.caches()
    caches[1].mark_used()
    assert find_garbage(store, older_than=month) == []
    assert find_garbage(store, keep=1) == []
    store.features("tiny.demo", "pets").mark_used()
    assert all(datetime.now(UTC) - last_use(cache.path) < month for cache in caches)
    collect_garbage(store, find_garbage(store, keep=0))
    assert store.caches() == []


def test_rows_of_no_version_are_left_over(store: FeatureStore) -> None:
    left = version_path(store.root, "pets", 2).with_name("ab" * 32 + ".parquet")
    left.write_bytes(b"half")
    assert find_garbage(store) == []  # too young
    (item,) = find_garbage(store, grace=timedelta(0))
    assert (item.path, item.reason) == (str(left), "rows of no version")
    assert str(left) in verify(store).leftovers
    collect_garbage(store, [item])
    assert verify(store, deep=True).leftovers == ()


def test_du_counts_parts_with_their_data_set(store: FeatureStore) -> None:
    usage = measure(store)
    assert {row.dataset for row in usage} == {"", "pets"}
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert sum(row.n_bytes for row in usage) == sum(path.stat().st_size for path in files)
    assert sum(row.n_files for row in usage) == len(files)
    assert not any(row.part == "(leftovers)" for row in usage)


def test_every_flipped_bit_is_found(store: FeatureStore) -> None:
    rng = np.random.default_rng(0)
    paths = [version_path(store.root, "pets", 2), rows_of_version(store.root, 2)]
    paths += [store.root / "datasets/pets~2" / name for name in ("dataset.json", "manifest.parquet")]
    for path in paths:
        whole = path.read_bytes()
        for bit in rng.choice(len(whole) * 8, 25, replace=False).tolist():
            flip(path, bit)
            report = verify(store)
            assert report.exit_code == 1
            assert str(path) in dict(report.damaged), (path, bit)
            path.write_bytes(whole)
    assert verify(store, deep=True).exit_code == 0


def test_a_version_that_names_other_images_is_found(store: FeatureStore) -> None:
    for name, data in dataset_files("pets~2", store.part_manifest("pets"), part_of="pets").items():
        (store.root / "datasets/pets~2" / name).write_bytes(data)
    assert any("other images than part pets~2" in reason for _, reason in verify(store).damaged)
    shutil.rmtree(store.root / "datasets/pets~2")
    assert str(store.root / "datasets/pets~2") in dict(verify(store).damaged)
    with pytest.raises(CorruptError, match="has lost pets~2"):
        extend(store, make_images(names((4, 18))))


def test_a_record_is_made_again_from_its_rows(store: FeatureStore) -> None:
    before = read_dataset_version(store.root, "pets", 2)
    for how in ("flip", "empty"):
        path = version_path(store.root, "pets", 2)
        flip(path, 99) if how == "flip" else path.write_bytes(b"")
        with pytest.raises(CorruptError, match=r"000002\.json"):
            store.features("tiny.demo", "pets", version=2)
        report = repair(store.root)
        assert (report.rebuilt, report.left) == ((str(path),), ())
        assert read_dataset_version(store.root, "pets", 2).is_same(before)
        assert verify(store, deep=True).exit_code == 0


def test_the_latest_version_is_dropped_and_made_again(store: FeatureStore) -> None:
    latest = read_dataset_version(store.root, "pets")
    flip(rows_of_version(store.root, 3), 999)
    with pytest.raises(CorruptError, match="differs from what was registered"):
        store.manifest("pets")
    report = repair(store.root)
    assert (report.dropped_versions, report.left) == (("version 3 of data set pets",), ())
    assert verify(store).damaged == ()
    growth = extend(store, latest.manifest)
    assert (growth.after.number, growth.new_part) == (3, None)
    assert growth.after.is_same(latest)


def test_an_older_version_is_left(store: FeatureStore) -> None:
    path = rows_of_version(store.root, 2)
    flip(path, 999)
    report = repair(store.root)
    assert report.exit_code == 1
    assert [left for left, _ in report.left] == [str(path)]
    assert "restore it from a copy" in report.left[0][1]
    assert store.manifest("pets").n_rows == 13  # the latest needs nothing of it


@pytest.mark.parametrize("name", ["dataset.json", "manifest.parquet"])
def test_a_part_is_made_again_from_the_versions(store: FeatureStore, name: str) -> None:
    path = store.root / "datasets/pets~2" / name
    whole = (store.root / "datasets/pets~2/manifest.parquet").read_bytes()
    flip(path, 800)
    report = repair(store.root)
    assert report.left == ()
    assert str(path) in report.rebuilt
    assert (store.root / "datasets/pets~2/manifest.parquet").read_bytes() == whole
    assert verify(store, deep=True).exit_code == 0
    assert store.datasets() == ["pets"]


def test_a_first_part_with_images_of_no_later_version_is_left(store: FeatureStore) -> None:
    path = store.root / "datasets/pets/manifest.parquet"
    flip(path, 800)
    report = repair(store.root)
    assert [left for left, _ in report.left] == [str(path)]
    assert "store rm --dataset pets" in report.left[0][1]
    assert store.features("tiny.demo", "pets").manifest.n_rows == 13


def test_gone_images_are_named_as_failed(root: Path) -> None:
    store = start(root, make_images(names((0, 8))))
    extend(store, make_images(names((2, 8))))
    other = make_recipe(precision="bf16")
    cache = fill(store, "pets", recipe=other, failed={0: GONE, 1: GONE})
    assert store.features(cache.name, "pets").failed_rows() == {}
    assert store.features(cache.name, "pets", version=1).failed_rows() == {0: GONE, 1: GONE}


def test_copies_have_every_version(store: FeatureStore, tmp_path: Path) -> None:
    target = FeatureStore.create(tmp_path / "target")
    report = copy_store(store, target, dataset="pets", model="tiny.demo")
    assert (report.datasets, len(report.caches)) == (("pets",), 2)
    assert verify(target, deep=True).exit_code == 0
    for number in (1, 2, 3):
        ours = read_dataset_version(store.root, "pets", number)
        assert read_dataset_version(target.root, "pets", number).is_same(ours)
    assert summarize(target)[0].is_complete
    extend(store, make_images(names((4, 18))))
    copy_store(store, target)  # goes on where the other was
    extend(target, make_images(names((4, 19))))
    extend(store, make_images(names((4, 20))))
    with pytest.raises(ConflictError, match=r"other (content|rows)"):
        copy_store(store, target)  # they have grown apart
    moved = copy_store(store, FeatureStore.create(tmp_path / "moved"), move=True)
    assert moved.moved
    assert sorted(path.name for path in store.root.rglob("*") if path.is_file()) == ["toptune.json"]


def test_a_view_is_exported_as_one(store: FeatureStore, tmp_path: Path) -> None:
    view = store.features("tiny.demo", "pets")
    result = export_features(view, tmp_path / "out", format="npy")
    assert result["rows"] == 13
    whole = np.load(tmp_path / "out" / f"{NAME}.npy")
    assert np.array_equal(whole, view.blocks([NAME]).take(range(13)))
