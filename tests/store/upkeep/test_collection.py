"""gc: leftovers go when nobody can be at work on them, caches by last use; what counts stays."""

import os
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from small_store import make_recipe, open_empty, shard_bytes, write_all

from toptune.store import (
    FeatureCache,
    FeatureStore,
    InputError,
    collect_garbage,
    find_garbage,
    measure,
    verify,
)
from toptune.store.features.hints import last_use

LATER = datetime.now(UTC) + timedelta(hours=2)
DAYS = timedelta(days=1)


def litter(cache: FeatureCache) -> list[Path]:
    """Leave one thing of every kind behind, and return their paths."""
    root = cache.root
    files = [
        root / ".tmp-00",
        root / "datasets/.tmp-11/dataset.json",
        root / "features/.tmp-22/pets/cache.json",
        cache.path / ".tmp-33/000001.json",
        cache.path / "ledger/last.cls/.tmp-44",
        cache.path / "last.cls/c/1/.tmp-55",
        cache.path / "gone.mean/zarr.json",
    ]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    empty = root / "features/old@01234567"
    empty.mkdir()
    cache.entry_path("last.cls", 3).unlink()
    cache.remember_request("key", ["gone.mean"])
    cache.remember_request("good", ["last.cls"])
    paths = [path.parent if path.parent.name.startswith(".tmp") else path for path in files]
    paths[2], paths[-1] = root / "features/.tmp-22", cache.path / "gone.mean"
    return [*paths, empty, cache.shard_path("last.cls", 3), cache.path / "requests/key.json"]


def test_nothing_in_a_clean_store(complete: FeatureCache) -> None:
    assert find_garbage(FeatureStore(complete.root), grace=timedelta(0), now=LATER) == []


def test_leftovers_go_and_nothing_else(complete: FeatureCache) -> None:
    store = FeatureStore(complete.root)
    before = shard_bytes(complete)
    left = litter(complete)
    assert find_garbage(store) == []  # a writer may be at work on them
    items = find_garbage(store, now=LATER)
    assert [item.path for item in items] == sorted(map(str, left))
    assert all(path.exists() for path in left)
    collect_garbage(store, items)
    collect_garbage(store, items)  # another one may have been faster
    assert not any(path.exists() for path in left)
    report = verify(store, deep=True)
    assert (report.damaged, report.leftovers) == ((), ())
    assert complete.recall_request("good") == ["last.cls"]
    assert shard_bytes(write_all(complete.root)) == before


def test_a_shard_of_a_writer_at_work_stays(root: Path) -> None:
    cache = open_empty(root)
    path = cache.shard_path("last.cls", 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"just published")
    assert find_garbage(FeatureStore(root)) == []


def test_what_a_writer_put_into_a_removed_cache(complete: FeatureCache) -> None:
    orphan = complete.root / "features/vit@01234567/pets"
    (orphan / "last.cls/c/0").mkdir(parents=True)
    (orphan / "last.cls/c/0/0").write_text("late")
    items = find_garbage(FeatureStore(complete.root), now=LATER)
    assert [item.path for item in items] == [str(orphan)]
    # A cache that only lost its record is not garbage: it may come back from a copy.
    (complete.path / "cache.json").unlink()
    assert len(find_garbage(FeatureStore(complete.root), now=LATER)) == 1


def caches_used(complete: FeatureCache, days_ago: dict[str, int]) -> FeatureStore:
    """Make one more cache a name, all last used that many days before `LATER`."""
    store = FeatureStore(complete.root)
    for name, days in days_ago.items():
        recipe = make_recipe(architecture="imported" if name == "imported" else name)
        cache = store.create_cache(name, "pets", recipe, unit_rows=8, batch_size=4, backbone={})
        moment = (LATER - days * DAYS).timestamp()
        os.utime(cache.path / "cache.json", (moment, moment))
    return store


def evicted(store: FeatureStore, **options: object) -> list[str]:
    items = find_garbage(store, now=LATER, **options)  # type: ignore[arg-type]
    return sorted(item.cache.partition("@")[0] for item in items if item.cache)


def test_eviction_by_last_use(complete: FeatureCache) -> None:
    store = caches_used(complete, {"old": 40, "older": 50, "recent": 3, "imported": 90})
    assert evicted(store) == []
    assert evicted(store, older_than=30 * DAYS) == ["old", "older"]
    assert evicted(store, keep=2) == ["old", "older"]  # `complete` was made just now
    assert evicted(store, older_than=30 * DAYS, keep=3) == ["older"]
    assert evicted(store, keep=9) == []
    store.cache("older", "pets").mark_used()
    assert evicted(store, older_than=30 * DAYS) == ["old"]
    collect_garbage(store, find_garbage(store, now=LATER, older_than=30 * DAYS))
    assert {cache.model for cache in store.caches()} == {"older", "recent", "imported", "resnet10t.demo"}
    assert verify(store, deep=True).damaged == ()
    with pytest.raises(InputError, match="keep is -1"):
        find_garbage(store, keep=-1)
    with pytest.raises(InputError, match="negative"):
        find_garbage(store, older_than=-DAYS)


def test_a_read_only_store_is_not_marked(complete: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    before = last_use(complete.path)

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        complete.mark_used()
    assert not (complete.path / "used.json").exists()
    assert last_use(complete.path) == before
    complete.mark_used()
    (complete.path / "used.json").write_text("{}")
    assert last_use(complete.path) >= before  # a damaged mark is none


def test_du_knows_whose_every_file_is(complete: FeatureCache) -> None:
    litter(complete)
    usage = measure(FeatureStore(complete.root))
    rows = {(each.dataset, each.cache, each.part): each.n_bytes for each in usage}
    assert sum(rows.values()) == sum(
        path.lstat().st_size for path in complete.root.rglob("*") if path.is_file()
    )
    name = complete.name
    assert rows["", "", "(leftovers)"] == 3 * len("half")
    assert rows["pets", name, "(leftovers)"] == 3 * len("half") + len("half")
    assert rows["pets", "", "(manifest)"] > 0
    assert {key[2] for key in rows if key[1] == name} == {
        *("last.cls", "layer4.mean", "content.sha256"),
        *("(bookkeeping)", "(leftovers)"),
    }


@pytest.mark.parametrize("days", [-30, 30])
def test_a_clock_of_this_machine_that_is_wrong(
    complete: FeatureCache, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """Ages are told by the clock that stamps files, so that nothing young is taken, and what is old is."""
    store = FeatureStore(complete.root)
    young = litter(complete)
    old = complete.root / ".tmp-old"
    old.write_text("half")

    def changed(path: Path) -> float:
        return max(path.lstat().st_mtime, path.lstat().st_ctime) - (7200 if path == old else 0)

    monkeypatch.setattr("toptune.store.upkeep.garbage._changed", changed)
    wrong = time.time() + days * 86400
    monkeypatch.setattr(time, "time", lambda: wrong)
    monkeypatch.setattr("toptune.store.upkeep.garbage.datetime", _wrong_datetime(days))
    # A file's own date may be another machine's, or from before it was copied here; its change is not.
    os.utime(young[0], (1, 1))
    items = find_garbage(store, older_than=DAYS)
    assert [item.path for item in items] == [str(old)]
    collect_garbage(store, find_garbage(store, older_than=DAYS))
    assert all(path.exists() for path in young)


def _wrong_datetime(days: int) -> type[datetime]:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Wrong":
            return cls.fromtimestamp(super().now(tz).timestamp() + days * 86400, tz)

    return Wrong
