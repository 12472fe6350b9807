"""Imported features are a data set and a cache like any other."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from toptune.store import (
    ConflictError,
    FeatureCache,
    FeatureStore,
    InputError,
    find_garbage,
    import_features,
    repair,
    verify,
)


def matrices(n: int = 200) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {
        "last": rng.standard_normal((n, 6)).astype(np.float32),
        "mid": rng.standard_normal((n, 4)).astype(np.float16),
    }


def imported(root: Path, values: dict[str, Any], model: str = "dino", **options: Any) -> FeatureCache:
    n = len(next(iter(values.values())))
    labels = [f"class {row % 3}" for row in range(n)]
    return import_features(
        FeatureStore.create(root), values, dataset="pets", model=model, labels=labels, **options
    )


def shards(cache: FeatureCache) -> dict[str, bytes]:
    files = [path for spec in cache.arrays() for path in (cache.path / spec.name).rglob("*")]
    return {str(path.relative_to(cache.path)): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.parametrize("form", ["zarr", "hdf5"])
def test_a_cache_like_any_other(root: Path, form: str) -> None:
    seen: list[tuple[int, int]] = []
    cache = imported(root, matrices(), format=form, progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (800, 800)
    assert [(spec.name, spec.dtype) for spec in cache.arrays()] == [
        ("last.imported", "float32"),
        ("mid.imported", "float16"),
    ]
    for name, values in matrices().items():
        np.testing.assert_array_equal(cache.blocks([f"{name}.imported"]).take(np.arange(200)), values)
    assert cache.manifest.ids[7] == "000007"
    assert cache.manifest.sizes.sum() == 0
    assert verify(FeatureStore(root), deep=True).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in cache.path.rglob("*")}
    assert imported(root, matrices()).path == cache.path
    assert {path: path.stat().st_mtime_ns for path in cache.path.rglob("*")} == before
    assert find_garbage(FeatureStore(root), keep=0) == []  # never evicted


def test_identity_is_content(root: Path) -> None:
    cache = imported(root, matrices())
    as_stored = {name: values[::-1][::-1] for name, values in matrices().items()}
    assert imported(root, as_stored, model="another name").path == cache.path
    assert FeatureStore(root).cache("another name", "pets").path == cache.path
    other = matrices()
    other["last"][0, 0] += 1
    before = sorted(root.rglob("*"))
    with pytest.raises(ConflictError, match=r"dino@.* holds other features .*weights \w{64} against \w{64}"):
        imported(root, other)
    with pytest.raises(ConflictError, match="holds other features"):
        imported(root, {"last": matrices()["last"]})
    with pytest.raises(ConflictError, match="200 images against 100"):
        imported(root, matrices(100), model="third")
    assert sorted(root.rglob("*")) == before
    assert imported(root, other, model="dino2").path != cache.path


def test_interrupted_it_goes_on(root: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imported(root, matrices(), progress=stop)
    (cache,) = FeatureStore.open(root).caches()
    assert 0 < len(cache.missing_units("last.imported")) < cache.n_units
    assert imported(root, matrices()).is_complete()


VICTIM = """
import os, signal, sys
import numpy as np
from toptune.store import FeatureStore, import_features
values = {"last": np.load(sys.argv[2], mmap_mode="r")}
def die(done, total):
    if done >= float(sys.argv[3]) * total:
        os.kill(os.getpid(), signal.SIGKILL)
import_features(FeatureStore.create(sys.argv[1]), values, dataset="pets", model="dino", progress=die)
"""


def test_killed_imports(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float32)
    np.save(tmp_path / "last.npy", values)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for share in (0.2, 0.6, 0.9):
        command = [
            sys.executable,
            "-W",
            "error",
            "-c",
            VICTIM,
            tmp_path / "store",
            tmp_path / "last.npy",
            share,
        ]
        victim = subprocess.run([*map(str, command)], env=environment, capture_output=True, timeout=60)
        assert victim.returncode == -signal.SIGKILL
    mapped = {"last": np.load(tmp_path / "last.npy", mmap_mode="r")}
    made = [
        import_features(FeatureStore.create(tmp_path / name), mapped, dataset="pets", model="dino")
        for name in ("store", "undisturbed")
    ]
    assert shards(made[0]).items() >= shards(made[1]).items()
    assert verify(FeatureStore.open(tmp_path / "store"), deep=True).exit_code == 0


def test_repaired_by_the_same_import(root: Path) -> None:
    cache = imported(root, matrices())
    before = shards(cache)
    cache.shard_path("last.imported", 1).write_bytes(b"half")
    assert repair(root).dropped == {f"{cache.name}/pets/last.imported": [1]}
    assert shards(imported(root, matrices())) == before
    assert verify(FeatureStore(root), deep=True).exit_code == 0


def test_values_that_change_while_they_are_read(root: Path) -> None:
    values = matrices()

    def meddle(done: int, total: int) -> None:
        if done == total // 2:
            values["last"][150] += 1

    with pytest.raises(InputError, match="'last' changed while it was imported"):
        imported(root, values, progress=meddle)


def test_rows_that_are_not_finite(root: Path) -> None:
    values = matrices()
    values["mid"][[3, 77]] = np.nan
    values["last"] = values["last"].astype(np.float64)
    values["last"][5, 1] = 1e300  # more than float32 holds
    with pytest.raises(InputError, match=r"NaN or infinity .* in 3 rows: 3 \('000003'\), 5"):
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
        ({"a": np.array([[{}]])}, "numbers are needed"),
        ({"a": np.zeros((3, 2)), "b": np.zeros((4, 2))}, "different numbers of rows"),
        ({"a": np.array([[2**24 + 1]])}, r"float32 does not hold, above 2\*\*24"),
        ({"../a": np.zeros((3, 2))}, "path separator"),
        ({"..": np.zeros((3, 2))}, "begins with a dot"),
        ({"": np.zeros((3, 2))}, "begins with a dot"),
        ({"content": np.zeros((3, 2))}, "taken by the store itself"),
        ({"content.x": np.zeros((3, 2))}, "taken by the store itself"),
        ({"\u00e9": np.zeros((3, 2)), "e\u0301": np.zeros((3, 2))}, "the same name"),
        ({"a": np.broadcast_to(np.float32(0), (1, 2**27))}, "536870912 at most"),
    ],
)
def test_refusals(root: Path, values: dict[str, npt.NDArray[Any]], message: str) -> None:
    store = FeatureStore.create(root)
    if message.startswith("536870912"):
        message = "a row has 536870912 bytes; 268435456 at most"
    with pytest.raises(InputError, match=message):
        import_features(store, values, dataset="d", model="m")
    assert store.datasets() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": ["a", "b", "c"]}, "3 ids for 200 rows"),
        ({"labels": ["a"]}, "1 values for 200"),
        ({"ids": ["a"] * 200}, "must be unique"),
        ({"dataset": "../up"}, "path separator"),
        ({"model": "../up"}, "path separator"),
    ],
)
def test_refused_names(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_features(FeatureStore.create(root), matrices(), **{"dataset": "d", "model": "m", **options})
    assert FeatureStore.open(root).datasets() == []
