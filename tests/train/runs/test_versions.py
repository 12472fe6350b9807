"""Runs on data sets that grow: each names its version, and is repeated from it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest

from toptune.store import (
    FeatureCache,
    FeatureStore,
    IncompleteError,
    InputError,
    Manifest,
    StoreNotFoundError,
    grow,
)
from toptune.train import Run, evaluate_run, train

Build = Callable[..., FeatureCache]
OPTIONS: dict[str, Any] = {"dataset": "pets", "model": "tiny.demo", "cv": 3, "n_centers": 40}


def fill(store: FeatureStore, like: FeatureCache, part: str, seed: int) -> None:
    """Store features of a part, of the classes' own distributions."""
    manifest = store.part_manifest(part)
    cache = store.create_cache(
        "tiny.demo", part, like.recipe, unit_rows=8, batch_size=8, backbone={"name": "tiny.demo"}
    )
    rng = np.random.default_rng(seed)
    means = {label: rng.normal(size=8) * 2 for label in ("class 0", "class 1", "class 2")}
    for spec in like.arrays():
        cache.ensure_array(spec.name, dim=spec.dim, dtype=spec.dtype)
        rows = [means[str(label)][: spec.dim] + rng.normal(size=spec.dim) for label in manifest.labels]
        values: npt.NDArray[np.float32] = np.stack(rows).astype(np.float32)
        for unit in range(cache.n_units):
            cache.commit_unit(unit, {spec.name: values[cache.unit_slice(unit)]})


def larger(cache: FeatureCache, n_more: int, dropped: int = 0) -> Manifest:
    old = cache.manifest
    sizes = dict(zip(old.ids, old.sizes.tolist(), strict=True))
    ids = sorted([*old.ids[dropped:], *(f"new {i}.png" for i in range(n_more))])
    return Manifest.from_columns(
        ids=ids,
        labels=[f"class {i % 3}" for i in range(len(ids))],
        sizes=[sizes.get(name, 7) for name in ids],
    )


def figures(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run.metrics.items() if name not in ("seconds", "costs")}


def test_a_run_is_repeated_after_the_data_set_grew(build: Build, tmp_path: Path) -> None:
    cache = build()
    store = FeatureStore.open(tmp_path / "store")
    first = train(store, out=tmp_path / "first", **OPTIONS)
    assert first.config["dataset_version"] == 1
    grow(store, "pets", larger(cache, 30, dropped=9))
    fill(store, cache, "pets~2", 1)
    second = train(store, out=tmp_path / "second", **OPTIONS)
    assert second.config["dataset_version"] == 2
    assert second.metrics["n_train"] + second.metrics["n_test"] == 111
    grow(store, "pets", larger(cache, 36))
    fill(store, cache, "pets~3", 2)
    for run in (first, second):
        number = run.config["dataset_version"]
        again = train(store, out=tmp_path / f"again {number}", dataset_version=number, **OPTIONS)
        assert figures(again) == figures(run)
        assert again.config["split"]["rows_digest"] == run.config["split"]["rows_digest"]
        rows = [pq.ParquetFile(each.folder / "rows.parquet").read().to_pydict() for each in (run, again)]
        assert rows[0] == rows[1]
        assert np.array_equal(again.test_rows, run.test_rows)
        # A run is evaluated on its own version.
        measured = evaluate_run(run.folder)
        assert {name: measured[name] for name in ("accuracy", "log_loss")} == {
            name: run.metrics[name] for name in ("accuracy", "log_loss")
        }
        n_rows = run.metrics["n_train"] + run.metrics["n_test"]
        assert evaluate_run(run.folder, split="all")["n_test"] == n_rows
    assert train(store, out=tmp_path / "third", **OPTIONS).config["dataset_version"] == 3


def test_every_head_trains_on_a_view(build: Build, tmp_path: Path) -> None:
    cache = build()
    store = FeatureStore.open(tmp_path / "store")
    grow(store, "pets", larger(cache, 30, dropped=9))
    fill(store, cache, "pets~2", 1)
    for head in ("falkon", "ridge", "logistic", "knn"):
        common = {name: value for name, value in OPTIONS.items() if name != "n_centers"}
        common |= {"solver": "falkon"} if head == "falkon" else {}
        run = train(store, out=tmp_path / head, head=head, layers="all", **common)
        assert run.metrics["n_train"] + run.metrics["n_test"] == 111


def test_a_run_from_before_data_sets_grew(build: Build, tmp_path: Path) -> None:
    cache = build()
    run = train(tmp_path / "store", out=tmp_path / "run", **OPTIONS)
    config = json.loads((run.folder / "run.json").read_text())
    del config["dataset_version"], config["files"], config["self_sha256"]
    (run.folder / "run.json").write_text(json.dumps(config))
    store = FeatureStore.open(tmp_path / "store")
    grow(store, "pets", larger(cache, 30, dropped=9))
    assert evaluate_run(run.folder)["accuracy"] == run.metrics["accuracy"]


def test_what_cannot_be_trained_on(build: Build, tmp_path: Path) -> None:
    cache = build()
    store = FeatureStore.open(tmp_path / "store")
    grow(store, "pets", larger(cache, 30))
    with pytest.raises(IncompleteError, match=r"lacks .*last.mean of 30 images in part pets~2; run extract"):
        train(store, out=tmp_path / "run", **OPTIONS)
    with pytest.raises(StoreNotFoundError, match=r"no version 3 \(there are: 1, 2\)"):
        train(store, out=tmp_path / "run", dataset_version=3, **OPTIONS)
    with pytest.raises(InputError, match="'pets~2' is a part of data set 'pets'"):
        train(store, out=tmp_path / "run", **(OPTIONS | {"dataset": "pets~2"}))
    assert not (tmp_path / "run").exists()
