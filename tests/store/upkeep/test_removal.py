"""rm: what is named goes, in one step; readers in the middle get an error and never other numbers."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_store import DIMS, commit, features, make_manifest, make_recipe, open_empty, shard_bytes, write_all

from toptune.store import (
    ConflictError,
    CorruptError,
    FeatureCache,
    FeatureStore,
    InputError,
    StoreError,
    StoreNotFoundError,
    plan_removal,
    remove,
    verify,
)


def test_a_cache_goes_and_the_rest_stays(complete: FeatureCache) -> None:
    store = FeatureStore(complete.root)
    other = store.create_cache(
        "vit.demo", "pets", make_recipe(precision="bf16"), unit_rows=8, batch_size=4, backbone={}
    )
    size = sum(path.stat().st_size for path in complete.path.rglob("*") if path.is_file())
    removal = plan_removal(store, dataset="pets", model="resnet10t.demo")
    assert (removal.caches, removal.is_whole, removal.n_bytes) == ((complete.name,), False, size)
    assert complete.path.exists()  # a plan only
    remove(store, removal)
    assert [cache.name for cache in store.caches()] == [other.name]
    assert not complete.path.parent.exists()
    report = verify(store, deep=True)
    assert (report.damaged, report.leftovers) == ((), ())
    assert store.manifest("pets").n_rows == 27


def test_arrays_go_and_come_back(complete: FeatureCache) -> None:
    store = FeatureStore(complete.root)
    before = shard_bytes(complete)
    remove(store, plan_removal(store, dataset="pets", model=complete.name, layers=["layer4*"]))
    assert [spec.name for spec in complete.arrays()] == ["last.cls"]
    assert (complete.path / "content.sha256").exists()
    assert verify(store).exit_code == 0
    assert shard_bytes(write_all(complete.root)) == before
    remove(store, plan_removal(store, dataset="pets", model=complete.name, layers=["last", "layer4.mean"]))
    assert complete.all_arrays() == []  # the digests went with the last of them
    with pytest.raises(InputError, match=r"'nothing' is not among .* choose one of last\.cls, lay"):
        plan_removal(
            FeatureStore(write_all(complete.root).root),
            dataset="pets",
            model=complete.name,
            layers=["nothing"],
        )


def test_a_whole_data_set(complete: FeatureCache) -> None:
    store = FeatureStore(complete.root)
    removal = plan_removal(store, dataset="pets")
    assert removal.is_whole
    assert str(removal).startswith(f"data set pets with {complete.name}: ")
    remove(store, removal)
    assert store.datasets() == []
    assert sorted(path.name for path in complete.root.rglob("*") if path.is_file()) == ["toptune.json"]


def test_refusals(complete: FeatureCache) -> None:
    store = FeatureStore(complete.root)
    with pytest.raises(StoreNotFoundError, match="cats"):
        plan_removal(store, dataset="cats")
    with pytest.raises(StoreNotFoundError, match="vit"):
        plan_removal(store, dataset="pets", model="vit")
    with pytest.raises(InputError, match="--model"):
        plan_removal(store, dataset="pets", layers=["last"])
    with pytest.raises(InputError, match="separator"):
        plan_removal(store, dataset="../pets")
    store.create_cache(
        "resnet10t.demo", "pets", make_recipe(precision="bf16"), unit_rows=8, batch_size=4, backbone={}
    )
    with pytest.raises(ConflictError, match="precision"):
        plan_removal(store, dataset="pets", model="resnet10t.demo")


def test_a_damaged_cache_can_be_removed(complete: FeatureCache) -> None:
    (complete.path / "cache.json").write_text("{}")
    store = FeatureStore(complete.root)
    remove(store, plan_removal(store, dataset="pets", model="resnet10t.demo"))
    assert verify(store).exit_code == 0


def test_a_link_out_of_the_store_is_not_followed(complete: FeatureCache, tmp_path: Path) -> None:
    shutil.move(complete.path, tmp_path / "elsewhere")
    complete.path.symlink_to(tmp_path / "elsewhere")
    store = FeatureStore(complete.root)
    with pytest.raises(StoreError, match="symbolic link"):
        remove(store, plan_removal(store, dataset="pets", model="resnet10t.demo"))
    assert (tmp_path / "elsewhere" / "cache.json").exists()


@pytest.mark.parametrize("layers", [None, ["last"]])
def test_a_reader_in_the_middle_gets_an_error(complete: FeatureCache, layers: list[str] | None) -> None:
    store = FeatureStore(complete.root)
    blocks = complete.blocks(["last.cls"]).iterate(4)
    rows, values = next(blocks)
    assert np.array_equal(values, features("last.cls")[rows])
    remove(store, plan_removal(store, dataset="pets", model="resnet10t.demo", layers=layers))
    with pytest.raises((CorruptError, StoreNotFoundError)):
        list(blocks)


def test_a_reader_never_sees_what_took_the_place(complete: FeatureCache) -> None:
    """Removed and extracted again under the same names from other images, while somebody reads."""
    store = FeatureStore(complete.root)
    blocks = complete.blocks(["last.cls"]).iterate(4)
    next(blocks)
    remove(store, plan_removal(store, dataset="pets"))
    cache = write_all(complete.root)
    assert cache.path == complete.path
    with pytest.raises(StoreNotFoundError, match="removed while it was in use"):
        for _ in blocks:
            pass
    assert np.array_equal(cache.blocks(["last.cls"]).take(range(27))[0], features("last.cls")[0])


def test_a_writer_in_the_middle_gets_an_error(root: Path) -> None:
    cache = open_empty(root)
    commit(cache, 0)
    store = FeatureStore(root)
    remove(store, plan_removal(store, dataset="pets"))
    with pytest.raises(StoreNotFoundError, match="removed while it was in use"):
        commit(cache, 1)
    assert not cache.path.exists()
    store.register("pets", make_manifest(9))
    assert verify(store, deep=True).exit_code == 0


def test_killed_in_the_middle_leaves_a_valid_store(
    complete: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    store = FeatureStore(complete.root)
    removal = plan_removal(store, dataset="pets", model="resnet10t.demo", layers=list(DIMS))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove(store, removal)
    report = verify(store, deep=True)
    assert report.damaged == ()
    assert report.leftovers
    assert write_all(complete.root).is_complete()
