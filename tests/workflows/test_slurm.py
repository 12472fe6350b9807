"""A real Slurm runs what `toptune jobs slurm` wrote, loses a node and warns a task; the store is the same."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from shapes import MODEL, save_shapes
from slurm_cluster import Cluster, slurm_cluster, why_not
from tiny import feature_bytes

from toptune.store import FeatureCache, FeatureStore, shard_units

PICTURES, UNIT_ROWS, TASKS = 384, 64, 2
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

    # Each task works on its own units. The first gets the signal that announces the end of its time, the node
    # of the second is cut off, both while they have some units and lack some.
    n_units = -(-PICTURES // UNIT_ROWS)
    first, second = (set(shard_units(n_units, task, TASKS)) for task in range(TASKS))

    def stored() -> set[int]:
        arrays = units_of(folder / "store")
        return set.intersection(*arrays.values()) if arrays else set()

    cluster.wait_for("unit of each task", lambda: stored() & first and stored() & second, 60)
    cluster.run("scancel", "--signal=USR1", "--batch", f"{extract}_0")
    nodes = {number: node for number, state, node in cluster.jobs() if state == "RUNNING"}
    node = nodes[f"{extract}_1"]
    killed = cluster.kill_node(node)
    assert len(killed) >= 3, "slurmstepd, the script and the extraction"
    left = second - stored()
    assert left, "the task was done before its node was lost"
    lost = time.monotonic() - began

    # The first puts itself back into the queue; that the node is gone, Slurm finds out by itself. Both are to
    # begin in two minutes: as an operator, do not wait. (Slurm needs a second in between.)
    def is_pending(task: str) -> bool:
        return (task, "PENDING", "") in cluster.jobs()

    for task in (f"{extract}_0", f"{extract}_1"):
        cluster.wait_for("requeued task", partial(is_pending, task), 60)
        if task.endswith("_0"):
            before = stored()
        cluster.run("scontrol", "update", f"JobId={task}", "StartTime=now+3")
    cluster.wait_for("end of all jobs", lambda: not cluster.jobs(), 150)
    logs = "\n".join(path.read_text() for path in sorted((folder / "jobs" / "logs").iterdir()))
    ended = [cluster.job(f"{extract}_{task}") for task in range(TASKS)]
    assert [(job["JobState"], job["Restarts"]) for job in ended] == [("COMPLETED", "1")] * TASKS, (
        logs + cluster.logs()
    )
    assert cluster.job(train)["JobState"] == "COMPLETED", logs
    assert "SIGUSR1: the unit at hand is finished" in logs
    assert f"stopped with {len(before & first)} of 3 units stored; the same command resumes" in logs
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
        f"{sorted(left)} missing; restarted by Slurm on {ended[1]['NodeList']}; all jobs ended after "
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
