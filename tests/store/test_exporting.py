"""What is exported is what is stored, in files that others read; what is imported is a data set."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from small_store import DIMS, commit, features, make_manifest, open_empty

from toptune.store import (
    FeatureCache,
    IncompleteError,
    InputError,
    export_features,
    exporting,
)
from toptune.store.matrix_files import open_arrays

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
    assert found["id"].tolist() == [make_manifest().ids[row] for row in TEST_ROWS]


def test_safetensors(complete: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_features(complete, tmp_path / "out.safetensors", format="safetensors")
    with safe_open(tmp_path / "out.safetensors", "numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("layer4.mean"), expected("layer4.mean"))
        assert "kätzchen/bild 3.png" in file.metadata()["id"]
    monkeypatch.setattr(exporting, "MAX_SAFETENSORS_BYTES", 100)
    with pytest.raises(InputError, match="432 bytes of features are above the limit of 100"):
        export_features(complete, tmp_path / "big", format="safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.safetensors", "store"]


def test_export_refuses(complete: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists; nothing is overwritten"):
        export_features(complete, tmp_path, format="npy")
    with pytest.raises(InputError, match="'csv' is none of"):
        export_features(complete, tmp_path / "x", format="csv")
    with pytest.raises(InputError, match=r"split 'val'; there are: test, train"):
        export_features(complete, tmp_path / "x", format="npy", split="val")
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
