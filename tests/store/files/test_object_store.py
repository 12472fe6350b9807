"""Stores in S3, against a local server: the contract of local folders."""

import functools
import logging
import multiprocessing
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from faults import BUCKET_STEPS, Stall
from grown_store import NAME, make_grown
from small_store import (
    DIMS,
    KINDS,
    N_ROWS,
    commit,
    every_kind,
    features,
    make_manifest,
    open_empty,
    shard_bytes,
    write_all,
)
from stalled_writer import Writer, act_stalled, chosen, remove_all

from toptune.store import (
    CONTENT_ARRAY,
    ConflictError,
    CorruptError,
    FeatureCache,
    FeatureStore,
    IncompleteError,
    InputError,
    Manifest,
    StoreError,
    StoreNotFoundError,
    collect_garbage,
    copy_store,
    find_garbage,
    measure,
    place_of,
    plan_removal,
    remove,
    repair,
    summarize,
    verify,
)
from toptune.store.datasets.versions import rows_path, version_path, version_record
from toptune.store.files.place import place_at
from toptune.store.files.s3_path import ObjectPath

pytest.importorskip("obstore", reason="obstore is not installed")
pytest.importorskip("moto.server", reason="moto is not installed")

NAMES = [*DIMS, CONTENT_ARRAY]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    import boto3  # type: ignore[import-untyped]
    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    # S3 alone: moto's server of all services looks through their modules on disk at each request.
    running = make_server(
        "127.0.0.1", 0, create_backend_app("s3"), threaded=True, request_handler=MotoRequestHandler
    )
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{running.server_port}"
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
    )
    client.create_bucket(Bucket="team")
    yield url
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture(autouse=True)
def _environment(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket_root() -> Path:
    return place_of(f"s3://team/{uuid.uuid4().hex}/store")


@pytest.fixture
def stored(bucket_root: Path) -> FeatureCache:
    return write_all(bucket_root)


def reopened(cache: FeatureCache) -> FeatureCache:
    return FeatureStore.open(cache.root).cache("resnet10t.demo", "pets")


def put(path: Path, data: bytes) -> None:
    place_at(path).replace(data)


def test_the_same_bytes_as_in_a_local_folder(stored: FeatureCache, tmp_path: Path) -> None:
    local = write_all(tmp_path / "store")
    assert shard_bytes(stored) == shard_bytes(local)
    assert isinstance(stored.root, ObjectPath)
    expected = np.concatenate([features(name) for name in DIMS], axis=1)
    expected[13] = np.nan
    blocks = reopened(stored).blocks(list(DIMS))
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks.iterate(5)]), expected)
    np.testing.assert_array_equal(blocks.take([20, 3, 26, 3]), expected[[20, 3, 26, 3]])  # checked before
    assert stored.failed_rows() == {13: "truncated JPEG"}
    assert verify(FeatureStore.open(str(stored.root)), deep=True).exit_code == 0


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_resumed_equals_undisturbed(bucket_root: Path, tmp_path: Path, form: str) -> None:
    cache = open_empty(bucket_root, format=form)
    commit(cache, 2)
    cache.entry_path("last.cls", 2).unlink()  # killed before the ledger
    put(cache.shard_path("last.cls", 0), b"of something else")
    with pytest.raises(IncompleteError, match="lacks 4 of 4 units"):
        cache.blocks(["last.cls"])
    write_all(bucket_root, format=form)
    cache.pack_ledgers(NAMES)
    assert shard_bytes(cache) == shard_bytes(write_all(tmp_path / "store", format=form))
    assert verify(FeatureStore.open(bucket_root), deep=True).exit_code == 0
    assert reopened(cache).is_complete()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("use", "content", "last shard")])
def test_a_flipped_bit_is_found_and_repaired(stored: FeatureCache, kind: str) -> None:
    before = shard_bytes(stored)
    path = every_kind(stored)[kind]
    data = path.read_bytes()
    place = len(data) // 2
    put(path, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    if kind == "store":
        with pytest.raises(StoreError):
            FeatureStore.open(stored.root)
    else:
        report = verify(FeatureStore.open(stored.root), deep=True)
        assert str(path) in {where for where, _ in report.damaged}
    if kind != "cache":
        repaired = repair(str(stored.root))
        assert repaired.exit_code == (1 if kind in ("dataset", "manifest", "recipe") and repaired.left else 0)
        if not repaired.left:
            assert shard_bytes(write_all(stored.root)) == before


def test_a_lost_shard_is_an_error_and_is_restored(stored: FeatureCache) -> None:
    before = shard_bytes(stored)
    blocks = stored.blocks(["layer4.mean"])
    path = stored.shard_path("layer4.mean", 1)
    path.unlink()
    for attempt in (lambda: stored.blocks(["layer4.mean"]), lambda: blocks.take([9])):
        with pytest.raises(CorruptError, match=str(path)):
            attempt()
    assert stored.missing_units("layer4.mean") == [1]
    assert shard_bytes(write_all(stored.root)) == before


def test_removed_and_made_anew_while_it_is_read(stored: FeatureCache) -> None:
    store = FeatureStore.open(stored.root)
    blocks = stored.blocks(["last.cls"])
    remove(store, plan_removal(store, dataset="pets"))
    assert list(store.cache_folders()) == []
    assert store.datasets() == []
    with pytest.raises(StoreNotFoundError, match="removed while it was in use"):
        blocks.take([0])
    time.sleep(1.1)  # S3 tells times to the second
    write_all(stored.root)
    with pytest.raises(StoreError, match="removed while it was in use"):
        blocks.take([0])
    with pytest.raises(StoreError, match="removed while it was in use"):
        commit(stored, 0)


def test_garbage_and_usage(stored: FeatureCache) -> None:
    store = FeatureStore.open(stored.root)
    assert sum(usage.n_bytes for usage in measure(store)) > 0
    assert find_garbage(store, grace=timedelta(0)) == []
    stored.entry_path("last.cls", 1).unlink()
    items = find_garbage(store, grace=timedelta(0))
    assert [item.path for item in items] == [str(stored.shard_path("last.cls", 1))]
    collect_garbage(store, items)
    assert not stored.shard_path("last.cls", 1).exists()
    (evicted,) = find_garbage(store, keep=0)
    collect_garbage(store, [evicted])
    assert store.caches() == []


def test_copies_to_and_from(stored: FeatureCache, tmp_path: Path) -> None:
    local = FeatureStore.create(tmp_path / "copy")
    copy_store(FeatureStore.open(stored.root), local)
    assert shard_bytes(local.cache("resnet10t.demo", "pets")) == shard_bytes(stored)
    back = FeatureStore.create(f"{stored.root.parent}/back")
    assert copy_store(local, back, move=True).moved
    assert shard_bytes(back.cache("resnet10t.demo", "pets")) == shard_bytes(stored)
    assert local.datasets() == []


def in_threads(actions: list[Callable[[], None]]) -> list[BaseException]:
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], None]) -> None:
        barrier.wait()
        try:
            action()
        except Exception as error:  # noqa: BLE001  (asserted by the caller)
            errors.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_many_writers_of_the_same_units(bucket_root: Path, tmp_path: Path) -> None:
    def write() -> None:
        for unit in range(4):
            commit(open_empty(bucket_root), unit)

    errors = in_threads([write] * 4)
    assert errors == []
    cache = open_empty(bucket_root)
    assert cache.is_complete()
    assert shard_bytes(cache) == shard_bytes(write_all(tmp_path / "store"))
    assert verify(FeatureStore.open(bucket_root), deep=True).exit_code == 0


def test_one_name_two_manifests(bucket_root: Path) -> None:
    """Exactly one of them is registered, whole; the others are told."""
    FeatureStore.create(bucket_root)
    manifests = [
        Manifest.from_columns(ids=[f"{job}-{row}" for row in range(5)], sizes=[1] * 5) for job in range(4)
    ]
    errors = in_threads(
        [lambda each=each: FeatureStore.open(bucket_root).register("pets", each) for each in manifests]  # type: ignore[misc]
    )
    assert len(errors) == 3
    assert all(isinstance(error, ConflictError) for error in errors)
    found = FeatureStore.open(bucket_root).manifest("pets")
    assert sum(not found.differences(manifest) for manifest in manifests) == 1


def test_a_registration_that_died_half_way_is_completed(bucket_root: Path) -> None:
    store = FeatureStore.create(bucket_root)
    store.register("pets", make_manifest())
    (bucket_root / "datasets/pets/manifest.parquet").unlink()
    assert store.register("pets", make_manifest()).n_rows == N_ROWS
    assert store.manifest("pets").n_rows == N_ROWS


def write_in_process(root: str, units: list[int]) -> None:
    cache = open_empty(place_of(root))
    for unit in units:
        commit(cache, unit)


def test_killed_processes(bucket_root: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for delay in (1.2, 1.6):
        process = context.Process(target=write_in_process, args=(str(bucket_root), [0, 1, 2, 3]))
        process.start()
        time.sleep(delay)
        process.kill()
        process.join()
    write_all(bucket_root)
    assert shard_bytes(open_empty(bucket_root)) == shard_bytes(write_all(tmp_path / "store"))


def test_extract_and_train(
    run_cli: Callable[..., tuple[int, str, str]], bucket_root: Path, tmp_path: Path
) -> None:
    from shapes import save_shapes

    save_shapes(tmp_path / "photos")
    options = ("--store", str(bucket_root), "--model", "resnet10t.toptune_glyphs")
    code, out, error = run_cli("extract", tmp_path / "photos", *options)
    assert code == 0, error
    code, out, _ = run_cli("extract", tmp_path / "photos", *options)
    assert "nothing to do" in out
    code, out, error = run_cli("train", *options, "--dataset", "photos", "--out", tmp_path / "run")
    assert code == 0, error
    # A RUN folder may come from somebody else, so that it alone sends nobody to a bucket with credentials.
    code, _, error = run_cli("evaluate", tmp_path / "run")
    assert (code, "--store" in error) == (2, True)
    assert run_cli("evaluate", tmp_path / "run", "--store", str(bucket_root))[0] == 0
    assert run_cli("store", "verify", "--deep", "--store", str(bucket_root))[0] == 0
    assert str(bucket_root) in run_cli("store", "show", "--store", str(bucket_root))[1]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("gs://team/x", r"neither a local folder nor s3://bucket/prefix"),
        ("s3://", "names no bucket"),
        ("s3://team/../x", "or climbs"),
        ("", "--store is empty"),
    ],
)
def test_places_that_are_none(root: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        FeatureStore.open(root)


def test_what_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, bucket_root: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="is no feature store"):
        FeatureStore.open(bucket_root)
    with pytest.raises(StoreError, match=r"cannot reach s3://nobody.*no such bucket"):
        FeatureStore.open("s3://nobody/store")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    start = time.perf_counter()
    with pytest.raises(StoreError, match=r"cannot reach s3://team/x.*check AWS_ENDPOINT_URL"):
        FeatureStore.open("s3://team/x")
    assert time.perf_counter() - start < 20


def test_nothing_of_a_bucket_reaches_this_disk(bucket_root: Path) -> None:
    for attempt in (
        lambda: os.stat(bucket_root),  # noqa: PTH116
        lambda: bucket_root.mkdir(),
        lambda: bucket_root.write_text("x"),
        lambda: bucket_root.open("w"),
    ):
        with pytest.raises(TypeError, match=r"no file of this machine|only be read"):
            attempt()


def test_a_data_set_grows(bucket_root: Path) -> None:
    store = make_grown(bucket_root)
    view = store.features("tiny.demo", "pets")
    assert (view.dataset_version, view.n_rows) == (3, 13)
    values = view.blocks([NAME]).take(range(13))
    assert values[:, 0].tolist() == list(range(4, 17))
    (row,) = summarize(store)
    assert (row.version, row.parts, row.is_complete) == (3, 2, True)
    report = verify(store, deep=True)
    assert (report.damaged, report.missing, report.leftovers) == ((), {}, ())
    latest = version_path(store.root, "pets", 3)
    place_at(latest).replace(b"{}")
    assert repair(bucket_root).rebuilt == (str(latest),)
    rows = rows_path(store.root, "pets", version_record(store.root, "pets", 3).rows_sha256)
    place_at(rows).replace(b"half")
    assert repair(bucket_root).dropped_versions == ("version 3 of data set pets",)
    assert verify(store).damaged == ()
    assert store.manifest("pets").n_rows == 13
    assert {usage.dataset for usage in measure(store)} <= {"", "pets"}
    remove(store, plan_removal(store, dataset="pets"))
    assert store.datasets() == []


def half_removed(cache: FeatureCache) -> None:
    """As a removal leaves it that was killed after its first step."""
    (cache.path / "cache.json").unlink()
    (cache.root / "datasets/pets/dataset.json").unlink()


def test_remains_are_never_taken_for_features_of_others(stored: FeatureCache) -> None:
    half_removed(stored)
    store = FeatureStore.open(stored.root)
    others = Manifest.from_columns(ids=[f"dog {row}" for row in range(N_ROWS)], sizes=[5] * N_ROWS)
    store.register("pets", others)
    cache = store.create_cache(
        "resnet10t.demo", "pets", stored.recipe, unit_rows=8, batch_size=4, backbone={}
    )
    assert cache.path == stored.path
    assert cache.all_arrays() == []
    cache.ensure_array("last.cls", dim=3, dtype="float16")
    assert cache.missing_units("last.cls") == [0, 1, 2, 3]
    assert verify(store, deep=True).leftovers == ()


def test_remains_are_garbage(stored: FeatureCache) -> None:
    (stored.path / "cache.json").unlink()
    store = FeatureStore.open(stored.root)
    items = find_garbage(store, grace=timedelta(0))
    assert [(item.path, item.reason) for item in items] == [
        (str(stored.path), "remains of resnet10t.demo, which was removed")
    ]
    collect_garbage(store, items)
    assert list(store.cache_folders()) == []
    assert verify(store, deep=True).exit_code == 0


def test_folders_that_web_pages_make(stored: FeatureCache) -> None:
    """An empty object with a slash at its end."""
    import obstore

    root = stored.root
    assert isinstance(root, ObjectPath)
    for place in (root, root / "features", stored.path):
        assert isinstance(place, ObjectPath)
        obstore.put(root.bucket, f"{place.key}/", b"")
    store = FeatureStore.open(root)
    assert [cache.path for cache in store.caches()] == [stored.path]
    assert verify(store, deep=True).exit_code == 0


def commit_one(writer: Writer, cache: FeatureCache) -> None:
    writer.commit(cache)


def open_one(writer: Writer, _cache: FeatureCache) -> None:
    writer.open()


def leave_hints(_writer: Writer, cache: FeatureCache) -> None:
    cache.mark_used()
    cache.remember_request("key", [*DIMS])
    cache.pack_ledgers([CONTENT_ARRAY])


def copy_there(writer: Writer, _cache: FeatureCache) -> None:
    copy_store(FeatureStore.open(writer.root.parent / "source"), writer.root)


@pytest.mark.parametrize(
    ("act", "form", "when"),
    [
        (commit_one, "zarr", "before"),
        (commit_one, "hdf5", "after"),
        (open_one, "zarr", "after"),
        (leave_hints, "zarr", "before"),
        (copy_there, "zarr", "after"),
    ],
)
def test_who_stands_still_in_a_bucket_leaves_nothing_in_a_data_set_of_other_images(
    bucket_root: Path, act: Callable[[Writer, FeatureCache], None], form: str, when: str
) -> None:
    """As in a folder: others remove the data set and make it anew, before or after the first one wakes up."""
    if act is copy_there:
        Writer(bucket_root.parent / "source", form, is_other=False).write_all()
    counted = Writer(bucket_root.parent / "counted", form, is_other=False)
    cache = counted.open()
    count = Stall(0, lambda: None, only=BUCKET_STEPS)
    act_stalled(count, functools.partial(act, counted, cache))
    assert len(count.kinds) > 5
    for number in chosen(count, act.__name__, form, when):
        root = bucket_root.parent / f"{number}"
        one, two = Writer(root, form, is_other=False), Writer(root, form, is_other=True)
        cache = one.open()

        def meanwhile(root: Path = root, two: Writer = two) -> None:
            remove_all(root)
            two.write_all() if when == "before" else two.open()

        act_stalled(Stall(number, meanwhile, only=BUCKET_STEPS), functools.partial(act, one, cache))
        two.check()


def test_an_object_that_another_replaced_meanwhile_stays(bucket_root: Path) -> None:
    place = place_at(bucket_root / "object")
    assert place.put_if_absent(b"one")
    seen = place.status()
    place.replace(b"two")
    assert not place.exchange(b"three", seen)
    assert place.read() == b"two"
    assert place.exchange(b"three", place.status())
    assert place.read() == b"three"
