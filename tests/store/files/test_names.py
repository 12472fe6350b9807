"""Names cannot climb out of ROOT."""

import unicodedata
from pathlib import Path

import pytest
from small_store import make_manifest, make_recipe

from toptune.store import FeatureStore, InputError, StoreError, plain_model_name
from toptune.store.files.names import check_name

BAD = [
    *("", " ", ".", "..", "../x", "/etc", "a/b", "a\\b", ".hidden", "a\0b", "a\nb", "a\x7f"),
    *(" a", "a ", "a\u202eb", "a\u200bb", "a\u2028b", "\ud800", "ä" * 101, ".tmp-1"),
]


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="choose another name"):
        check_name(name, what="data set")


@pytest.mark.parametrize("name", ["pets", "my pets", "Kätzchen", "猫", "a..b", "resnet50.a1_in1k", "a@b"])
def test_good_names_stay(name: str) -> None:
    assert check_name(name, what="data set") == name


def test_names_are_normalized() -> None:
    assert check_name(unicodedata.normalize("NFD", "Kätzchen"), what="data set") == "Kätzchen"


@pytest.mark.parametrize("name", ["..", "/etc", "a/b"])
def test_the_store_refuses_them_everywhere(root: Path, name: str) -> None:
    store = FeatureStore.create(root)
    with pytest.raises(InputError):
        store.register(name, make_manifest())
    with pytest.raises(InputError):
        store.manifest(name)
    with pytest.raises(InputError):
        store.cache("m", name)
    store.register("pets", make_manifest())
    with pytest.raises(InputError):
        store.cache(name, "pets")
    with pytest.raises(InputError):
        store.create_cache(name, "pets", make_recipe(), unit_rows=8, batch_size=4, backbone={})
    cache = store.create_cache("m", "pets", make_recipe(), unit_rows=8, batch_size=4, backbone={})
    with pytest.raises(InputError):
        cache.ensure_array(name, dim=2, dtype="float16")
    with pytest.raises(InputError):
        cache.blocks([name])
    with pytest.raises(InputError):
        cache.remember_request(name, [])


def test_links_that_lead_out_are_refused(root: Path, tmp_path: Path) -> None:
    store = FeatureStore.create(root)
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "datasets").mkdir()
    (root / "datasets" / "pets").symlink_to(outside)
    with pytest.raises(StoreError, match="symbolic link"):
        store.register("pets", make_manifest())
    (root / "datasets" / "pets").unlink()
    store.register("pets", make_manifest())
    cache = store.create_cache("m", "pets", make_recipe(), unit_rows=8, batch_size=4, backbone={})
    (cache.path / "last.cls").symlink_to(outside)
    with pytest.raises(StoreError, match="symbolic link"):
        cache.ensure_array("last.cls", dim=2, dtype="float16")
    assert list(outside.iterdir()) == []


def test_a_store_reached_through_a_link_is_fine(root: Path, tmp_path: Path) -> None:
    FeatureStore.create(root).register("pets", make_manifest())
    (tmp_path / "link").symlink_to(root)
    assert FeatureStore.open(tmp_path / "link").manifest("pets").n_rows == 27


@pytest.mark.parametrize(
    ("model", "plain"),
    [
        ("resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("local-dir:/x/y", "y"),
        ("random:resnet18", "random:resnet18"),
        ("random:local-dir:/x/y", "random:y"),
        ("local-dir:/x/y/", "y"),
        ("local-dir:x/../z", "z"),
        ("hf-hub:org/name", "name"),
        ("hf-hub:org/name@v2", "name"),
        ("hf_hub:timm/vit_tiny.augreg", "vit_tiny.augreg"),
    ],
)
def test_plain_model_name(model: str, plain: str) -> None:
    assert plain_model_name(model) == plain


@pytest.mark.parametrize("model", ["", "local-dir:/", "hf-hub:", "a/b", "../a"])
def test_models_without_a_name_are_refused(model: str) -> None:
    with pytest.raises(InputError):
        plain_model_name(model)
