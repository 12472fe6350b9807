"""Whatever step the system refuses, or the process dies at: resumed equals undisturbed."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import STEPS, Fault
from small_store import BATCH_SIZE, open_empty, shard_bytes, write_all

from toptune.store import FeatureCache, FeatureStore, StoreError, verify
from toptune.store.files.local_place import LocalPlace
from toptune.store.files.place import place_at

TESTS = Path(__file__).parents[1]


def interrupted(root: Path, fault: Fault) -> bool:
    """Write until the fault; whether it was reached."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        fault.install(monkeypatch)
        try:
            write_all(root)
            return False
        except StoreError as error:
            message = str(error)
    if not fault.is_crash:
        assert "No space left" in message
        assert "free some space" in message
    return True


@pytest.mark.parametrize("is_crash", [False, True], ids=["refused", "crashed"])
@pytest.mark.parametrize("step", STEPS)
def test_fault_at_each_step(tmp_path: Path, template: Path, step: str, is_crash: bool) -> None:
    undisturbed = shard_bytes(FeatureStore.open(template).cache("resnet10t.demo", "pets"))
    count = Fault(step, 0, is_crash=False)
    assert not interrupted(tmp_path / "counted", count)
    assert count.calls >= (2 if step == "rename" else 12)
    # All of the first steps (store, data set, cache, arrays), then a sample of the many alike.
    numbers = [*range(1, min(9, count.calls + 1)), *range(9, count.calls + 1, 7)]
    for number in numbers:
        root = tmp_path / f"{number}"
        assert interrupted(root, Fault(step, number, is_crash=is_crash)), number
        if not is_crash:
            assert not list(root.rglob(".tmp-*"))
        cache = write_all(root)
        assert shard_bytes(cache).items() >= undisturbed.items()
        report = verify(FeatureStore(root), deep=True)
        assert (report.damaged, report.missing) == ((), {}), number
        assert all(".tmp-" in path for path in report.leftovers)
        assert cache.failed_rows() == {13: "truncated JPEG"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EIO, "check the disk"),
        (errno.EACCES, "write permission"),
        (errno.EDQUOT, "raise the quota"),
        (errno.EROFS, "read-only"),
    ],
)
def test_every_refusal_says_the_next_step(tmp_path: Path, code: int, words: str) -> None:
    for step in ("write", "fsync", "link"):
        root = tmp_path / step
        with pytest.MonkeyPatch.context() as monkeypatch:
            Fault(step, 9, is_crash=False, code=code).install(monkeypatch)
            with pytest.raises(StoreError, match=words):
                write_all(root)
        assert write_all(root).is_complete()
        assert verify(FeatureStore(root), deep=True).exit_code == 0


def test_twice_interrupted(tmp_path: Path, template: Path) -> None:
    root = tmp_path / "store"
    reached = [interrupted(root, Fault("link", number, is_crash=True)) for number in (3, 5, 8, 2, 9)]
    assert all(reached)
    write_all(root)
    assert verify(FeatureStore(root), deep=True).exit_code == 0


def test_shards_come_before_their_ledger_entries(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_empty(root)
    published: list[str] = []
    plain = LocalPlace.put_if_absent

    def noted(place: LocalPlace, data: bytes) -> bool:
        published.append("entry" if "ledger" in place.path.parts else "shard")
        return plain(place, data)

    monkeypatch.setattr(LocalPlace, "put_if_absent", noted)
    write_all(cache.root)
    assert published == (["shard"] * 3 + ["entry"] * 3) * 4


@pytest.mark.parametrize(
    ("put", "last"), [(LocalPlace.put_if_absent, "link"), (LocalPlace.replace, "replace")]
)
def test_durable_before_it_is_visible(
    root: Path, monkeypatch: pytest.MonkeyPatch, put: Callable[[LocalPlace, bytes], object], last: str
) -> None:
    calls: list[str] = []

    def note(step: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            calls.append(f"{step} folder" if step == "open" and Path(arguments[0]).is_dir() else step)
            return plain(*arguments, **options)

        return noted

    root.mkdir()
    for step in ("open", "write", "fsync", "close", "link", "replace"):
        monkeypatch.setattr(os, step, note(step, getattr(os, step)))
    put(LocalPlace(root / "file"), b"content")
    assert calls == ["open", "write", "fsync", "close", last, "open folder", "fsync", "close"]


def test_link_whose_answer_was_lost(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS: the link was made, the answer got lost, the retry is told that the name is taken."""
    plain = os.link

    def link(source: Any, target: Any, **options: Any) -> None:
        plain(source, target, **options)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link)
    assert place_at(root / "file").put_if_absent(b"mine")
    assert (root / "file").read_bytes() == b"mine"


def test_file_system_without_hard_links(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Any, target: Any, **options: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreError, match="hard links"):
        FeatureStore.create(root)
    assert list(root.iterdir()) == []


def test_sound_file_put_there_meanwhile_stays(root: Path) -> None:
    """Between reading a damaged file and removing it another writer replaced it."""
    root.mkdir()
    path = root / "0"
    path.write_bytes(b"damaged")
    seen = path.stat()
    (root / "new").write_bytes(b"sound")
    (root / "new").replace(path)
    place_at(path).remove_damaged(seen)
    assert path.read_bytes() == b"sound"
    place_at(path).remove_damaged(path.stat())
    assert list(root.iterdir()) == []


def start(code: str, root: Path, *arguments: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, str(root), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


RACER = """
import sys, time
from pathlib import Path
import zarr
from small_store import commit, open_empty
root, backwards = Path(sys.argv[1]), sys.argv[2] == "1"
print("ready", flush=True)
while not (root.parent / "go").exists():
    time.sleep(0.001)
cache = open_empty(root)
for unit in range(cache.n_units)[::-1 if backwards else 1]:
    commit(cache, unit)
assert cache.is_complete()
"""


def test_processes_race_for_the_same_units(root: Path, template: Path) -> None:
    racers = [start(RACER, root, number % 2) for number in range(8)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    (root.parent / "go").touch()
    for racer in racers:
        racer.communicate(timeout=60)
    assert [racer.returncode for racer in racers] == [0] * 8
    report = verify(FeatureStore(root), deep=True)
    assert (report.exit_code, report.leftovers) == (0, ())
    (cache,) = FeatureStore(root).caches()
    undisturbed = FeatureStore.open(template).cache("resnet10t.demo", "pets")
    assert shard_bytes(cache) == shard_bytes(undisturbed)
    assert cache.batch_size == BATCH_SIZE


VICTIM = """
import sys
from pathlib import Path
import zarr
from small_store import write_all
print("ready", flush=True)
write_all(Path(sys.argv[1]))
"""


def test_killed_writers(root: Path, template: Path) -> None:
    dice = random.Random(4)
    n_killed = 0
    for _ in range(6):
        victim = start(VICTIM, root)
        assert victim.stdout is not None
        victim.stdout.readline()
        time.sleep(dice.uniform(0.0, 0.12))
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=60)
        n_killed += victim.returncode == -signal.SIGKILL
        if (root / "toptune.json").exists():
            assert verify(FeatureStore(root), deep=True).damaged == ()
    assert n_killed >= 1
    cache = write_all(root)
    undisturbed: FeatureCache = FeatureStore.open(template).cache("resnet10t.demo", "pets")
    assert shard_bytes(cache).items() >= shard_bytes(undisturbed).items()
    assert verify(FeatureStore(root), deep=True).exit_code == 0
