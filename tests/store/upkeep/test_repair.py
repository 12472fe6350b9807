"""repair: exactly what is damaged goes, and writing again restores it byte for byte."""

import json
import random
from pathlib import Path

import pytest
from small_store import DIMS, KINDS, N_ROWS, every_kind, make_recipe, open_empty, shard_bytes, write_all

from toptune.store import FeatureCache, FeatureStore, FormatVersionError, repair, verify
from toptune.store.files.sealed import seal

REBUILT = ("store", "array record", "zarr metadata")
DROPPED = {
    "entry": ("last.cls", [3]),
    "shard": ("layer4.mean", [0]),
    "last shard": ("last.cls", [3]),
    "content": ("content.sha256", [1]),
}


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "flipped":
        place = random.Random(str(path)[-20:]).randrange(len(data))
        data[place] ^= 0x20
        path.write_bytes(data)
    else:
        path.write_bytes(data[:-1])


def test_nothing_is_damaged(complete: FeatureCache) -> None:
    report = repair(complete.root)
    assert (report.exit_code, str(report), report.missing) == (0, "nothing is damaged", {})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cache" and kind != "recipe"])
@pytest.mark.parametrize("how", ["flipped", "shorter", "gone"])
def test_every_kind_of_damage_is_mended(complete: FeatureCache, kind: str, how: str) -> None:
    before = shard_bytes(complete)
    path = every_kind(complete)[kind]
    damage(path, how)
    report = repair(complete.root)
    assert report.exit_code == 0
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    if kind in REBUILT:
        assert report.rebuilt == (str(path),)
        assert report.missing == {}
        assert verify(FeatureStore(complete.root), deep=True).exit_code == 0
    elif kind in DROPPED and (kind, how) != ("entry", "gone"):
        array, units = DROPPED[kind]
        assert report.dropped == report.missing == {f"{complete.name}/pets/{array}": units}
        assert "run the same extract again" in str(report)
        after = verify(FeatureStore(complete.root), deep=True)
        assert (after.damaged, after.missing) == ((), report.missing)
    elif kind in ("dataset", "manifest"):
        assert report.dropped_datasets == ("pets",)
    cache = write_all(complete.root)
    assert shard_bytes(cache) == before
    assert verify(FeatureStore(complete.root), deep=True).exit_code == 0


def test_a_sound_shard_in_the_wrong_place_goes(complete: FeatureCache) -> None:
    before = shard_bytes(complete)
    path = complete.shard_path("last.cls", 1)
    path.write_bytes(complete.shard_path("last.cls", 2).read_bytes())
    assert list(repair(complete.root).dropped.values()) == [[1]]
    assert not path.exists()
    assert not complete.entry_path("last.cls", 1).exists()
    assert shard_bytes(write_all(complete.root)) == before


def test_only_the_damaged_units_are_computed_again(complete: FeatureCache) -> None:
    others = {
        path: path.stat().st_mtime_ns
        for path in complete.path.rglob("*")
        if path.is_file() and "c" in path.parts
    }
    guilty = [complete.shard_path("last.cls", 0), complete.shard_path("layer4.mean", 2)]
    for path in guilty:
        damage(path, "flipped")
    report = repair(complete.root)
    assert report.missing == {f"{complete.name}/pets/last.cls": [0], f"{complete.name}/pets/layer4.mean": [2]}
    write_all(complete.root)
    changed = [path for path, when in others.items() if path.stat().st_mtime_ns != when]
    assert sorted(changed) == sorted(guilty)


def test_record_and_metadata_both_gone_cost_that_array(complete: FeatureCache) -> None:
    before = shard_bytes(complete)
    (complete.path / "ledger/last.cls/array.json").write_bytes(b"{}")
    (complete.path / "last.cls/zarr.json").write_bytes(b"{}")
    report = repair(complete.root)
    assert report.dropped_arrays == (f"{complete.name}/pets/last.cls",)
    assert not (complete.path / "last.cls").exists()
    assert (complete.path / "layer4.mean").exists()
    assert shard_bytes(write_all(complete.root)) == before


def test_metadata_of_another_array_is_not_believed(complete: FeatureCache) -> None:
    (complete.path / "ledger/last.cls/array.json").unlink()
    metadata = complete.path / "last.cls/zarr.json"
    metadata.write_text(metadata.read_text().replace(f"{N_ROWS}", f"{N_ROWS + 1}"))
    assert repair(complete.root).dropped_arrays == (f"{complete.name}/pets/last.cls",)
    assert set(DIMS) - {"last.cls"} == {spec.name for spec in complete.arrays()}


def test_a_damaged_record_hides_nothing(complete: FeatureCache) -> None:
    damage(complete.path / "ledger/last.cls/array.json", "flipped")
    damage(complete.shard_path("last.cls", 2), "flipped")
    report = repair(complete.root)
    assert len(report.rebuilt) == 1
    assert report.dropped == {f"{complete.name}/pets/last.cls": [2]}


def test_a_recipe_comes_back_from_another_data_set(complete: FeatureCache) -> None:
    store = FeatureStore(complete.root)
    store.register("cats", complete.manifest)
    store.create_cache(
        "resnet10t.demo", "cats", make_recipe(), unit_rows=8, batch_size=4, backbone={"name": "x"}
    )
    path = complete.path / "recipe.json"
    before = path.read_bytes()
    damage(path, "flipped")
    assert repair(complete.root).rebuilt == (str(path),)
    assert path.read_bytes() == before


@pytest.mark.parametrize("part", ["recipe.json", "cache.json"])
def test_what_cannot_be_told_is_left_with_the_next_step(complete: FeatureCache, part: str) -> None:
    damage(complete.path / part, "flipped")
    report = repair(complete.root)
    assert report.exit_code == 1
    ((path, reason),) = report.left
    assert path == str(complete.path / part)
    assert "store rm" in reason
    assert len(shard_bytes(complete)) == 15  # nothing of the features went


def test_what_a_newer_toptune_wrote_is_left(complete: FeatureCache) -> None:
    path = complete.entry_path("last.cls", 1)
    newer = seal("toptune-ledger-entry", {}).replace(b'"version": 1', b'"version": 2')
    content = {key: value for key, value in json.loads(newer).items() if key != "self_sha256"}
    from toptune.store.files import sealed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed, "VERSION", 2)
        path.write_bytes(seal("toptune-ledger-entry", content))
    report = repair(complete.root)
    assert [name for name, _ in report.left] == [str(path)]
    assert "newer toptune" in report.left[0][1]
    assert path.exists()
    (complete.root / "toptune.json").write_text('{"format": "toptune-store", "version": 3}\n')
    with pytest.raises(FormatVersionError):
        repair(complete.root)


def test_a_unit_made_sound_meanwhile_stays(complete: FeatureCache) -> None:
    from toptune.store.upkeep.repair import _Repair

    path = complete.shard_path("last.cls", 1)
    _Repair(complete.root).mend(path, "does not match the checksum in the ledger")
    assert path.exists()
    assert open_empty(complete.root).is_complete()
