"""A store that a team shares: permissions, readers while others remove, full disks."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from small_store import open_empty, shard_bytes, write_all

from toptune.store import FeatureCache, FeatureStore, StoreError, plan_removal, remove, verify

TESTS = Path(__file__).parents[1]
NOBODY = 65534


def run(code: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
    )


def modes(root: Path) -> set[tuple[str, str]]:
    return {
        ("folder" if path.is_dir() else "file", stat.filemode(path.stat().st_mode))
        for path in [root, *root.rglob("*")]
    }


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_a_group_keeps_its_permissions(tmp_path: Path, form: str) -> None:
    """umask 002 in a folder with setgid: the group can write, and everything belongs to the group."""
    shared = tmp_path / "team"
    shared.mkdir()
    group = next((each for each in os.getgroups() if each != os.getgid()), os.getgid())
    if os.getuid() == 0:
        group = 12345
    os.chown(shared, -1, group)
    shared.chmod(0o2775)
    before = os.umask(0o002)
    try:
        cache = write_all(shared / "store", format=form)
        cache.pack_ledgers(["last.cls"])
        cache.mark_used()
    finally:
        os.umask(before)
    assert modes(shared / "store") == {("folder", "drwxrwsr-x"), ("file", "-rw-rw-r--")}
    assert {path.stat().st_gid for path in (shared / "store").rglob("*")} == {group}


def test_a_private_store_stays_private(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_all(tmp_path / "store")
    finally:
        os.umask(before)
    assert modes(tmp_path / "store") == {("folder", "drwx------"), ("file", "-rw-------")}


READ_ONLY = """
import os, sys
from pathlib import Path
root, user = Path(sys.argv[1]), int(sys.argv[2])
import numpy, zarr, toptune.store, small_store
from toptune.store import FeatureStore, StoreError, summarize, verify
for name in toptune.store.__all__:
    getattr(toptune.store, name)  # loads now what the other user may not read
toptune.store.provenance()
if os.getuid() == 0:
    os.setgid(user)
    os.setuid(user)
store = FeatureStore.open(root)
(row,) = summarize(store)
assert row.is_complete
cache = store.cache("resnet10t.demo", "pets")
cache.mark_used()
assert cache.blocks(["last.cls"]).take([3]).shape == (1, 3)
assert verify(store, deep=True).exit_code == 0
cache.shard_path("last.cls", 0)
try:
    cache.ensure_array("new.mean", dim=2, dtype="float16")
except StoreError as error:
    assert "Permission denied; ask the owner for write permission" in str(error)
else:
    raise SystemExit("written to a store without permission")
"""


def test_a_read_only_store_can_be_used(tmp_path: Path) -> None:
    root = tmp_path / "store"
    write_all(root)
    for folder in [tmp_path, *tmp_path.parents]:
        if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    done = run(READ_ONLY, root, NOBODY)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


READER = """
import sys
from pathlib import Path
import numpy as np, zarr
from small_store import DIMS, features
from toptune.store import FeatureStore, StoreError
root, stop = Path(sys.argv[1]), Path(sys.argv[2])
truth = np.concatenate([features(name) for name in DIMS], axis=1)
truth[13] = np.nan
print("ready", flush=True)
right = refused = 0
while not stop.exists():
    try:
        blocks = FeatureStore.open(root).cache("resnet10t.demo", "pets").blocks(list(DIMS))
        for _ in range(3):
            for rows, values in blocks.iterate(5):
                np.testing.assert_array_equal(values, truth[rows])
            np.testing.assert_array_equal(blocks.take([20, 3, 26]), truth[[20, 3, 26]])
        right += 1
    except StoreError:
        refused += 1
print(right, refused)
"""


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_readers_while_others_remove_and_write(tmp_path: Path, form: str) -> None:
    """Right numbers or an error, never others."""
    root, stop = tmp_path / "store", tmp_path / "stop"
    write_all(root, format=form)
    readers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", READER, str(root), str(stop)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    for number in range(12):
        store = FeatureStore.open(root)
        if number % 3 == 2:
            remove(store, plan_removal(store, dataset="pets", model="resnet10t.demo", layers=["last.cls"]))
        else:
            remove(store, plan_removal(store, dataset="pets"))
        cache = write_all(root, format=form)
        cache.pack_ledgers(["last.cls", "layer4.mean"])
    stop.touch()
    totals = []
    for reader in readers:
        out, error = reader.communicate(timeout=60)
        assert reader.returncode == 0, error
        totals.append([int(each) for each in out.split()])
    assert sum(right for right, _ in totals) > 0
    assert verify(FeatureStore.open(root), deep=True).exit_code == 0


def test_a_full_disk(tmp_path: Path) -> None:
    """A file system of 200 KB fills up; what is committed stays, and goes on elsewhere once there is room."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(small)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        root = small / "store"
        open_empty(root)
        filler = small / "filler"
        free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
        filler.write_bytes(bytes(free - 20_000))
        with pytest.raises(StoreError, match="No space left on device; free some space"):
            write_all(root)
        assert verify(FeatureStore.open(root), deep=True).damaged == ()
        done = {unit for unit in range(4) if open_empty(root).entry("last.cls", unit)}
        filler.unlink()
        cache = write_all(root)
        assert done <= set(range(4))
        assert shard_bytes(cache) == shard_bytes(write_all(tmp_path / "store"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_every_byte_of_every_file_is_covered(complete: FeatureCache) -> None:
    """One bit of each byte of the files of one array, and of all records (a step apart, to save time)."""
    store = FeatureStore.open(complete.root)
    files = [path for path in sorted(complete.root.rglob("*")) if path.is_file()]
    files = [path for path in files if path.name != "toptune.json"]
    assert len(files) > 30
    tried = 0
    for path in files:
        data = path.read_bytes()
        for place in range(0, len(data), max(1, len(data) // 12)):
            path.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
            assert verify(store, deep=True).exit_code == 1, f"byte {place} of {path}"
            tried += 1
        path.write_bytes(data)
    assert tried > 300
    assert verify(store, deep=True).exit_code == 0
