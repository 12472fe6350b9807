"""verify: every flipped bit is found, every missing unit named, leftovers do no harm."""

import json
import random
from pathlib import Path

import pytest
from small_store import KINDS, every_kind, features, make_recipe, open_empty

from toptune.store import FeatureCache, FeatureStore, VerifyReport, describe, summarize, verify


def deep(cache: FeatureCache) -> VerifyReport:
    return verify(FeatureStore(cache.root), deep=True)


def test_a_complete_store_is_clean(complete: FeatureCache) -> None:
    for target in (complete, FeatureStore(complete.root)):
        for is_deep in (False, True):
            report = verify(target, deep=is_deep)
            assert (report.damaged, report.missing, report.leftovers) == ((), {}, ())
            assert report.exit_code == 0
    files = [path for path in complete.root.rglob("*") if path.is_file()]
    assert report.n_files == len(files)  # every file is covered
    assert report.n_bytes == sum(path.stat().st_size for path in files)
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


def test_every_kind_of_file_is_tried(complete: FeatureCache) -> None:
    assert sorted(every_kind(complete)) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_are_found(complete: FeatureCache, kind: str) -> None:
    path = every_kind(complete)[kind]
    store = FeatureStore(complete.root)
    sound = path.read_bytes()
    dice = random.Random(kind)
    places = [0, len(sound) - 1, *(dice.randrange(len(sound)) for _ in range(10))]
    for place in places:
        data = bytearray(sound)
        data[place] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        report = verify(store, deep=True)
        assert str(path) in [name for name, _ in report.damaged], (place, bytes(data))
        assert report.exit_code == 1
    path.write_bytes(sound)
    assert verify(store, deep=True).exit_code == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["empty", "shorter", "longer", "gone"])
def test_files_of_another_size_are_found_without_deep(complete: FeatureCache, kind: str, how: str) -> None:
    path = every_kind(complete)[kind]
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "shorter": data[:-1], "longer": data + b"\n"}[how])
    report = verify(FeatureStore(complete.root))
    if how == "gone" and kind == "entry":
        assert report.exit_code == 3
        assert list(report.missing.values()) == [[3]]
    elif how == "gone" and kind in ("request", "use"):
        assert report.exit_code == 0  # a hint less
    else:
        assert str(path) in [name for name, _ in report.damaged]
        assert report.exit_code == 1


def test_white_space_counts(complete: FeatureCache) -> None:
    path = complete.path / "cache.json"
    path.write_text(path.read_text().replace("\n ", "\n\t", 1))
    assert deep(complete).exit_code == 1


def test_missing_units_are_named(root: Path) -> None:
    cache = open_empty(root)
    rows = cache.unit_slice(1)
    cache.commit_unit(1, {"last.cls": features("last.cls")[rows]}, seconds=0)
    report = verify(cache)
    assert report.exit_code == 3
    assert report.missing == {
        f"{cache.name}/pets/content.sha256": [0, 1, 2, 3],
        f"{cache.name}/pets/last.cls": [0, 2, 3],
        f"{cache.name}/pets/layer4.mean": [0, 1, 2, 3],
    }


def test_ledger_without_data(complete: FeatureCache) -> None:
    path = complete.shard_path("last.cls", 1)
    path.unlink()
    report = verify(complete)
    assert report.damaged == ((str(path), "is gone although the ledger names it"),)


def test_data_without_ledger_is_left_over(complete: FeatureCache) -> None:
    complete.entry_path("last.cls", 1).unlink()
    report = verify(complete)
    assert report.leftovers == (str(complete.shard_path("last.cls", 1)),)
    assert report.missing == {f"{complete.name}/pets/last.cls": [1]}


def test_leftovers_do_not_fail(complete: FeatureCache) -> None:
    left = [
        complete.path / "last.cls/c/1/.tmp-0123",
        complete.path / "ledger/last.cls/.tmp-4567",
        complete.root / "datasets/.tmp-89/dataset.json",
        complete.root / "features/.tmp-ab/cache.json",
        complete.root / "notes.txt",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    report = deep(complete)
    assert report.exit_code == 0
    assert report.leftovers == tuple(sorted(map(str, left)))


def test_an_entry_moved_to_another_unit_is_found(complete: FeatureCache) -> None:
    path = complete.entry_path("last.cls", 1)
    path.write_bytes(complete.entry_path("last.cls", 2).read_bytes())
    assert [name for name, _ in deep(complete).damaged] == [str(path)]


def test_a_shard_of_another_unit_is_found(complete: FeatureCache) -> None:
    path = complete.shard_path("last.cls", 1)
    path.write_bytes(complete.shard_path("last.cls", 2).read_bytes())
    for report in (verify(complete), deep(complete)):  # sound in itself and of the right size
        assert [name for name, _ in report.damaged] == [str(path)]


def test_a_cache_without_its_dataset_is_found(complete: FeatureCache) -> None:
    (complete.root / "datasets/pets").rename(complete.root / "datasets/cats")
    assert deep(complete).exit_code == 1


def test_summaries(complete: FeatureCache) -> None:
    store = FeatureStore(complete.root)
    (row,) = summarize(store)
    assert (row.name, row.dataset, row.n_rows) == (complete.name, "pets", 27)
    assert row.arrays == ("last.cls", "layer4.mean")
    assert row.is_complete
    assert row.n_bytes == 27 * (2 * (5 + 3) + 32)
    assert row.who
    assert row.when.endswith("+00:00")
    complete.entry_path("last.cls", 1).unlink()
    assert not summarize(store)[0].is_complete
    assert summarize(store, dataset="birds") == []
    assert json.loads(json.dumps(row.to_dict())) == row.to_dict()


def test_description_explains_why_caches_differ(complete: FeatureCache) -> None:
    store = FeatureStore(complete.root)
    transform = {**make_recipe().transform, "crop_pct": 0.95}
    other = store.create_cache(
        "resnet10t.demo", "pets", make_recipe(transform=transform), unit_rows=8, batch_size=4, backbone={}
    )
    shown = describe(store, complete)
    assert shown["others"] == [
        {"name": other.name, "dataset": "pets", "differences": ["transform.crop_pct 0.875 against 0.95"]}
    ]
    assert shown["digest"] == make_recipe().digest
    assert shown["failed_rows"] == {"13": "truncated JPEG"}
    assert [array["missing_units"] for array in shown["arrays"]] == [[], [], []]
    assert json.loads(json.dumps(shown)) == shown
