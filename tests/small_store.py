"""A small store, whole or half made, for tests of the store, also in processes of their own."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store import CONTENT_ARRAY, FeatureCache, FeatureStore, Manifest, Recipe

N_ROWS, UNIT_ROWS, BATCH_SIZE = 27, 8, 4
DIMS = {"layer4.mean": 5, "last.cls": 3}


def make_recipe(**changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "architecture": "resnet10t",
        "model_kwargs": {},
        "weights": "ab" * 32,
        "transform": {"input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "crop_pct": 0.875},
        "decode": "pillow-1",
        "precision": "fp32",
    }
    return Recipe(**{**fields, **changes})


def make_manifest(n: int = N_ROWS) -> Manifest:
    return Manifest.from_columns(
        ids=[f"kätzchen/bild {i}.png" for i in range(n)],
        labels=[None if i % 5 == 4 else f"class {i % 3}" for i in range(n)],
        splits=["train" if i % 2 else "test" for i in range(n)],
        sizes=[100 + i for i in range(n)],
        modified_ns=[10**18 + i for i in range(n)],
        extra={"camera": [f"c{i % 2}" for i in range(n)]},
    )


def features(name: str) -> npt.NDArray[np.float32]:
    """Values that float16 holds exactly, other ones in every array."""
    dim = DIMS[name]
    seed = sum(name.encode())
    values = np.arange(N_ROWS * dim).reshape(N_ROWS, dim) % 200 + seed % 50
    return (values / 4).astype(np.float32)


def contents() -> npt.NDArray[np.uint8]:
    return np.repeat(np.arange(1, N_ROWS + 1, dtype=np.uint8)[:, None], 32, axis=1)


def open_empty(root: Path, *, format: str = "zarr") -> FeatureCache:  # noqa: A002
    """Do what extract does before the first unit; the same again when the cache is there."""
    store = FeatureStore.create(root)
    store.register("pets", make_manifest())
    cache = store.create_cache(
        "resnet10t.demo",
        "pets",
        make_recipe(),
        unit_rows=UNIT_ROWS,
        batch_size=BATCH_SIZE,
        backbone={"name": "resnet10t.demo"},
        format=format,
    )
    for name, dim in DIMS.items():
        cache.ensure_array(name, dim=dim, dtype="float16")
    cache.ensure_array(CONTENT_ARRAY, dim=32, dtype="uint8")
    return cache


def commit(cache: FeatureCache, unit: int) -> None:
    rows = cache.unit_slice(unit)
    values: dict[str, npt.NDArray[Any]] = {name: features(name)[rows] for name in DIMS}
    values[CONTENT_ARRAY] = contents()[rows]
    failed = {13: "truncated JPEG"} if rows.start <= 13 < rows.stop else {}
    cache.commit_unit(unit, values, failed=failed, seconds=0.5)


def write_all(root: Path, *, format: str = "zarr") -> FeatureCache:  # noqa: A002
    """Do what extract does, all of it; resumes what is there."""
    cache = open_empty(root, format=format)
    names = [*DIMS, CONTENT_ARRAY]
    for unit in sorted({unit for name in names for unit in cache.missing_units(name)}):
        commit(cache, unit)
    return cache


def shard_bytes(cache: FeatureCache) -> dict[str, bytes]:
    """Every file of the arrays, by its path within the cache."""
    folders = [cache.path / name for name in [*DIMS, CONTENT_ARRAY]]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {"/".join(path.relative_to(cache.path).parts): path.read_bytes() for path in files}


def every_kind(cache: FeatureCache) -> dict[str, Path]:
    root = cache.root
    """One file of every kind that a store holds."""
    cache.remember_request("key", ["last.cls"])
    cache.mark_used()
    return {
        "store": root / "toptune.json",
        "dataset": root / "datasets/pets/dataset.json",
        "manifest": root / "datasets/pets/manifest.parquet",
        "recipe": cache.path / "recipe.json",
        "cache": cache.path / "cache.json",
        "request": cache.path / "requests/key.json",
        "use": cache.path / "used.json",
        "array record": cache.path / "ledger/last.cls/array.json",
        "entry": cache.entry_path("last.cls", 3),
        "zarr metadata": cache.path / "layer4.mean/zarr.json",
        "shard": cache.shard_path("layer4.mean", 0),
        "last shard": cache.shard_path("last.cls", 3),
        "content": cache.shard_path("content.sha256", 1),
    }


KINDS = [
    *("store", "dataset", "manifest", "recipe", "cache", "request", "use"),
    *("array record", "entry", "zarr metadata", "shard", "last shard", "content"),
]
