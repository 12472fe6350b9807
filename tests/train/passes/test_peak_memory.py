"""Projections of memory against measured peaks, where the classes are many and the columns few."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toptune.machine.limits import RunLimits
from toptune.machine.memory import left_bytes, taken_bytes
from toptune.store import InputError
from toptune.train.passes.peak_memory import scoring_bytes, scoring_rows

HEADS = {
    "ncm": {}, "ridge": {}, "lda": {"shrinkage": [0.1, 0.5, 0.9]}, "knn": {"n_neighbors": [1, 5]},
    "falkon": {"n_centers": 60, "sigma": [2.0, 4.0], "penalty": [1e-3, 1e-2]},
    "logistic": {"penalty": [1e-2]},
    "falkon-logistic": {"n_centers": 60, "sigma": 4.0, "penalty": [1e-2]},
}  # fmt: skip
FIXED_BYTES = 24 * 2**20
# Each head is fitted in a fork of a process that has imported everything and fitted the head once. Freed
# memory goes back at once by the variables below: what the C library would keep is not the fit's.
PROGRAM = """
import json, os, sys
import numpy as np, torch
torch.set_num_threads(1)
from toptune.train import make_head
def says(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
def fit(head, params, n, n_classes):
    rng, codes = np.random.default_rng(0), np.arange(n) % n_classes
    rows = (rng.normal(size=(n_classes, 6))[codes] + 0.1 * rng.normal(size=(n, 6))).astype(np.float32)
    before = says("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    made = make_head(head, params=params, cv=2)
    made.fit(rows, np.array([f"class {code:04d}" for code in codes]), groups=[str(row) for row in range(n)])
    return says("VmHWM") - before, made.report["peak_bytes"]
answers = {}
for head, params in json.loads(sys.argv[1]).items():
    fit(head, params, 60, 3)
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(fit(head, params, 3000, 1500)).encode())
        os._exit(0)
    os.wait()
    answers[head] = json.loads(os.read(reader, 4096))
print(json.dumps(answers))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
def test_many_classes_are_projected_within_a_tenth() -> None:
    kept = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(HEADS)],
        capture_output=True, text=True, check=False, timeout=240, env={**os.environ, **kept},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Threads, workspaces of matrix products and pages of libraries take some MiB in fits of any size.
    off = {
        head: (grown / 2**20, projected / 2**20)
        for head, (grown, projected) in json.loads(done.stdout).items()
        if abs(grown - projected) > 0.1 * projected + FIXED_BYTES
    }
    assert off == {}


def test_scores_of_many_classes_are_made_a_few_rows_at_a_time() -> None:
    assert scoring_rows(n_classes=10) > 50_000
    for n_classes in (1, 100, 10_000, 100_000):
        assert scoring_bytes(n=10**6, n_classes=n_classes, n_fits=3) <= 250 * 2**20


def test_a_limit_is_on_the_whole_process() -> None:
    taken = taken_bytes()
    assert taken > 50 * 2**20
    assert abs(RunLimits(memory_limit="64GiB").left_bytes() - (64 * 2**30 - taken)) < 100 * 2**20
    with pytest.raises(InputError, match=r"limit is 20 MiB, and this process takes \d+ MiB before the work"):
        left_bytes(20 * 2**20)
