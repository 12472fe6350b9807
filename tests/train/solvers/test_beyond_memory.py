"""Training on a store ten times as large as the memory that the process is given for it."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification

from toptune.store import FeatureStore, Manifest, Recipe
from toptune.train import FalkonClassifier

N, D, UNIT = 40_000, 6144, 400
LIMIT = 90 * 2**20

TRAIN = """
import json, sys
import torch
torch.set_num_threads(1)
import numpy as np
from toptune.train import FalkonClassifier, train
store, out, limit = sys.argv[1:]
def kernel_says(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
options = dict(sigma=60.0, penalty=1e-4, n_centers=20, cv=2, layers="all", model="tiny.demo")
from toptune.machine.memory import taken_bytes
train(store, dataset="few", out=out + "-few", **options)  # libraries and their workspaces
options["memory_limit"] = taken_bytes() + int(limit)  # the limit is on the whole process
before = kernel_says("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
run = train(store, dataset="many", out=out, **options)
print(json.dumps({"grown": kernel_says("VmHWM") - before, "accuracy": run.metrics["accuracy"],
                  "projected": run.head.report["peak_bytes"]}))
"""


def fill(store: FeatureStore, dataset: str, n: int) -> None:
    labels = [f"class {row % 2}" for row in range(n)]
    store.register(
        dataset, Manifest.from_columns(ids=[f"{row:05}" for row in range(n)], labels=labels, sizes=[1] * n)
    )
    recipe = Recipe(
        architecture="tiny", model_kwargs={}, weights="ab" * 32, transform={"input_size": [3, 8, 8]},
        decode="pillow-1", precision="fp32",
    )  # fmt: skip
    cache = store.create_cache(
        "tiny.demo", dataset, recipe, unit_rows=UNIT, batch_size=UNIT, backbone={"name": "tiny.demo"}
    )
    cache.ensure_array("last.mean", dim=D, dtype="float32")
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(UNIT, D)).astype(np.float32)
    for unit in range(cache.n_units):
        rows = cache.unit_slice(unit)
        values = np.roll(noise, unit, axis=1)[: rows.stop - rows.start]
        values[1::2, :96] += 1
        cache.commit_unit(unit, {"last.mean": values})


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
def test_a_store_ten_times_the_limit(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "store")
    fill(store, "few", 2 * UNIT)
    fill(store, "many", N)
    assert N * D * 4 >= 10 * LIMIT
    # Starting dask workers leaves a setting of glibc's in the environment, by which the heap shrinks before
    # it is measured.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(tmp_path / "store"), str(tmp_path / "run"), str(LIMIT)],
        capture_output=True, text=True, check=False, timeout=240, env=plain,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["accuracy"] > 0.75
    assert figures["projected"] <= LIMIT
    assert figures["grown"] <= LIMIT, figures


def test_the_benchmark_of_imagenets_size_draws_the_same_rows_in_any_slices() -> None:
    script = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "imagenet_size.py"))
    drawn = script["DrawnRows"](9000, 256, 3)
    whole = drawn[0:9000]
    np.testing.assert_array_equal(np.concatenate([drawn[0:4000], drawn[4000:8300], drawn[8300:9000]]), whole)
    train, codes = whole[:8000], drawn.codes[:8000]
    means = np.stack([train[codes == code].mean(axis=0, dtype=np.float64) for code in range(3)])
    distances = np.square(whole[8000:, None] - means).sum(axis=2)
    assert (distances.argmin(axis=1) == drawn.codes[8000:]).mean() > 0.9
    # Multiply-adds of 2 x 10 x 4 x 3 kernel values' terms count twice.
    size = script["Size"](rows=10, columns=3, classes=2, centers=4, folds=5)
    assert size.flops()["kernel values, twice"] == 2 * 2 * 10 * 4 * 3
    assert size.flops()["left-out scores"] == 2 * 3 * 10 * 4 * 2


@pytest.mark.parametrize("is_newer", [False, True], ids=["older switch", "newer switches"])
def test_products_stay_float32_whatever_the_process_has_chosen(*, is_newer: bool) -> None:
    X, y = make_classification(300, 40, n_informative=20, random_state=0)
    X = X.astype(np.float32)
    options: dict[str, Any] = {"n_centers": 60, "sigma": 8.0, "penalty": 1e-6, "cv": None, "random_state": 0}
    plain = FalkonClassifier(**options).fit(X, y).scores(X)
    backends: Any = torch.backends
    matmuls = [backends.cuda.matmul, backends.mkldnn.matmul]
    if is_newer:
        if not hasattr(backends, "fp32_precision"):
            pytest.skip("torch < 2.9 has no newer switches")
        # torch then refuses to say what the older switch is.
        for matmul, value in zip(matmuls, ("tf32", "bf16"), strict=True):
            matmul.fp32_precision = value
    else:
        torch.set_float32_matmul_precision("medium")
    try:
        np.testing.assert_array_equal(FalkonClassifier(**options).fit(X, y).scores(X), plain)
        if is_newer:
            assert [matmul.fp32_precision for matmul in matmuls] == ["tf32", "bf16"]
        else:
            assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
