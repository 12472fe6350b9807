"""Sums on dask workers with CUDA devices, here in this process and with pretended devices."""

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import CudaTensor, fake_cuda

from toptune.errors import DeviceMemoryError, InputError
from toptune.machine.dask_cluster import ThisWorker
from toptune.train import FalkonClassifier, StreamingRidgeClassifier
from toptune.train.passes import dask_passes
from toptune.train.passes.dask_passes import DaskCluster


class Inline:
    """A client whose workers are this process: what travels is pickled, as dask does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: Sequence[str]) -> None:
        self.monkeypatch, self.names, self.n_tasks = monkeypatch, names, 0

    def scheduler_info(self, **_: Any) -> dict[str, Any]:
        return {"workers": {name: {"memory_limit": 0} for name in self.names}}

    def scatter(self, value: Any, **_: Any) -> Any:
        return sent(value)

    def submit(self, work: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        worker = ThisWorker(self.names[self.n_tasks % len(self.names)], "tcp://here", 1)
        self.n_tasks += 1
        self.monkeypatch.setattr(dask_passes, "this_worker", lambda: worker)
        return sent(work(*[sent(argument) for argument in arguments]))

    def gather(self, results: list[Any]) -> list[Any]:
        return results


def sent(value: Any) -> Any:
    data = pickle.dumps(value)
    assert CudaTensor.__name__.encode() not in data, "a tensor travels that lies on a device"
    return pickle.loads(data)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def use(names: Sequence[str] = ("0", "1"), *, is_local: bool = True) -> None:
        @contextlib.contextmanager
        def opened(address: str | None) -> Iterator[DaskCluster | None]:
            yield None if address is None else DaskCluster(Inline(monkeypatch, names), is_local=is_local)

        monkeypatch.setattr("toptune.train.estimators.scored_classifier.open_cluster", opened)
        monkeypatch.setattr(dask_passes, "each_finished", lambda parts, **_: iter(parts))

    return use


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 150)
    return rng.normal(size=(150, 5)) + y[:, None], y


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        (FalkonClassifier, {"n_centers": 30, "sigma": [2.0, 4.0]}),
        (FalkonClassifier, {"n_centers": 30, "sigma": 2.0, "penalty": 1e-3, "cv": None}),
        (StreamingRidgeClassifier, {}),
    ],
    ids=["falkon", "one fit", "ridge"],
)
def test_workers_sum_on_their_devices_and_only_main_memory_travels(
    estimator: Any, options: dict[str, Any], inline: Callable[..., None]
) -> None:
    X, y = data()
    expected = estimator(random_state=0, **options).fit(X, y)
    inline()
    with fake_cuda() as counts:
        found = estimator(random_state=0, device="cuda", dask="local:2", **options).fit(X, y)
    assert counts.operations["addmm_"] > 10
    np.testing.assert_allclose(fitted(found), fitted(expected), atol=1e-10)


def test_no_more_than_a_fold_or_a_fit_travels_at_a_time(
    inline: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = data()
    inline()
    gather, scatter, arrived, left = Inline.gather, Inline.scatter, [0], [0]

    def gathered(client: Inline, results: list[Any]) -> list[Any]:
        arrived.extend(len(pickle.dumps(each)) for each in results)
        return gather(client, results)

    def scattered(client: Inline, value: Any, **options: Any) -> Any:
        left.append(len(pickle.dumps(value)))
        return scatter(client, value, **options)

    monkeypatch.setattr(Inline, "gather", gathered)
    monkeypatch.setattr(Inline, "scatter", scattered)
    n_centers, n_folds = 60, 5
    FalkonClassifier(
        random_state=0, dask="local:2", n_centers=n_centers, sigma=2.0, cv=n_folds, penalty=[1e-4, 1e-2, 1.0]
    ).fit(X, y)
    fold, fit = 8 * (n_centers + 1) ** 2, 8 * (n_centers + 1) * 3 * n_folds
    assert fold < max(arrived) < 2 * fold
    assert sum(size > fit for size in left) >= 3
    assert max(left) < 2 * fold


def fitted(estimator: Any) -> np.ndarray:
    values = getattr(estimator, "dual_coef_", None)
    return np.asarray(estimator.coef_ if values is None else values)


@pytest.mark.parametrize(
    ("device", "is_local", "taken"),
    [
        ("cuda", True, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda:1", True, ["cuda:1"] * 3),
        ("cuda", False, ["cuda"] * 3),  # their own CUDA_VISIBLE_DEVICES tell them apart
    ],
)
@pytest.mark.usefixtures("cuda")
def test_workers_of_this_machine_share_its_devices_out(
    device: str, taken: list[str], monkeypatch: pytest.MonkeyPatch, *, is_local: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cluster = DaskCluster(None, is_local=is_local)
    found = []
    for name in ("0", "worker-1", "none"):
        monkeypatch.setattr(dask_passes, "this_worker", lambda name=name: ThisWorker(name, "tcp://here", 1))
        with dask_passes._own_device(cluster._devices(torch.device(device))) as own:
            found.append(str(own))
    assert found == taken


def test_a_worker_says_which_one_lacks_the_device_or_its_memory(
    inline: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = ThisWorker("0", "tcp://there:1", 1)
    monkeypatch.setattr(dask_passes, "this_worker", lambda: worker)
    with (
        pytest.raises(InputError, match=r"dask worker tcp://there:1 on .*'cuda' is not there: torch sees 0"),
        dask_passes._own_device(["cuda"]),
    ):
        pass
    inline()

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(dask_passes, "take_sums", fail)
    with fake_cuda(), pytest.raises(DeviceMemoryError, match=r"dask worker tcp://here: .*fewer workers"):
        StreamingRidgeClassifier(device="cuda", dask="local:2").fit(*data())
