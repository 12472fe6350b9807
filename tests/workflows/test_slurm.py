"""A real Slurm runs what `toptune jobs slurm` wrote, loses a node midway, and ends as a single run."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from shapes import MODEL, save_shapes
from slurm_cluster import Cluster, slurm_cluster, why_not
from tiny import feature_bytes

from toptune.store import FeatureCache, FeatureStore, shard_units

PICTURES, UNIT_ROWS, TASKS = 480, 64, 2
EXTRACT = ("--model", MODEL, "--layers", "all", "-b", "8", "-j", "1", "--img-size", "224")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with slurm_cluster() as running:
        yield running


def toptune(*arguments: object, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "toptune.cli", *map(str, arguments)],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
    return done.stdout


def units_of(root: Path) -> dict[str, set[int]]:
    """Units in the ledger, by array."""
    return {
        folder.name: {int(path.stem) for path in folder.glob("0*.json")}
        for folder in root.glob("features/*/photos/ledger/*")
    }


@pytest.mark.timeout(280)
def test_a_job_array_that_loses_a_node_ends_as_a_single_run(cluster: Cluster, tmp_path: Path) -> None:
    began = time.monotonic()
    folder = tmp_path / "it's shared"
    save_shapes(folder / "photos", per_class=PICTURES // 3)
    environment = dict(cluster.environment) | {"OMP_NUM_THREADS": "1"}
    out = toptune(
        "jobs", "slurm", folder / "photos", "--store", folder / "store", *EXTRACT, "--out", folder / "jobs",
        "--jobs", TASKS, "--cpus", "1", "--time", "10m", "--mem", "2GiB", "--images-per-second", "100",
        "--train", "--head ridge", "--submit", "--json", environment=environment,
    )  # fmt: skip
    report = json.loads(out)
    assert report["plan"]["tasks"] == TASKS
    extract, train = report["jobs"]["extract"], report["jobs"]["train"]

    # Each task works on its own units; the node of the second is cut off while that has some and lacks some.
    n_units = -(-PICTURES // UNIT_ROWS)
    second = set(shard_units(n_units, 1, TASKS))

    def stored() -> set[int]:
        arrays = units_of(folder / "store")
        return set.intersection(*arrays.values()) if arrays else set()

    cluster.wait_for("unit of the second task", lambda: stored() & second, 60)
    nodes = {number: node for number, state, node in cluster.jobs() if state == "RUNNING"}
    node = nodes[f"{extract}_1"]
    killed = cluster.kill_node(node)
    assert len(killed) >= 3, "slurmstepd, the script and the extraction"
    left = second - stored()
    assert left, "the task was done before its node was lost"
    lost = time.monotonic() - began

    # Slurm finds out by itself and puts the task back, to begin in two minutes: as an operator, do not wait.
    cluster.wait_for("requeued task", lambda: (f"{extract}_1", "PENDING", "") in cluster.jobs(), 60)
    cluster.run("scontrol", "update", f"JobId={extract}_1", "StartTime=now")
    cluster.wait_for("end of all jobs", lambda: not cluster.jobs(), 150)
    logs = "\n".join(path.read_text() for path in sorted((folder / "jobs" / "logs").iterdir()))
    again = cluster.job(f"{extract}_1")
    assert (again["JobState"], again["Restarts"]) == ("COMPLETED", "1"), logs
    assert cluster.job(f"{extract}_0")["JobState"] == "COMPLETED", logs
    assert cluster.job(train)["JobState"] == "COMPLETED", logs
    assert "shard 1/2: SLURM_ARRAY_TASK_ID is 1" in logs
    seconds = time.monotonic() - began

    # The same as one process that nobody disturbed, and everything that was read is as it was written.
    toptune("extract", folder / "photos", "--store", folder / "single", *EXTRACT, environment=environment)
    found = feature_bytes(the_cache(folder / "store"))
    assert found.pop("used.json"), "it was trained from"
    assert found == feature_bytes(the_cache(folder / "single"))
    clean = toptune(
        "store", "verify", "--deep", "--json", "--store", folder / "store", environment=environment
    )
    assert json.loads(clean)["damaged"] == []
    metrics = json.loads((folder / "jobs" / "run" / "metrics.json").read_text())
    assert metrics["n_train"] + metrics["n_test"] == PICTURES
    assert metrics["accuracy"] > 0.8
    print(
        f"\n{TASKS} tasks on 2 nodes; {node} killed with {len(killed)} processes after {lost:.1f} s, units "
        f"{sorted(left)} missing; restarted by Slurm on {again['NodeList']}; all jobs ended after "
        f"{seconds:.1f} s, all compared after {time.monotonic() - began:.1f} s; accuracy "
        f"{metrics['accuracy']:.3f}"
    )


def the_cache(root: Path) -> FeatureCache:
    (cache,) = FeatureStore.open(root).caches()
    return cache


def test_the_reason_for_skipping_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("slurm_cluster.SBIN", "/nowhere")
    reason = why_not()
    assert reason is not None
    assert "slurmctld, slurmd, munged" in reason
    assert os.environ["PATH"] == "/nowhere"
