"""Stores of made-up features, of one model and of two, and one thread for solvers that are small here."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from toptune.store import CONTENT_ARRAY, FeatureCache, FeatureStore, Manifest, Recipe

DIMS = {"block.mean": 6, "block.cls": 5, "last.mean": 8}
N_ROWS, UNIT_ROWS = 90, 16
# Rows of the data set that two models share.
N_SHARED = 120
Values = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def pools() -> ThreadpoolController:
    """The pools of threads of all loaded libraries, which are searched for only once."""
    return ThreadpoolController()


@pytest.fixture(autouse=True)
def one_thread(pools: ThreadpoolController) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pools.limit(limits=1):
        yield
    torch.set_num_threads(before)


def make_features(labels: list[Any], seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Classes two deviations apart, so that heads are right often, not always."""
    rng = np.random.default_rng(seed)
    means = {label: rng.normal(size=sum(DIMS.values())) * 1.2 for label in sorted({str(x) for x in labels})}
    rows = np.stack([means[str(label)] + rng.normal(size=sum(DIMS.values())) for label in labels])
    cuts = np.cumsum(list(DIMS.values()))[:-1]
    return {
        name: part.astype(np.float16).astype(np.float32)
        for name, part in zip(DIMS, np.split(rows, cuts, axis=1), strict=True)
    }


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., FeatureCache]:
    """Make a store; options replace labels, splits, features, failed rows."""

    def make(
        *,
        root: Path | None = None,
        labels: list[Any] | None = None,
        splits: list[Any] | None = None,
        features: dict[str, npt.NDArray[np.float32]] | None = None,
        failed: dict[int, str] | None = None,
        dataset: str = "pets",
        decode: str = "pillow-1",
        forward: str = "",
        extra: dict[str, list[Any]] | None = None,
    ) -> FeatureCache:
        labels = labels or [f"class {i % 3}" for i in range(N_ROWS)]
        n = len(labels)
        values = features or make_features(labels)
        store = FeatureStore.create(root or tmp_path / "store")
        manifest = Manifest.from_columns(
            ids=[f"g{i // 3}/picture {i}.png" for i in range(n)],
            labels=labels,
            splits=splits or [None] * n,
            sizes=[100 + i for i in range(n)],
            extra={"slide": [f"slide {i // 3}" for i in range(n)], **(extra or {})},
        )
        store.register(dataset, manifest)
        recipe = Recipe(
            architecture="tiny", model_kwargs={}, weights="ab" * 32, transform={"input_size": [3, 8, 8]},
            decode=decode, precision="fp32", forward=forward,
        )  # fmt: skip
        cache = store.create_cache(
            "tiny.demo", dataset, recipe, unit_rows=UNIT_ROWS, batch_size=8, backbone={"name": "tiny.demo"}
        )
        for name, dim in DIMS.items():
            cache.ensure_array(name, dim=dim, dtype="float16")
        for unit in range(cache.n_units):
            rows = cache.unit_slice(unit)
            mine = {row: why for row, why in (failed or {}).items() if rows.start <= row < rows.stop}
            cache.commit_unit(unit, {name: values[name][rows] for name in DIMS}, failed=mine, seconds=0.0)
        return cache

    return make


def _usual(model: str) -> Values:
    rng = np.random.default_rng({"small": 0, "large": 1}.get(model, 2))
    means = rng.normal(size=(3, 6)) * 1.2
    values: Values = (means[np.arange(N_SHARED) % 3] + rng.normal(size=(N_SHARED, 6))).astype(np.float32)
    return values


@pytest.fixture
def two_models(tmp_path: Path) -> Callable[..., FeatureStore]:
    """Make a store of models small and large, whose input sizes differ; options replace their features."""

    def make(
        features: Mapping[str, Values] | None = None,
        *,
        root: Path | None = None,
        failed: Mapping[str, dict[int, str]] | None = None,
        spoiled: Mapping[str, Sequence[int]] | None = None,
        missing: Mapping[str, Sequence[int]] | None = None,
        digests: Mapping[str, npt.NDArray[np.uint8]] | None = None,
        n_rows: int = N_SHARED,
    ) -> FeatureStore:
        store = FeatureStore.create(root or tmp_path / "store")
        manifest = Manifest.from_columns(
            ids=[f"g{row // 3}/picture {row}.png" for row in range(n_rows)],
            labels=[f"class {row % 3}" for row in range(n_rows)],
            splits=[None] * n_rows,
            sizes=[100 + row for row in range(n_rows)],
        )
        store.register("pets", manifest)
        for number, model in enumerate(("small", "large")):
            recipe = Recipe(
                architecture=model, model_kwargs={}, weights=f"{number + 1}a" * 32,
                transform={"input_size": [3, 8 + 8 * number, 8 + 8 * number]}, decode="pillow-1",
                precision=("fp32", "bf16")[number],
            )  # fmt: skip
            cache = store.create_cache(
                model, "pets", recipe, unit_rows=48, batch_size=8, backbone={"name": model},
                format=("zarr", "hdf5")[number],
            )  # fmt: skip
            values = np.array((features or {}).get(model, _usual(model)))
            values[list((spoiled or {}).get(model, []))] = np.nan
            parts: dict[str, npt.NDArray[Any]] = {"block.mean": values[:, :2], "last.mean": values[:, 2:]}
            for name in [*parts]:
                cache.ensure_array(name, dim=parts[name].shape[1], dtype="float32")
            if model in (digests or {}):
                parts[CONTENT_ARRAY] = (digests or {})[model]
                cache.ensure_array(CONTENT_ARRAY, dim=32, dtype="uint8")
            for unit in sorted(set(range(cache.n_units)) - set((missing or {}).get(model, ()))):
                rows = cache.unit_slice(unit)
                mine = {
                    row: why
                    for row, why in (failed or {}).get(model, {}).items()
                    if rows.start <= row < rows.stop
                }
                # What is committed of a failed row is NaN.
                cache.commit_unit(
                    unit, {name: part[rows] for name, part in parts.items()}, failed=mine, seconds=0.1
                )
        return store

    return make
