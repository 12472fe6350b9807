"""A process stands still at any step, and others go on: the store is then as if both had taken turns."""

import functools
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from faults import Stall
from small_store import make_manifest
from stalled_writer import NAME, UNIT, Writer, act_stalled, chosen, remove_all

from toptune.store import (
    FeatureCache,
    FeatureStore,
    Manifest,
    StoreError,
    collect_garbage,
    copy_store,
    find_garbage,
    grow,
    plan_removal,
    remove,
    verify,
)
from toptune.store.datasets.versions import version_numbers


def counted_steps(act: Callable[[], object]) -> Stall:
    """Count the steps of an act that is not disturbed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        stall = Stall(0, lambda: None)
        stall.install(monkeypatch)
        act()
    return stall


def count_steps(folder: Path, form: str, act: Callable[[Writer, FeatureCache], object]) -> Stall:
    """Count the steps of what a writer does who is not disturbed."""
    one = Writer(folder / "counted", form, is_other=False)
    cache = one.open()
    stall = counted_steps(lambda: act(one, cache))
    shutil.rmtree(folder / "counted")
    return stall


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stalled_writer_leaves_nothing_in_a_data_set_of_other_images(
    tmp_path: Path, form: str, when: str
) -> None:
    """The other writer commits before the first one wakes up, or after that."""

    def commit(writer: Writer, cache: FeatureCache) -> None:
        writer.commit(cache)

    counted = count_steps(tmp_path, form, commit)
    assert len(counted.kinds) > 20
    for number in chosen(counted, form, when):
        root = tmp_path / f"{number}"
        one, two = Writer(root, form, is_other=False), Writer(root, form, is_other=True)
        cache = one.open()

        def meanwhile(root: Path = root, two: Writer = two) -> None:
            remove_all(root)
            two.write_all() if when == "before" else two.open()

        act_stalled(Stall(number, meanwhile), functools.partial(one.commit, cache))
        two.check()
        shutil.rmtree(root)


def open_one(writer: Writer, _cache: FeatureCache) -> None:
    writer.open()


def hint(_writer: Writer, cache: FeatureCache) -> None:
    cache.mark_used()
    cache.remember_request("key", [NAME])
    cache.ensure_array("more.mean", dim=2, dtype="float32")
    cache.pack_ledgers([NAME])


@pytest.mark.parametrize("act", [open_one, hint])
def test_a_stalled_maker_leaves_nothing_in_a_data_set_of_other_images(
    tmp_path: Path, act: Callable[[Writer, FeatureCache], None]
) -> None:
    counted = count_steps(tmp_path, "zarr", act)
    for number in chosen(counted, act.__name__):
        root = tmp_path / f"{number}"
        one, two = Writer(root, "zarr", is_other=False), Writer(root, "zarr", is_other=True)
        cache = one.open()

        def meanwhile(root: Path = root, two: Writer = two) -> None:
            remove_all(root)
            two.open()

        act_stalled(Stall(number, meanwhile), functools.partial(act, one, cache))
        two.check()
        shutil.rmtree(root)


def make_first(root: Path) -> None:
    """A data set without caches, or no data set at all, before a writer of other images comes."""
    FeatureStore.create(root).register("pets", make_manifest())


@pytest.mark.parametrize("is_again", [False, True])
def test_a_stalled_maker_of_a_cache(tmp_path: Path, is_again: bool) -> None:
    """The data set goes after its record was read; it may be made anew of other images."""
    make_first(tmp_path / "counted")
    stall = counted_steps(lambda: Writer(tmp_path / "counted", "zarr", is_other=False).open())
    for number in chosen(stall, "cache", str(is_again)):
        root = tmp_path / f"{number}"
        make_first(root)
        one, two = Writer(root, "zarr", is_other=False), Writer(root, "zarr", is_other=True)

        def meanwhile(root: Path = root, two: Writer = two) -> None:
            remove_all(root)
            if is_again:
                two.open()

        act_stalled(Stall(number, meanwhile), one.open)
        report = verify(FeatureStore.open(root), deep=True)
        assert report.damaged == (), (number, report)
        if FeatureStore.open(root).datasets() and not is_again:
            remove_all(root)  # It was registered before the removal, or after it.
        two.check()
        shutil.rmtree(root)


def check_removals(folder: Path, act: Callable[[Path], object], name: str) -> None:
    """Let a removal stand still at steps of each kind while a writer comes: its work is there, or nothing."""
    Writer(folder / "counted", "zarr", is_other=False).write_all()
    stall = counted_steps(lambda: act(folder / "counted"))
    for number in chosen(stall, name):
        root = folder / f"{number}"
        one = Writer(root, "zarr", is_other=False)
        one.write_all()
        act_stalled(Stall(number, one.write_all), functools.partial(act, root))
        report = verify(FeatureStore.open(root), deep=True)
        assert report.damaged == (), (number, report)
        one.check()
        shutil.rmtree(root)


def test_a_stalled_removal_takes_all_or_leaves_a_whole(tmp_path: Path) -> None:
    check_removals(tmp_path, remove_all, "removal")


def test_a_stalled_removal_of_layers(tmp_path: Path) -> None:
    """The writer who comes meanwhile has another type in mind for the array."""

    def remove_layer(root: Path) -> None:
        store = FeatureStore.open(root)
        remove(store, plan_removal(store, dataset="pets", model="resnet10t.demo", layers=[NAME]))

    check_removals(tmp_path, remove_layer, "layers")


def test_a_stalled_move_loses_no_unit_that_came_meanwhile(tmp_path: Path) -> None:
    def move(root: Path) -> None:
        copy_store(FeatureStore.open(root), root.parent / f"{root.name}-copy", move=True)

    def begun(root: Path) -> tuple[Writer, FeatureCache]:
        one = Writer(root, "zarr", is_other=False)
        cache = one.open()
        one.commit(cache, 0)
        return one, cache

    begun(tmp_path / "counted")
    stall = counted_steps(lambda: move(tmp_path / "counted"))
    for number in chosen(stall, "move"):
        root = tmp_path / f"{number}"
        one, cache = begun(root)
        told: list[StoreError] = []

        def meanwhile(one: Writer = one, cache: FeatureCache = cache, told: list[StoreError] = told) -> None:
            try:
                one.commit(cache, 2)
            except StoreError as error:
                told.append(error)

        act_stalled(Stall(number, meanwhile), functools.partial(move, root))
        done = set()
        for each in (root, root.parent / f"{root.name}-copy"):
            for found in FeatureStore.open(each).caches() if each.exists() else []:
                done |= set(found.entries(NAME))
                assert verify(found, deep=True).damaged == ()
        assert 0 in done
        assert told or 2 in done, number


def test_a_stalled_grower(tmp_path: Path) -> None:
    """The data set is removed, and made anew of other images, while one adds to it."""
    more = Manifest.from_columns(
        ids=[*make_manifest().ids, "new"], sizes=[*make_manifest().sizes.tolist(), 900]
    )

    def extend(root: Path) -> None:
        grow(FeatureStore.open(root), "pets", more)

    make_first(tmp_path / "counted")
    stall = counted_steps(lambda: extend(tmp_path / "counted"))
    for number in chosen(stall, "grow"):
        root = tmp_path / f"{number}"
        make_first(root)
        two = Writer(root, "zarr", is_other=True)

        def meanwhile(root: Path = root, two: Writer = two) -> None:
            remove_all(root)
            two.open()

        act_stalled(Stall(number, meanwhile), functools.partial(extend, root))
        assert verify(FeatureStore.open(root), deep=True).damaged == ()
        if version_numbers(root, "pets") == [1]:
            two.check()
        shutil.rmtree(root)


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_a_stalled_collection_takes_nothing_that_is_named_meanwhile(tmp_path: Path, form: str) -> None:
    def collect(root: Path) -> None:
        store = FeatureStore.open(root)
        collect_garbage(store, find_garbage(store, grace=timedelta(0)))

    def begun(root: Path) -> Writer:
        one = Writer(root, form, is_other=False)
        cache = one.write_all()
        cache.ledger(NAME).unpack()
        cache.entry_path(NAME, UNIT).unlink()
        time.sleep(0.02)
        return one

    begun(tmp_path / "counted")
    stall = counted_steps(lambda: collect(tmp_path / "counted"))
    for number in chosen(stall, "collect", form):
        root = tmp_path / f"{number}"
        one = begun(root)

        def meanwhile(one: Writer = one) -> None:
            time.sleep(0.02)  # File systems tell times to some milliseconds.
            one.write_all()

        act_stalled(Stall(number, meanwhile), functools.partial(collect, root))
        assert verify(FeatureStore.open(root), deep=True).damaged == (), number
        one.check()
        shutil.rmtree(root)


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_a_collection_that_spares_nothing_young_takes_no_unit_of_a_writer_at_work(
    tmp_path: Path, form: str
) -> None:
    """The collection comes when a file has its name, and the ledger does not name the file yet."""
    counted = count_steps(tmp_path, form, lambda one, cache: one.commit(cache))
    linked = [number for number, (step, _) in enumerate(counted.kinds, start=1) if step == "link"]
    for number in linked:
        root = tmp_path / f"{number}"
        one = Writer(root, form, is_other=False)
        cache = one.open()

        def meanwhile(root: Path = root) -> None:
            store = FeatureStore.open(root)
            collect_garbage(store, find_garbage(store, grace=timedelta(0)))

        with pytest.MonkeyPatch.context() as monkeypatch:
            Stall(number + 1, meanwhile).install(monkeypatch)
            one.commit(cache)
        assert all(cache.entry(name, UNIT) for name in one.values)
        one.check()
        shutil.rmtree(root)


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_a_collection_takes_no_unit_that_was_named_since_it_was_found(tmp_path: Path, form: str) -> None:
    one = Writer(tmp_path, form, is_other=False)
    cache = one.write_all()
    cache.ledger(NAME).unpack()
    path = cache.entry_path(NAME, UNIT)
    entry = path.read_bytes()
    path.unlink()
    found = find_garbage(FeatureStore.open(tmp_path), grace=timedelta(0))
    assert [item.reason for item in found] == ["shard without a ledger entry"]
    path.write_bytes(entry)
    collect_garbage(FeatureStore.open(tmp_path), found)
    assert cache.entry(NAME, UNIT) is not None
    one.check()


def test_a_temporary_file_that_its_writer_takes_away_is_no_garbage(tmp_path: Path) -> None:
    cache = Writer(tmp_path, "zarr", is_other=False).write_all()
    left = cache.path / NAME / ".tmp-0123456789abcdef0123456789abcdef"

    def collect() -> list[str]:
        store = FeatureStore.open(tmp_path)
        return [item.path for item in find_garbage(store, grace=timedelta(0))]

    left.write_bytes(b"half")
    stall = counted_steps(collect)
    for number in range(1, len(stall.kinds) + 1):
        left.write_bytes(b"half")
        with pytest.MonkeyPatch.context() as monkeypatch:
            Stall(number, left.unlink).install(monkeypatch)
            assert collect() in ([], [str(left)])
        left.unlink(missing_ok=True)
