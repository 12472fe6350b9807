"""Stores of made-up features of several models over one data set."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from toptune.store import CONTENT_ARRAY, FeatureStore, Manifest, Recipe

N_ROWS = 120
Values = npt.NDArray[np.float32]


def _usual(model: str) -> Values:
    rng = np.random.default_rng({"small": 0, "large": 1}.get(model, 2))
    means = rng.normal(size=(3, 6)) * 1.2
    values: Values = (means[np.arange(N_ROWS) % 3] + rng.normal(size=(N_ROWS, 6))).astype(np.float32)
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
        n_rows: int = N_ROWS,
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
