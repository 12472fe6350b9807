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

IMAGES, UNIT_ROWS, TASKS = 510, 64, 2
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
    folder = tmp_path / "it's shared, 100%"
    save_shapes(folder / "photos", per_class=IMAGES // 3)
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
    n_units = -(-IMAGES // UNIT_ROWS)
    first, second = (set(shard_units(n_units, task, TASKS)) for task in range(TASKS))

    def stored() -> set[int]:
        arrays = units_of(folder / "store")
        return set.intersection(*arrays.values()) if arrays else set()

    done: dict[str, set[int]] = {}

    def both_are_disturbed() -> bool:
        if "first" not in done and stored() & first:
            cluster.run("scancel", "--signal=USR1", "--batch", f"{extract}_0")
            done["first"] = stored() & first
        if "second" not in done and stored() & second:
            cluster.kill_node(next(node for number, _, node in cluster.jobs() if number == f"{extract}_1"))
            done["second"] = stored() & second
        return len(done) == TASKS

    cluster.wait_for("units of both tasks", both_are_disturbed, 90)
    assert done["first"] != first, "the task was done before its signal came"
    assert done["second"] != second, "the task was done before its node was lost"
    lost = time.monotonic() - began

    # Meanwhile, one process that nobody disturbs.
    toptune("extract", folder / "photos", "--store", folder / "single", *EXTRACT, environment=environment)

    # The first puts itself back into the queue; that the node is gone, Slurm finds out by itself. Both are to
    # begin in two minutes: as an operator, do not wait. (Slurm needs a second in between.)
    for task in (f"{extract}_0", f"{extract}_1"):
        cluster.wait_for("requeued task", partial(is_waiting, cluster, task), 60)
    before = stored()
    for task in (f"{extract}_0", f"{extract}_1"):
        cluster.run("scontrol", "update", f"JobId={task}", "StartTime=now+3")
    cluster.wait_for("end of all jobs", lambda: not cluster.jobs(), 150)
    logs = "\n".join(path.read_text() for path in sorted((folder / "jobs" / "logs").iterdir()))
    ended = [cluster.job(f"{extract}_{task}") for task in range(TASKS)]
    assert [(job["JobState"], job["Restarts"]) for job in ended] == [("COMPLETED", "1")] * TASKS, (
        logs + cluster.logs()
    )
    assert cluster.job(train)["JobState"] == "COMPLETED", logs
    assert "SIGUSR1: the unit at hand is finished" in logs
    assert (
        f"stopped with {len(before & first)} of {len(first)} units stored; the same command resumes" in logs
    )
    assert "shard 1/2: SLURM_ARRAY_TASK_ID is 1" in logs
    seconds = time.monotonic() - began

    # Everything is as the undisturbed process has it, and is read as it was written.
    found = feature_bytes(the_cache(folder / "store"))
    assert found.pop("used.json"), "it was trained from"
    assert found == feature_bytes(the_cache(folder / "single"))
    clean = toptune(
        "store", "verify", "--deep", "--json", "--store", folder / "store", environment=environment
    )
    assert json.loads(clean)["damaged"] == []
    metrics = json.loads((folder / "jobs" / "run" / "metrics.json").read_text())
    assert metrics["n_train"] + metrics["n_test"] == IMAGES
    assert metrics["accuracy"] > 0.8
    missing = sorted(set(range(n_units)) - before)
    print(
        f"\n{TASKS} tasks on 2 nodes, {n_units} units; by {lost:.1f} s one had its signal, the other lost "
        f"its node, units {missing} missing; restarted on {ended[0]['NodeList']} and {ended[1]['NodeList']}; "
        f"all jobs ended after {seconds:.1f} s, all compared after {time.monotonic() - began:.1f} s; "
        f"accuracy {metrics['accuracy']:.3f}"
    )


def is_waiting(cluster: Cluster, task: str) -> bool:
    return (task, "PENDING", "") in cluster.jobs()


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
