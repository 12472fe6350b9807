"""Folders and files of systems and other programs in a store: left alone, named, and in nobody's way."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from small_store import DIMS, N_ROWS, features, write_all

from toptune.store import (
    FeatureStore,
    InputError,
    collect_garbage,
    copy_store,
    find_garbage,
    measure,
    plan_removal,
    remove,
    repair,
    summarize,
    verify,
)

Run = Callable[..., tuple[int, str, str]]
LATER = datetime.now(UTC) + timedelta(days=2)
FOLDERS = (".snapshot", "@eaDir", "lost+found", "#recycle", "System Volume Information")
FILES = (".DS_Store", ".nfs000000000012", "Thumbs.db", "._key.json")


def scatter(root: Path) -> list[Path]:
    """Put strays into every folder of a store, and return them."""
    folders = [path for path in [root, *sorted(root.rglob("*"))] if path.is_dir()]
    strays = []
    for number, folder in enumerate(folders):
        there = folder / FOLDERS[number % len(FOLDERS)]
        (there / "hourly.0").mkdir(parents=True)
        (there / "hourly.0" / "dataset.json").write_text("{}")
        strays.append(there / "hourly.0" / "dataset.json")
        for name in (*FILES, f"._{'a' * 64}.parquet"):
            (folder / name).write_bytes(b"\x00\x05\x16\x07")
            strays.append(folder / name)
        (folder / "empty" / ".snapshot" if folder.name == "features" else folder / ".empty").mkdir(
            parents=True
        )
    for name in ("features/backup/notes.txt", "datasets/notes/read me.txt", "mine.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("mine")
        strays.append(root / name)
    return strays


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_strays_stop_nobody_and_stay(
    root: Path, tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = verify(write_all(root, format=form), deep=True).n_files
    write_all(root, format=form).remember_request("key", ["last.cls"])
    strays = scatter(root)
    store = FeatureStore.create(root)
    assert store.datasets() == ["pets"]
    (row,) = summarize(store)
    assert row.is_complete
    report = verify(store, deep=True)
    assert (report.exit_code, report.leftovers) == (0, (str(root / "mine.txt"),))
    assert report.n_files > before
    assert repair(root).exit_code == 0
    assert sum(usage.n_bytes for usage in measure(store)) == sum(
        path.lstat().st_size for path in root.rglob("*") if path.is_file()
    )
    assert {usage.n_files for usage in measure(store) if usage.part == "(not of the store)"} == {
        len(strays) - 1
    }
    assert find_garbage(store, grace=timedelta(0), now=LATER) == []
    copied = FeatureStore.create(tmp_path / "copy")
    copy_store(store, copied)
    assert not [path for path in copied.root.rglob("*") if path.name in (*FOLDERS, *FILES)]
    values = store.cache("resnet10t.demo", "pets").blocks(["last.cls"]).take(np.arange(N_ROWS))
    np.testing.assert_array_equal(np.delete(values, 13, 0), np.delete(features("last.cls"), 13, 0))
    assert write_all(root, format=form).is_complete()
    for path in (root / ".snapshot", root / "datasets/notes", root / "features/backup"):
        assert caplog.messages.count(f"left alone: {path} is no part of the store [TT208]") == 1
    remove(store, plan_removal(store, dataset="pets", model="resnet10t.demo", layers=["last.cls"]))
    remove(store, plan_removal(store, dataset="pets"))
    assert store.datasets() == []
    assert list(store.cache_folders()) == []
    assert [path for path in strays if not path.exists()] == []
    # The names are free again, although something is left in the folders.
    cache = write_all(root, format=form)
    assert verify(FeatureStore.open(root), deep=True).exit_code == 0
    assert cache.arrays()
    assert [path for path in strays if not path.exists()] == []
    collect_garbage(store, find_garbage(store, grace=timedelta(0), now=LATER))
    assert [path for path in strays if not path.exists()] == []
    assert set(DIMS) == {spec.name for spec in cache.arrays()}


def test_a_new_store_among_strays(tmp_path: Path) -> None:
    """The top of a file system has such folders from the beginning."""
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    assert FeatureStore.create(tmp_path).datasets() == []
    with pytest.raises(InputError, match="is one that systems use"):
        FeatureStore.open(tmp_path).manifest("lost+found")


@pytest.mark.parametrize("where", ["toptune.json", "cache.json", "dataset.json", "array.json", "000001.json"])
def test_a_pipe_in_the_place_of_a_record(root: Path, where: str, run_cli: Run) -> None:
    """Nobody waits for the writer of a pipe."""
    cache = write_all(root)
    path = next(path for path in sorted(root.rglob(where)) if "layer4" not in str(path))
    path.unlink()
    os.mkfifo(path)
    for command in (("ls",), ("verify",), ("du",), ("gc", "--dry-run"), ("verify", "--deep")):
        code, _out, err = run_cli("store", *command, "--store", root)
        assert "Traceback" not in err
        assert code in (0, 1, 2), (command, err)
    run_cli("store", "repair", "--store", root)
    assert cache.path.exists()


def test_no_stored_text_commands_the_terminal(root: Path, run_cli: Run) -> None:
    odd = "\x1b]0;owned\x07\x9b31m\u202e"
    store = FeatureStore.create(root)
    write_all(root)
    path = root / "features" / f"x{odd}@01234567"
    (path / "pets").mkdir(parents=True)
    (path / "pets" / "cache.json").write_text("{}")
    for command in (("ls",), ("ls", "--json"), ("verify",), ("du",), ("show", "--dataset", "pets")):
        _code, out, err = run_cli("store", *command, "--store", store.root)
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out + err), command
    assert "\\u001b]0;owned\\u0007\\u009b31m\\u202e" in out + err or "pets" in out
