"""FeatureStore: opening, registering, finding caches."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_store import BATCH_SIZE, UNIT_ROWS, make_manifest, make_recipe, open_empty, write_all

from toptune.store import (
    ConflictError,
    CorruptError,
    FeatureCache,
    FeatureStore,
    FormatVersionError,
    InputError,
    Manifest,
    StoreError,
    StoreNotFoundError,
    verify,
)


def create(store: FeatureStore, model: str, dataset: str = "pets", **changes: Any) -> FeatureCache:
    recipe = make_recipe(**changes)
    return store.create_cache(
        model, dataset, recipe, unit_rows=UNIT_ROWS, batch_size=BATCH_SIZE, backbone={"name": model}
    )


def test_create_then_open(root: Path) -> None:
    assert FeatureStore.create(root).root == root
    assert FeatureStore.create(root).root == FeatureStore.open(str(root)).root
    assert [path.name for path in root.iterdir()] == ["toptune.json"]
    assert (root / "toptune.json").read_text() == '{"format": "toptune-store", "version": 2}\n'


def test_there_is_no_store(root: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"no toptune\.json"):
        FeatureStore.open(root)
    root.write_text("a file")
    with pytest.raises(StoreNotFoundError):
        FeatureStore.open(root)
    with pytest.raises(ConflictError, match="is a file"):
        FeatureStore.create(root)


@pytest.mark.parametrize("place", ["ftp://bucket/x", ""])
def test_places_that_are_no_folders(place: str) -> None:
    with pytest.raises(InputError):
        FeatureStore.create(place)


def test_a_folder_of_other_things_is_refused(root: Path) -> None:
    root.mkdir()
    (root / ".tmp-0").write_text("left by an interrupted create")
    FeatureStore.create(root)
    (root / "toptune.json").unlink()
    (root / "thesis.tex").write_text("")
    with pytest.raises(ConflictError, match="a folder with other files"):
        FeatureStore.create(root)


def test_other_versions_are_refused(root: Path) -> None:
    FeatureStore.create(root)
    (root / "toptune.json").write_text('{"format": "toptune-store", "version": 3}\n')
    with pytest.raises(FormatVersionError, match=r"version 3; this toptune supports version 2 only"):
        FeatureStore.open(root)
    with pytest.raises(FormatVersionError):
        FeatureStore.create(root)
    (root / "toptune.json").write_text('{"format": "toptune-sto')
    with pytest.raises(CorruptError):
        FeatureStore.open(root)
    (root / "toptune.json").write_text('{"format": "another", "version": 1}')
    with pytest.raises(StoreError, match="another"):
        FeatureStore.open(root)


def test_a_newer_cache_is_refused_and_does_not_hide_the_others(root: Path) -> None:
    cache = open_empty(root)
    store = FeatureStore.open(root)
    other = create(store, "other", precision="bf16")
    record = json.loads((cache.path / "cache.json").read_text())
    (cache.path / "cache.json").write_text(json.dumps({**record, "version": 2}))
    with pytest.raises(FormatVersionError, match="version 2"):
        store.cache("resnet10t.demo", "pets")
    assert [found.name for found in store.caches()] == [other.name]


def test_register_adopts_the_same_content(root: Path) -> None:
    store = FeatureStore.create(root)
    first = store.register("pets", make_manifest())
    again = Manifest(first.table.set_column(4, "modified_ns", first.table["bytes"]))
    assert store.register("pets", again).modified_ns.tolist() == first.modified_ns.tolist()
    assert store.datasets() == ["pets"]
    assert store.manifest("pets").ids == first.ids


def test_register_refuses_other_content(root: Path) -> None:
    store = FeatureStore.create(root)
    store.register("pets", make_manifest())
    with pytest.raises(ConflictError, match=r"27 images against 26.*--dataset"):
        store.register("pets", make_manifest(26))


def test_unknown_dataset_lists_those_there_are(root: Path) -> None:
    store = FeatureStore.create(root)
    store.register("pets", make_manifest())
    for call in (store.manifest, lambda name: store.cache("m", name)):
        with pytest.raises(StoreNotFoundError, match="hoose one of pets"):
            call("birds")


def test_same_recipe_is_adopted_whatever_its_name(root: Path) -> None:
    store = FeatureStore.create(root)
    store.register("pets", make_manifest())
    store.register("more pets", make_manifest(9))
    one = create(store, "local-dir:/weights/resnet10t.demo")
    assert one.model == "resnet10t.demo"
    assert one.path == root / "features" / f"resnet10t.demo@{make_recipe().digest[:8]}" / "pets"
    adopted = store.create_cache(
        "other", "pets", make_recipe(), unit_rows=16, batch_size=16, backbone={"name": "other"}
    )
    assert (adopted.path, adopted.unit_rows, adopted.batch_size) == (one.path, UNIT_ROWS, BATCH_SIZE)
    assert adopted.backbone == {"name": "local-dir:/weights/resnet10t.demo"}
    assert create(store, "other", "more pets").path != one.path
    assert create(store, "other", precision="bf16").path != one.path


def test_units_must_be_whole_batches(root: Path) -> None:
    store = FeatureStore.create(root)
    store.register("pets", make_manifest())
    with pytest.raises(InputError, match="no multiple of batch_size 3"):
        store.create_cache("m", "pets", make_recipe(), unit_rows=8, batch_size=3, backbone={})
    whole = store.create_cache("m", "pets", make_recipe(), unit_rows=27, batch_size=64, backbone={})
    assert whole.n_units == 1


@pytest.mark.parametrize("model", ["net.tag", "local-dir:/somewhere/net.tag", "hf-hub:org/net.tag"])
def test_cache_is_found_by_any_spelling(root: Path, model: str) -> None:
    store = FeatureStore.create(root)
    store.register("pets", make_manifest())
    made = create(store, "net.tag")
    assert store.cache(model, "pets").path == made.path
    assert store.cache(made.name, "pets").path == made.path
    assert store.cache(f"net.tag@{made.digest}", "pets").path == made.path


def test_several_caches_are_listed_with_differences(root: Path) -> None:
    store = FeatureStore.create(root)
    store.register("pets", make_manifest())
    one, two = create(store, "net.tag"), create(store, "net.tag", precision="bf16")
    with pytest.raises(ConflictError, match=r"precision \w+ against \w+") as caught:
        store.cache("net.tag", "pets")
    assert one.name in str(caught.value)
    assert two.name in str(caught.value)
    assert store.cache(two.name, "pets").digest == two.digest


def test_no_cache_lists_those_there_are(root: Path) -> None:
    store = FeatureStore.create(root)
    store.register("pets", make_manifest())
    made = create(store, "net.tag")
    for model, there in (("net", "net.tag"), ("net.tag@00000000", made.name)):
        with pytest.raises(StoreNotFoundError, match=f"hoose one of {there}"):
            store.cache(model, "pets")


def test_recipe_of_another_digest_is_corrupt(root: Path) -> None:
    cache = open_empty(root)
    (cache.path / "recipe.json").write_text(make_recipe(precision="bf16").to_json())
    with pytest.raises(CorruptError, match=r"recipe\.json"):
        FeatureStore.open(root).cache("resnet10t.demo", "pets")


def test_requests(root: Path) -> None:
    cache = open_empty(root)
    store = FeatureStore.open(root)
    assert store.find_request("pets", "k1") is None
    cache.remember_request("k1", ["last.cls"])
    cache.remember_request("k1", ["last.cls", "layer4.mean"])
    found = store.find_request("pets", "k1")
    assert found is not None
    assert (found[0].path, found[1]) == (cache.path, ["last.cls", "layer4.mean"])
    assert store.find_request("pets", "k2") is None
    (cache.path / "requests" / "k1.json").write_text("{}")
    assert store.find_request("pets", "k1") is None
    cache.remember_request("k1", ["last.cls"])
    create(store, "other", precision="bf16").remember_request("k1", ["last.cls"])
    assert store.find_request("pets", "k1") is None  # two answers are none


def test_files_honour_the_umask(root: Path) -> None:
    before = os.umask(0o027)
    try:
        write_all(root)
    finally:
        os.umask(before)
    modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in root.rglob("*")}
    assert modes == {(True, 0o750), (False, 0o640)}


def test_without_write_permission(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_empty(root)
    plain_open = os.open

    def refuse(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain_open(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refuse)
    store = FeatureStore.open(root)
    assert store.cache("resnet10t.demo", "pets").n_rows == 27
    with pytest.raises(StoreError, match=r"cannot write .*Permission denied; ask the owner"):
        store.register("birds", make_manifest(3))
    with pytest.raises(StoreError, match="Permission denied"):
        FeatureStore.create(root.parent / "another")
    with pytest.raises(StoreError, match="Permission denied"):
        cache.ensure_array("new.mean", dim=2, dtype="float16")


def test_without_read_permission(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = write_all(root)
    opened = os.open

    def refuse_open(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path).name in ("cache.json", "0"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse_open)
    with pytest.raises(StoreError, match=r"cannot read .*cache\.json: Permission denied"):
        FeatureStore.open(root).cache("resnet10t.demo", "pets")
    with pytest.raises(StoreError, match="cannot read"):
        cache.blocks(["last.cls"]).take([0])
    assert verify(FeatureStore(root)).exit_code == 1
