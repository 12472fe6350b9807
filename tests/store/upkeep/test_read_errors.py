"""A disk that fails in the middle of a file: the error names the file, and nothing is called damaged."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_store import N_ROWS, shard_bytes, write_all

from toptune.store import (
    CorruptError,
    FeatureCache,
    FeatureStore,
    StoreError,
    copy_store,
    repair,
    verify,
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make reading the content of a file fail, as a bad sector does."""
    bad: set[int] = set()
    plain = {name: getattr(os, name) for name in ("read", "preadv", "open")}

    def refuse(name: str) -> Callable[..., Any]:
        def wrapped(descriptor: int, *arguments: Any) -> Any:
            if os.fstat(descriptor).st_ino in bad:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return plain[name](descriptor, *arguments)

        return wrapped

    monkeypatch.setattr(os, "preadv", refuse("preadv"))
    monkeypatch.setattr(os, "read", refuse("read"))
    # Files are also read by Python's own files, which call no function of `os`.
    built_in = open

    def opened(file: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, int) and os.fstat(file).st_ino in bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return built_in(file, *arguments, **options)

    monkeypatch.setattr("builtins.open", opened)
    return lambda path: bad.add(path.stat().st_ino)


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
@pytest.mark.parametrize("kind", ["shard", "entry", "record", "cache.json", "manifest"])
def test_an_unreadable_file_is_an_error_and_stays(
    root: Path, tmp_path: Path, form: str, kind: str, fail: Callable[[Path], None], run_cli: Run
) -> None:
    cache = write_all(root, format=form)
    before = shard_bytes(cache)
    path = {
        "shard": cache.shard_path("last.cls", 1),
        "entry": cache.entry_path("last.cls", 1),
        "record": cache.path / "ledger/last.cls/array.json",
        "cache.json": cache.path / "cache.json",
        "manifest": root / "datasets/pets/manifest.parquet",
    }[kind]
    inode = path.stat().st_ino
    fail(path)

    def read() -> object:
        cache = FeatureStore.open(root).cache("resnet10t.demo", "pets")
        assert cache.manifest.n_rows == N_ROWS
        return cache.blocks(["last.cls"]).take(np.arange(N_ROWS))

    for act in (read, lambda: copy_store(FeatureStore.open(root), tmp_path / "copy")):
        with pytest.raises(StoreError, match=f"cannot read {path}.*Input/output error") as caught:
            act()
        assert not isinstance(caught.value, CorruptError)
    report = verify(FeatureStore.open(root), deep=True)
    assert (report.exit_code, report.damaged) == (1, ())
    assert [where for where, _ in report.unreadable] == [str(path)]
    code, out, err = run_cli("store", "repair", "--store", root)
    assert code == 1
    assert str(path) in out + err
    assert repair(root).left[0][0] == str(path)
    code, out, err = run_cli("store", "ls", "--store", root)
    assert "Traceback" not in out + err
    assert path.stat().st_ino == inode
    fixed = {name: (cache.path / name).stat().st_size for name in before}
    assert fixed == {name: len(data) for name, data in before.items()}


def test_a_disk_that_fails_once_loses_nothing(
    complete: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`verify` meets the error, and `repair` finds the file sound by then."""
    path = complete.shard_path("last.cls", 0)
    plain = os.open
    left = [1]

    def refuse(at: Any, *arguments: Any, **options: Any) -> int:
        if str(at) == str(path) and left:
            left.pop()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(at, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    report = repair(complete.root)
    assert report.dropped == {}
    assert complete.missing_units("last.cls") == []
    assert verify(complete, deep=True).exit_code == 0
