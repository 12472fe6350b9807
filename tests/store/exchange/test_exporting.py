"""What is exported is what is stored, in files that others read."""

import errno
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from small_store import DIMS, commit, features, make_manifest, open_empty

from toptune.store import (
    FeatureCache,
    FeatureStore,
    IncompleteError,
    InputError,
    StoreError,
    export_features,
    import_features,
)
from toptune.store.exchange import export_formats
from toptune.store.exchange.matrix_files import open_arrays
from toptune.store.exchange.text_columns import read_table

TEST_ROWS = [row for row in range(27) if row % 2 == 0]


def expected(name: str) -> npt.NDArray[np.float32]:
    values = features(name)
    values[13] = np.nan
    return values


def test_npy(complete: FeatureCache, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = export_features(
        complete, tmp_path / "out", format="npy", progress=lambda a, b: seen.append((a, b))
    )
    assert done["failed"] == {"kätzchen/bild 13.png": "truncated JPEG"}
    for name in DIMS:
        values = np.load(tmp_path / f"out/{name}.npy", mmap_mode="r")
        assert values.dtype == np.float16
        np.testing.assert_array_equal(values, expected(name))
    rows = pq.ParquetFile(tmp_path / "out/rows.parquet").read(use_threads=False).to_pydict()
    assert rows["id"] == make_manifest().ids
    assert rows["label"] == make_manifest().labels
    assert rows["failed"][13] == "truncated JPEG"
    assert rows["failed"][12] is None
    assert seen[-1] == (54, 54)


def test_parquet_of_a_split(complete: FeatureCache, tmp_path: Path) -> None:
    export_features(complete, tmp_path / "out.parquet", format="parquet", names=["last.cls"], split="test")
    found = open_arrays(tmp_path / "out.parquet")
    np.testing.assert_array_equal(found["last.cls"][:], expected("last.cls")[TEST_ROWS])
    assert list(found["id"][:]) == [make_manifest().ids[row] for row in TEST_ROWS]


def test_safetensors(complete: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_features(complete, tmp_path / "out.safetensors", format="safetensors")
    with safe_open(tmp_path / "out.safetensors", "numpy") as file:
        for name in DIMS:
            values = file.get_tensor(name)
            assert values.dtype == np.float16
            np.testing.assert_array_equal(values, expected(name))
        assert json.loads(file.metadata()["id"]) == make_manifest().ids
        assert json.loads(file.metadata()["label"]) == make_manifest().labels
        assert json.loads(file.metadata()["failed"]) == {"kätzchen/bild 13.png": "truncated JPEG"}
    monkeypatch.setattr(export_formats, "MAX_HEADER_BYTES", 100)
    with pytest.raises(InputError, match=r"take \d+ bytes of header, 100 is what readers"):
        export_features(complete, tmp_path / "big", format="safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "store"]


def test_types_may_differ(root: Path, tmp_path: Path) -> None:
    """Float16 columns of an odd width before float32 ones: each array keeps its type and its place."""
    values: dict[str, npt.NDArray[Any]] = {
        "a": np.arange(15, dtype=np.float16).reshape(5, 3),
        "b": np.arange(10, dtype=np.float32).reshape(5, 2),
    }
    cache = import_features(FeatureStore.create(root), values, dataset="d", model="m")
    for form in ("npy", "parquet", "safetensors"):
        export_features(cache, tmp_path / f"out.{form}", format=form)
    for name, given in values.items():
        with safe_open(tmp_path / "out.safetensors", "numpy") as file:
            read = [file.get_tensor(f"{name}.imported")]
        read.append(np.load(tmp_path / f"out.npy/{name}.imported.npy"))
        read.append(open_arrays(tmp_path / "out.parquet")[f"{name}.imported"][:])
        for found in read:
            assert found.dtype == given.dtype
            np.testing.assert_array_equal(found, given)


@pytest.mark.parametrize("form", ["npy", "parquet", "safetensors"])
def test_exported_and_imported_again(complete: FeatureCache, tmp_path: Path, form: str) -> None:
    from toptune.workflows import import_files

    out = tmp_path / f"out.{form}"
    export_features(complete, out, format=form)
    files, table = ([out], None) if form != "npy" else (sorted(out.glob("*.npy")), str(out / "rows.parquet"))
    cache = import_files(files, tmp_path / "again", dataset="pets", model="m", table=table, allow_failed=True)
    assert cache.failed_rows().keys() == {13}
    for name in DIMS:
        np.testing.assert_array_equal(cache.blocks([f"{name}.imported"]).take(range(27)), expected(name))
    before, after = make_manifest(), cache.manifest
    assert (after.ids, after.labels, after.splits) == (before.ids, before.labels, before.splits)


def test_the_stated_memory_holds(root: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal((20_000, 300), dtype=np.float32) for name in "ab"}  # 24 MB each
    for form in ("zarr", "hdf5"):
        cache = import_features(
            FeatureStore.create(root), values, dataset=form, model=form, format=form,
            labels=[str(row % 7) for row in range(20_000)], splits=["train", "test"] * 10_000,
        )  # fmt: skip
    del values
    for cache in FeatureStore.open(root).caches():
        for form in ("npy", "parquet", "safetensors"):
            for split in (None, "test"):
                out = tmp_path / f"{cache.model}-{form}-{split}"
                tracemalloc.start()
                with pytest.MonkeyPatch.context() as patch:
                    for module in ("features.cache_blocks", "features.blocks", "exchange.export_formats"):
                        patch.setattr(f"toptune.store.{module}.BLOCK_BYTES", 2**20)
                    done = export_features(cache, out, format=form, split=split)
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                assert done["memory_bytes"] < 40e6
                # Ids, labels and splits come on top, as documented.
                assert peak < done["memory_bytes"] + 8e6, (form, split)


def test_export_refuses(complete: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists; nothing is overwritten"):
        export_features(complete, tmp_path, format="npy")
    with pytest.raises(InputError, match="'csv' is unknown"):
        export_features(complete, tmp_path / "x", format="csv")
    with pytest.raises(InputError, match=r"split 'val'; choose one of test, train"):
        export_features(complete, tmp_path / "x", format="npy", split="val")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(InputError, match="exists; nothing is overwritten"):
        export_features(complete, tmp_path / "link", format="parquet")
    cache = open_empty(tmp_path / "half")
    commit(cache, 0)
    with pytest.raises(IncompleteError, match="lacks 3 of 4 units"):
        export_features(cache, tmp_path / "x", format="npy")
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_interrupted_export_leaves_nothing(complete: FeatureCache, tmp_path: Path) -> None:
    def stop(done: int, _total: int) -> None:
        raise KeyboardInterrupt

    for form in ("npy", "parquet", "safetensors"):
        with pytest.raises(KeyboardInterrupt):
            export_features(complete, tmp_path / "out", format=form, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("form", ["npy", "parquet", "safetensors"])
def test_what_others_put_there_meanwhile_stays(complete: FeatureCache, tmp_path: Path, form: str) -> None:
    def meddle(_done: int, _rows: int) -> None:
        (tmp_path / "out").write_text("theirs")

    with pytest.raises(InputError, match="exists by now"):
        export_features(complete, tmp_path / "out", format=form, progress=meddle)
    assert (tmp_path / "out").read_text() == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_a_full_disk_and_one_without_links(
    complete: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(code: int) -> Any:
        def refused(*_arguments: Any) -> None:
            raise OSError(code, os.strerror(code))

        return refused

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse(errno.ENOSPC))
        for form in ("npy", "parquet", "safetensors"):
            with pytest.raises(StoreError, match="No space left on device; free some space"):
                export_features(complete, tmp_path / "out", format=form)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse(errno.EPERM))
        export_features(complete, tmp_path / "out.parquet", format="parquet")
    assert read_table(tmp_path / "out.parquet")["id"] == make_manifest().ids


VICTIM = """
import os, sys
from toptune.store import FeatureStore, export_features
cache, = FeatureStore.open(sys.argv[1]).caches()
def wait(done, rows):
    print("ready", flush=True)
    sys.stdin.read()
export_features(cache, sys.argv[2], format=sys.argv[3], progress=wait)
"""


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_killed_it_leaves_no_result(complete: FeatureCache, tmp_path: Path, form: str) -> None:
    command = [sys.executable, "-W", "error", "-c", VICTIM, complete.root, tmp_path / "out", form]
    victim = subprocess.Popen([*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "ready\n"
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=60)
    assert not (tmp_path / "out").exists()
    assert all(path.name == "store" or path.name.startswith(".tmp-") for path in tmp_path.iterdir())
    export_features(complete, tmp_path / "out", format=form)
    assert (tmp_path / "out").exists()
