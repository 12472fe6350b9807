"""Projections of memory against measured peaks, where the classes are many and the columns few."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toptune.machine.limits import RunLimits
from toptune.machine.memory import left_bytes, taken_bytes
from toptune.store import InputError
from toptune.train import StreamingRidgeClassifier
from toptune.train.passes.peak_memory import scoring_bytes, scoring_rows
from toptune.train.passes.sums import PassTargets
from toptune.train.passes.targets import Targets

# Head, parameters, rows, classes, columns and noise. A forest is as large as projected where classes overlap.
MANY = (2000, 1000, 6, 0.1)
FITS = [
    ("ncm", {}, *MANY),
    ("ridge", {}, *MANY),
    ("lda", {"shrinkage": [0.1, 0.5, 0.9]}, *MANY),
    ("knn", {"n_neighbors": [1, 5]}, *MANY),
    ("falkon", {"n_centers": 60, "sigma": [2.0, 4.0], "penalty": [1e-3, 1e-2]}, *MANY),
    ("logistic", {"penalty": [1e-2]}, *MANY),
    ("falkon-logistic", {"n_centers": 60, "sigma": 4.0, "penalty": [1e-2]}, *MANY),
    ("head2toe", {"group_penalty": 0.3, "fraction": [0.2, 0.4, 0.6, 1.0]}, *MANY),
    ("head2toe", {"group_penalty": 0.3, "fraction": [0.1, 1.0]}, 400, 200, 500, 0.1),
    ("head2toe", {"solver": "softmax", "group_penalty": 0.5, "fraction": 0.5}, 1600, 800, 6, 0.1),
    ("svm", {"C": [1.0], "gamma": [0.1]}, 400, 200, 6, 0.1),
    ("forest", {"n_estimators": 5}, 2000, 1000, 6, 10.0),
    ("sklearn:sklearn.naive_bayes.GaussianNB", {}, *MANY),
    ("sklearn:sklearn.ensemble.ExtraTreesClassifier", {"n_estimators": 4}, 2000, 1000, 6, 10.0),
    # Layer search, by the columns of its layers.
    ("primal", [3, 3], 1600, 800),
    ("dual", [300, 300], 600, 2000),
]
# Estimator, parameters, rows, labels and columns.
SEVERAL = [
    ("StreamingRidgeClassifier", {"penalty": [1e-2]}, 20_000, 400, 4),
    ("FalkonLogisticClassifier", {"n_centers": 20, "sigma": 4.0, "penalty": [1e-1]}, 4000, 400, 4),
]
FIXED_BYTES = 32 * 2**20
# Each head is fitted in a fork of a process that has imported everything and fitted the head once. Freed
# memory goes back at once by the variables below: what the C library would keep is not the fit's.
PROGRAM = """
import json, os, sys
import numpy as np, torch
torch.set_num_threads(1)
from toptune.store.features.blocks import ArrayBlocks
from toptune import train
from toptune.train import make_head
from toptune.train.layers.grams import DualGrams, PrimalGrams, dual_bytes, primal_bytes
from toptune.train.numerics.calibration import fit_temperature
from toptune.train.passes.training_rows import TrainingRows
def says(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
def search(form, dims, n, n_classes):
    rng, codes = np.random.default_rng(0), np.arange(n) % n_classes
    blocks = ArrayBlocks(rng.normal(size=(n, sum(dims))).astype(np.float32))
    rows = TrainingRows(
        blocks=blocks, codes=codes, weights=np.ones(n), folds=np.arange(n) // n_classes % 2,
        n_classes=n_classes, n_folds=2,
    )
    before = says("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    sizes = {"n_rows": n, "n_layers": len(dims), "n_folds": 2, "n_classes": n_classes}
    if form == "primal":
        grams = PrimalGrams(rows, dims, block_rows=n, device=torch.device("cpu"))
        projected = primal_bytes(n_columns=sum(dims), **sizes)
    else:
        ends = np.cumsum(dims)
        layers = (ArrayBlocks(blocks.values[:, end - dim : end]) for end, dim in zip(ends, dims))
        grams = DualGrams(rows, layers, device=torch.device("cpu"))
        projected = dual_bytes(largest_layer=max(dims), **sizes)
    fits = [(tuple(range(count)), 0.1) for count in (1, 2)] * 5
    grams.squared_error(*fits[0])
    for found in grams.left_out(fits):
        fit_temperature(found.scores, codes)
    return says("VmHWM") - before, projected
def fit(head, params, n, n_classes, d, noise):
    rng, codes = np.random.default_rng(0), np.arange(n) % n_classes
    rows = (rng.normal(size=(n_classes, d))[codes] + noise * rng.normal(size=(n, d))).astype(np.float32)
    before = says("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    made = make_head(head, params=params, cv=2)
    made.fit(rows, np.array([f"class {code:04d}" for code in codes]), groups=[str(row) for row in range(n)])
    return says("VmHWM") - before, made.report["peak_bytes"]
def several(name, params, n, k, d):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, d)).astype(np.float32)
    y = (rows @ rng.normal(size=(d, k)).astype(np.float32) > 3).astype(np.int8)
    estimator = getattr(train, name)(**params, cv=2, random_state=0)
    before = says("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    estimator.fit(rows, y)
    return says("VmHWM") - before, estimator.report_.peak_bytes
answers = []
for head, params, *sizes in json.loads(sys.argv[1]):
    measured = {2: search, 3: several, 4: fit}[len(sizes)]
    measured(head, params, 60, 3, *sizes[2:])
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(measured(head, params, *sizes)).encode())
        os._exit(0)
    os.wait()
    answers.append([head, *json.loads(os.read(reader, 4096))])
print(json.dumps(answers))
"""


def measured(fits: Sequence[tuple[Any, ...]]) -> list[tuple[str, int, int]]:
    """Return the head, the bytes that a fit took and those that were projected, of each fit."""
    kept = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(fits)],
        capture_output=True, text=True, check=False, timeout=240, env={**os.environ, **kept},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [(head, grown, projected) for head, grown, projected in json.loads(done.stdout)]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
def test_many_labels_stay_within_the_projection() -> None:
    found = [(name, grown // 2**20, projected // 2**20) for name, grown, projected in measured(SEVERAL)]
    # As below: some MiB are of libraries.
    assert [each for each in found if not each[2] / 2 <= each[1] <= each[2] + FIXED_BYTES // 2**20] == []


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
def test_many_classes_are_projected_within_a_tenth() -> None:
    # Threads, workspaces of matrix products and pages of libraries take some MiB in fits of any size.
    off = [
        (head, grown // 2**20, projected // 2**20)
        for head, grown, projected in measured(FITS)
        if abs(grown - projected) > 0.1 * projected + FIXED_BYTES
    ]
    assert off == []


def test_scores_of_many_classes_are_made_a_few_rows_at_a_time() -> None:
    assert scoring_rows(n_classes=10) > 50_000
    for n_classes in (1, 100, 10_000, 100_000):
        assert scoring_bytes(n=10**6, n_classes=n_classes, n_fits=3) <= 250 * 2**20


def test_a_limit_is_on_the_whole_process() -> None:
    taken = taken_bytes()
    assert taken > 50 * 2**20
    left = RunLimits(memory_limit="64GiB").left_for_head()
    assert left is not None
    assert abs(left - (64 * 2**30 - taken)) < 100 * 2**20
    with pytest.raises(
        InputError, match=r"limit is 20\.0 MiB, and this process takes [0-9.]+ [MG]iB before the work"
    ):
        left_bytes(20 * 2**20)


def test_a_matrix_of_labels_counts_in_the_projection() -> None:
    rows = np.random.default_rng(0).normal(size=(12_000, 3)).astype(np.float32)
    labels = (rows @ rows[:200].T > 0).astype(np.int8)
    few, many = (
        StreamingRidgeClassifier(penalty=0.1, cv=None).fit(rows[:n], labels[:n]).report_.peak_bytes
        for n in (6000, 12_000)
    )
    assert many - few >= 6000 * 200 * 4


def test_sums_of_labels_are_the_same_taken_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, size=(30, 4)).astype(np.float32)
    values[::7, 1] = np.nan
    monkeypatch.setattr("toptune.train.passes.targets._BYTES_AT_A_TIME", 7 * 4 * 8)
    targets, weights, folds = Targets(values=values, are_labels=True), rng.uniform(size=30), np.arange(30) % 3
    assert len(list(targets.parts_of_rows())) == 5
    of_pass = PassTargets.of(
        np.zeros(30, np.int64), weights, folds, n_folds=3, n_classes=4, device=torch.device("cpu"),
        targets=targets,
    )  # fmt: skip
    filled = np.where(np.isnan(values), np.nanmean(values, axis=0, dtype=np.float64), values)
    for fold in range(3):
        there = folds == fold
        np.testing.assert_allclose(of_pass.by_class[fold], weights[there] @ filled[there], rtol=1e-12)
        square = float(weights[there] @ (filled[there] ** 2).sum(axis=1))
        assert float(of_pass.square[fold]) == pytest.approx(square, rel=1e-12)
    sums = torch.zeros((4, 2), dtype=torch.float64)
    features = torch.from_numpy(rng.normal(size=(30, 2)))
    of_pass.add_products(sums, np.arange(30), features)
    np.testing.assert_allclose(sums, filled.T @ features.numpy(), rtol=1e-12)
