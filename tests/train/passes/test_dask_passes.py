"""Fits on a dask.distributed cluster: they equal serial fits, also when a worker dies."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_classification

from toptune.store import FeatureCache, InputError
from toptune.train import FalkonClassifier, StreamingRidgeClassifier, make_head, train

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")
Build = Callable[..., FeatureCache]


pytestmark = pytest.mark.usefixtures("warm_workers")


@pytest.fixture(scope="module")
def address(warm_workers: None) -> Iterator[str]:
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster.scheduler_address


def data(n: int = 400, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    return make_classification(n, d, n_informative=d - 2, n_classes=3, random_state=0)  # type: ignore[no-any-return]


@pytest.mark.parametrize("estimator", [FalkonClassifier, StreamingRidgeClassifier])
@pytest.mark.parametrize("cv", [3, None])
def test_equals_the_serial_fit(estimator: Any, cv: int | None, address: str) -> None:
    X, y = data()
    options: dict[str, Any] = {"cv": cv, "random_state": 0}
    if estimator is FalkonClassifier:
        options |= {"n_centers": 50, "sigma": [2.0, 4.0] if cv else 2.0}
    if cv is None:
        options |= {"penalty": 1e-3}
    serial = estimator(**options).fit(X, y)
    spread = estimator(dask=address, **options).fit(X, y)
    np.testing.assert_allclose(spread.scores(X), serial.scores(X), atol=1e-9)
    assert spread.temperature_ == pytest.approx(serial.temperature_, rel=1e-3)
    assert spread.report_.accuracy == pytest.approx(serial.report_.accuracy)
    ours, theirs = spread.report_.to_dict()["table"], serial.report_.to_dict()["table"]
    assert [row["squared_error"] for row in ours] == pytest.approx([row["squared_error"] for row in theirs])


def test_trains_from_a_store(build: Build, tmp_path: Path, address: str) -> None:
    build()
    options: dict[str, Any] = {
        "dataset": "pets",
        "model": "tiny.demo",
        "cv": 3,
        "layers": "all",
        "n_centers": 30,
    }
    serial = train(tmp_path / "store", out=tmp_path / "serial", **options)
    spread = train(tmp_path / "store", out=tmp_path / "spread", dask=address, **options)
    assert spread.metrics["accuracy"] == serial.metrics["accuracy"]
    assert spread.metrics["log_loss"] == pytest.approx(serial.metrics["log_loss"], rel=1e-3)


def test_a_worker_killed_in_the_middle_changes_nothing() -> None:
    X, y = data(30_000, 40)
    options: dict[str, Any] = {"n_centers": 300, "sigma": 6.0, "penalty": 1e-4, "cv": 3, "random_state": 0}
    serial = FalkonClassifier(**options).fit(X, y)
    killed: list[int] = []

    def kill(client: Any, pids: dict[str, int]) -> None:
        """Kill a worker that holds finished sums while others are being added up."""

        def busy(dask_scheduler: Any) -> list[str]:
            states = [task.state for task in dask_scheduler.tasks.values() if "sums_of" in task.key]
            if "processing" not in states or "memory" not in states:
                return []
            return [
                who.address
                for task in dask_scheduler.tasks.values()
                if "sums_of" in task.key and task.state == "memory"
                for who in task.who_has
            ]

        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not killed:
            for worker in client.run_on_scheduler(busy)[:1]:
                os.kill(pids[worker], signal.SIGKILL)
                killed.append(pids[worker])

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = client.run(os.getpid)
        killer = threading.Thread(target=kill, args=(client, pids))
        killer.start()
        spread = FalkonClassifier(dask=cluster.scheduler_address, **options).fit(X, y)
        killer.join()
    assert len(killed) == 1
    np.testing.assert_allclose(spread.scores(X[:500]), serial.scores(X[:500]), atol=1e-9)


def test_rows_that_are_not_finite_are_named_whatever_part_they_are_in(address: str) -> None:
    X, y = data()
    X[317, 2] = np.nan
    with pytest.raises(InputError, match=r"row 317 \(counted from 0\)"):
        FalkonClassifier(dask=address, n_centers=3, random_state=1).fit(X, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dask": "nowhere"}, "'nowhere' is no address"),
        ({"dask": "local:0"}, "'local:0' has no worker"),
        ({"dask": "local:2", "solver": "falkon"}, "'falkon' does not work on a dask cluster"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    X, y = data(60)
    with pytest.raises(InputError, match=message):
        FalkonClassifier(**options).fit(X, y)
    with pytest.raises(InputError, match="'knn' does not know"):
        make_head("knn", dask="local:2")


def test_local_workers_are_started_and_stopped() -> None:
    X, y = data()
    serial = StreamingRidgeClassifier(penalty=0.1).fit(X, y)
    spread = StreamingRidgeClassifier(penalty=0.1, dask="local:2").fit(X, y)
    np.testing.assert_allclose(spread.coef_, serial.coef_, atol=1e-9)
