"""What is exported is what is stored, in files that others read; what is imported is a data set."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from small_store import DIMS, commit, features, make_manifest, open_empty

from toptune.store import (
    ConflictError,
    FeatureCache,
    FeatureStore,
    IncompleteError,
    InputError,
    export_features,
    exporting,
    find_garbage,
    import_features,
    verify,
)
from toptune.store.matrix_files import MAX_MEMBER_BYTES, open_arrays, read_column, read_table

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
    np.testing.assert_array_equal(found["last.cls"], expected("last.cls")[TEST_ROWS])
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


# Import


def matrices(n: int = 200) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {
        "last": rng.standard_normal((n, 6)).astype(np.float32),
        "mid": rng.standard_normal((n, 4)).astype(np.float16),
    }


def imported(root: Path, values: dict[str, npt.NDArray[Any]], **options: Any) -> FeatureCache:
    n = len(next(iter(values.values())))
    labels = [f"class {row % 3}" for row in range(n)]
    return import_features(
        FeatureStore.create(root), values, dataset="pets", model="dino", labels=labels, **options
    )


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_imported_features_are_a_cache_like_any_other(root: Path, form: str) -> None:
    cache = imported(root, matrices(), format=form)
    assert [(spec.name, spec.dtype) for spec in cache.arrays()] == [
        ("last.imported", "float32"),
        ("mid.imported", "float16"),
    ]
    for name, values in matrices().items():
        np.testing.assert_array_equal(cache.blocks([f"{name}.imported"]).take(np.arange(200)), values)
    assert cache.manifest.ids[7] == "000007"
    assert verify(FeatureStore(root), deep=True).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in cache.path.rglob("*/c/*/0")}
    assert imported(root, matrices()).path == cache.path
    assert {path: path.stat().st_mtime_ns for path in cache.path.rglob("*/c/*/0")} == before
    assert find_garbage(FeatureStore(root), keep=0) == []  # never evicted


def test_other_content_is_another_cache_or_refused(root: Path) -> None:
    cache = imported(root, matrices())
    other = matrices()
    other["last"][0, 0] += 1
    assert imported(root, other).path != cache.path
    with pytest.raises(ConflictError, match="200 pictures against 100"):
        imported(root, matrices(100))


def test_an_interrupted_import_goes_on(root: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imported(root, matrices(), progress=stop)
    (cache,) = FeatureStore.open(root).caches()
    assert 0 < len(cache.missing_units("last.imported")) < cache.n_units
    assert imported(root, matrices()).is_complete()


def test_rows_that_are_not_finite(root: Path) -> None:
    values = matrices()
    values["mid"][[3, 77]] = np.nan
    values["last"] = values["last"].astype(np.float64)
    values["last"][5, 1] = 1e300  # more than float32 holds
    with pytest.raises(InputError, match=r"3 rows hold NaN or infinity .*: 3 \('000003'\), 5"):
        imported(root, values)
    assert FeatureStore.open(root).datasets() == []
    cache = imported(root, values, allow_failed=True)
    assert sorted(cache.failed_rows()) == [3, 5, 77]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "nothing to import"),
        ({"a": np.zeros(3)}, r"shape \(3,\)"),
        ({"a": np.zeros((0, 3))}, r"shape \(0, 3\)"),
        ({"a": np.array([["x"]])}, "numbers are needed"),
        ({"a": np.zeros((3, 2)), "b": np.zeros((4, 2))}, "different numbers of rows"),
        ({"../a": np.zeros((3, 2))}, "path separator"),
    ],
)
def test_import_refuses(root: Path, values: dict[str, npt.NDArray[Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_features(FeatureStore.create(root), values, dataset="d", model="m")
    with pytest.raises(InputError, match="3 ids for 200 rows"):
        import_features(FeatureStore.create(root), matrices(), dataset="d", model="m", ids=["a", "b", "c"])


# Files


def test_every_kind_of_file(tmp_path: Path) -> None:
    values = matrices()["last"]
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "b.npz", x=values, y=np.arange(200))
    save_file({"x": values}, tmp_path / "c.safetensors")
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["group/x"] = values
        file["labels"] = ["cat"] * 200
    for name, key in (("a.npy", "a"), ("b.npz", "x"), ("c.safetensors", "x"), ("d.h5", "group/x")):
        found = open_arrays(tmp_path / name)
        np.testing.assert_array_equal(found[key][3:9], values[3:9])
    assert isinstance(open_arrays(tmp_path / "a.npy")["a"], np.memmap)


def test_columns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cat\nhänd\n")
    (tmp_path / "b.csv").write_text("label\ncat\n\n")
    (tmp_path / "c.csv").write_text("id,label\n1,cat\n2,\n")
    np.save(tmp_path / "d.npy", np.array([3, 4]))
    assert read_column(tmp_path / "a.txt") == ["cat", "händ"]
    assert read_column(tmp_path / "d.npy") == ["3", "4"]
    assert read_table(tmp_path / "c.csv") == {"id": ["1", "2"], "label": ["cat", None]}
    with pytest.raises(InputError, match="has columns id, label; one is needed"):
        read_column(tmp_path / "c.csv")


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([{"x": 1}], dtype=object))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("x", (2, 2), "f4", external=[("secret", 0, 16)])
    for name, message in (
        ("a.npy", "Python objects"),
        ("b.npz", "Object arrays"),
        ("c.h5", "another file"),
    ):
        with pytest.raises(InputError, match=message):
            open_arrays(tmp_path / name)
    (tmp_path / "d.exe").write_bytes(b"")
    with pytest.raises(InputError, match="no known kind"):
        open_arrays(tmp_path / "d.exe")
    with pytest.raises(InputError, match="no file"):
        open_arrays(tmp_path / "gone.npy")
    assert MAX_MEMBER_BYTES > 0


def test_archives_that_unpack_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toptune.store import matrix_files

    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1000, 1000)))
    monkeypatch.setattr(matrix_files, "MAX_MEMBER_BYTES", 1_000_000)
    with pytest.raises(InputError, match=r"x\.npy unpacks to 8000128 bytes, above the limit of 1000000"):
        open_arrays(tmp_path / "bomb.npz")
