"""A store of made-up features, and one thread for solvers that are small here."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from toptune.store import FeatureCache, FeatureStore, Manifest, Recipe

DIMS = {"block.mean": 6, "block.cls": 5, "last.mean": 8}
N_ROWS, UNIT_ROWS = 90, 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
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
            extra={"slide": [f"slide {i // 3}" for i in range(n)]},
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
