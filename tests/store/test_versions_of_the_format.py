"""Stores of older versions are read, written to only once migrated; newer ones are refused."""

from pathlib import Path

import pytest
from small_store import open_empty, write_all

from toptune.store import FeatureCache, FeatureStore, FormatVersionError, repair, verify


def as_version(root: Path, version: int) -> None:
    (root / "toptune.json").write_text(f'{{"format": "toptune-store", "version": {version}}}\n')


def test_an_older_store_is_read_but_not_written(complete: FeatureCache) -> None:
    as_version(complete.root, 1)
    store = FeatureStore.open(complete.root)
    assert store.cache("resnet10t.demo", "pets").blocks(["last.cls"]).shape == (27, 3)
    assert verify(store, deep=True).exit_code == 0
    before = {path: path.read_bytes() for path in complete.root.rglob("*") if path.is_file()}
    with pytest.raises(FormatVersionError, match=r"version 1.*toptune store migrate --store .*version 2"):
        open_empty(complete.root)
    assert {path: path.read_bytes() for path in complete.root.rglob("*") if path.is_file()} == before


def test_migrated_it_is_written_to(complete: FeatureCache) -> None:
    as_version(complete.root, 1)
    complete.entry_path("last.cls", 2).unlink()
    assert FeatureStore.open(complete.root).migrate() == 1
    assert FeatureStore.open(complete.root).migrate() == 2
    assert write_all(complete.root).is_complete()
    assert verify(FeatureStore(complete.root), deep=True).exit_code == 0


@pytest.mark.parametrize("version", [0, 3, 99])
def test_other_versions_are_refused_and_left_alone(complete: FeatureCache, version: int) -> None:
    as_version(complete.root, version)
    for action in (FeatureStore.open, FeatureStore.create, repair):
        with pytest.raises(FormatVersionError, match=rf"version {version}.*up to 2; upgrade"):
            action(complete.root)
    assert f'"version": {version}' in (complete.root / "toptune.json").read_text()
