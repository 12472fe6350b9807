"""Fits on a dask.distributed cluster: they equal serial fits, also when a worker dies."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification

from toptune.store import ArrayBlocks, FeatureCache, InputError
from toptune.train import FalkonClassifier, StreamingRidgeClassifier, make_head, train
from toptune.train.kernels.maps import RAW_PIVOT, IdentityMap
from toptune.train.passes.dask_passes import DaskCluster
from toptune.train.passes.training_rows import TrainingRows

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


def test_sums_of_plain_float32_kernel_values_equal_the_serial_ones(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Workers send such sums as they are, and blocks begin where those of a serial pass begin.
    monkeypatch.setattr("toptune.train.estimators.kernel_ridge.FLOAT64_WORK", 0.0)
    monkeypatch.setattr("toptune.train.rows.block_reading.BLOCK_BYTES", 0)
    monkeypatch.setattr("toptune.train.rows.block_reading.LEAST_ROWS", 0)
    X, y = data(3000)
    options: dict[str, Any] = {"cv": 3, "random_state": 0, "n_centers": 100, "sigma": [2.0, 4.0]}
    serial, spread = (
        FalkonClassifier(dask=where, **options).fit(X.astype(np.float32), y) for where in (None, address)
    )
    assert serial.report_.precision == "float32"
    assert serial.report_.smallest_pivot > RAW_PIVOT
    expected = serial.scores(X)
    np.testing.assert_allclose(spread.scores(X), expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    assert spread.penalty_ == pytest.approx(serial.penalty_, rel=1e-12)


def test_a_worker_with_too_little_memory_is_named_before_the_work() -> None:
    class Client:
        def scheduler_info(self, **_: Any) -> dict[str, Any]:
            worker = {"memory_limit": 700 * 2**20, "metrics": {"memory": 500 * 2**20}}
            return {"workers": {"tcp://there:1": worker, "tcp://free:1": {"memory_limit": 0}}}

    n = 4000
    rows = TrainingRows(
        blocks=ArrayBlocks(np.zeros((n, 2000))), codes=np.arange(n) % 2, weights=np.ones(n),
        folds=np.arange(n) % 5, n_classes=2, n_folds=5,
    )  # fmt: skip
    cluster, maps, cpu = DaskCluster(Client()), IdentityMap(2000), torch.device("cpu")
    message = (
        r"worker tcp://there:1 needs about .*iB.* takes 500\.0 MiB already.*limit is 700\.0 MiB: give it more"
    )
    with pytest.raises(InputError, match=message):
        cluster.accumulate(rows, maps, [0], is_raw=[False], block_rows=500, device=cpu)
    beta = torch.zeros((5, 2001, 2), dtype=torch.float64)
    with pytest.raises(InputError, match="to score the rows that were left out"):
        cluster.predict_left_out(rows, maps, [(0, beta)] * 2000, block_rows=500, device=cpu)


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
    fitted = threading.Event()

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

        while not fitted.wait(0.01) and not killed:
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
        try:
            spread = FalkonClassifier(dask=cluster.scheduler_address, **options).fit(X, y)
        finally:
            fitted.set()
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
