"""verify blames a file, and repair acts on it, by the path that an error carries and never by its words."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_store import KINDS, every_kind, make_recipe

from toptune.errors import StoreError
from toptune.store import CorruptError, FeatureCache, FeatureStore, FormatVersionError, Recipe, repair, verify
from toptune.store.files.sealed import seal

ODD_WORDS = "datasets, recipe.json, cache.json, zarr.json, all.h5: all are fine"


@pytest.fixture
def in_other_words(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Reword every error of the store, with the names of files that are not to blame."""
    plain = StoreError.__init__

    def reworded(self: StoreError, _message: str, path: Path | None = None) -> None:
        plain(self, ODD_WORDS, path)

    with monkeypatch.context() as patch:
        patch.setattr(StoreError, "__init__", reworded)
        yield patch


def damage(path: Path, how: str) -> None:
    """Damage a file so that one error or another is raised."""
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "sealed otherwise":
        path.write_bytes(seal("toptune-something", {"name": "else"}))
    else:
        path.write_bytes(data[: len(data) // 2] + b"?" + data[len(data) // 2 + 1 :])


def outcome(root: Path) -> tuple[object, ...]:
    """Say which files verify blames, and what repair does about them, without any reason."""
    blamed = [path for path, _ in verify(FeatureStore(root), deep=True).damaged]
    done = repair(root)
    left = [path for path, _ in done.left]
    return blamed, done.rebuilt, done.removed, done.dropped, done.dropped_arrays, done.dropped_datasets, left


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "store"])
@pytest.mark.parametrize("how", ["gone", "sealed otherwise", "flipped"])
def test_other_words_blame_and_repair_the_same(
    complete: FeatureCache, in_other_words: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    damage(every_kind(complete)[kind], how)
    kept = complete.root.with_name("kept")
    shutil.copytree(complete.root, kept)
    reworded = outcome(complete.root)
    in_other_words.undo()
    shutil.rmtree(complete.root)
    kept.rename(complete.root)
    assert outcome(complete.root) == reworded


def test_a_recipe_of_another_version_is_blamed_itself(complete: FeatureCache) -> None:
    """Its digest holds, so that only its content is to blame."""
    text = make_recipe().to_json().replace('"version":1', '"version":2')
    path = complete.path / "recipe.json"
    with pytest.raises(FormatVersionError, match="version 2") as refused:
        Recipe.from_json(text, path)
    assert refused.value.path == path
    assert str(refused.value).count(str(path)) == 1


def test_an_error_names_its_file_once(complete: FeatureCache) -> None:
    path = complete.path / "recipe.json"
    damage(path, "flipped")
    with pytest.raises(CorruptError) as refused:
        FeatureStore(complete.root).cache("resnet10t.demo", "pets")
    assert refused.value.path == path
    assert str(refused.value).count(str(path)) == 1
