"""Training on a CUDA device, here a pretended one: what is refused, what is told, and the same answers."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import Counts

from toptune.errors import InputError
from toptune.machine.limits import RunLimits
from toptune.machine.memory import MemoryLimits
from toptune.store import FeatureCache
from toptune.train import (
    FalkonClassifier,
    FalkonLogisticClassifier,
    Head2ToeClassifier,
    NearestNeighborClassifier,
    ShrinkageDiscriminantClassifier,
    StreamingLogisticClassifier,
    StreamingRidgeClassifier,
    compare_heads,
    report_layers,
    train,
    update_run,
)
from toptune.train.heads.kinds import why_small
from toptune.train.preprocessing.preprocessing import PreprocessedBlocks
from toptune.train.solvers import device_rates
from toptune.train.solvers.solver_choice import Sizes, choose_solver

Build = Callable[..., FeatureCache]
GIB = 2**30
ESTIMATORS = [
    FalkonClassifier,
    FalkonLogisticClassifier,
    Head2ToeClassifier,
    NearestNeighborClassifier,
    ShrinkageDiscriminantClassifier,
    StreamingLogisticClassifier,
    StreamingRidgeClassifier,
]
CUDA = torch.device("cuda")


@pytest.fixture
def memory(cuda: object, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend how much is free on the device, and how much main memory work may take by default."""

    def pretend(*, free: int, host: int, held: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, 2 * free))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: held)
        # Tensors that earlier tests left behind take nothing of this device.
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *_: 0)
        monkeypatch.setattr("toptune.machine.memory.memory_limit_bytes", lambda: host)

    return pretend


def data(n: int = 60, d: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)), np.arange(n) % 3


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.usefixtures("cuda")
def test_a_device_that_is_not_there_is_refused_by_every_estimator(estimator: Any) -> None:
    for device in ("cuda:7", "mps", "xpu", "meta", "tpu"):
        with pytest.raises(InputError, match=rf"device '{device}' is .*\bcpu"):
            estimator(device=device, random_state=0).fit(*data())
    with pytest.raises(InputError, match=r"names 2 devices, and a head is fitted on one; .*--dask local:2"):
        estimator(device="cuda:0,cuda:1", random_state=0).fit(*data())
    fitted = estimator(random_state=0, **({"n_centers": 9} if hasattr(estimator(), "n_centers") else {}))
    fitted.fit(*data(30)).set_params(device="cuda:7")
    # Heads whose scores are linear in the columns compute them in main memory.
    if not hasattr(fitted, "coef_"):
        with pytest.raises(InputError, match="device 'cuda:7' is not there"):
            fitted.predict(data(30)[0])


def test_a_limit_on_a_device_is_of_what_is_free_there(memory: Callable[..., None]) -> None:
    memory(free=16 * GIB, host=256 * GIB)
    default = MemoryLimits.on(CUDA, None)
    assert (default.bytes, default.host_bytes) == (int(0.85 * 16 * GIB), 256 * GIB)
    # A limit that is given is one on either memory, and makes no device larger.
    assert MemoryLimits.on(CUDA, 64 * GIB) == MemoryLimits(
        device="cuda", bytes=default.bytes, host_bytes=64 * GIB
    )
    assert MemoryLimits.on(CUDA, GIB) == MemoryLimits(device="cuda", bytes=GIB, host_bytes=GIB)
    assert MemoryLimits.on(torch.device("cpu"), None) == MemoryLimits(
        device="", bytes=256 * GIB, host_bytes=256 * GIB
    )
    # What torch has set aside for tensors to come is free for work of this process.
    memory(free=GIB, host=GIB, held=15 * GIB)
    assert MemoryLimits.on(CUDA, None).bytes == default.bytes


def test_a_limit_of_a_run_is_of_the_process_and_none_leaves_the_devices_own() -> None:
    assert RunLimits(device="cuda").left_for_head() is None
    limited = RunLimits(device="cuda", memory_limit="64GiB").left_for_head()
    assert limited is not None
    assert 60 * GIB < limited < 64 * GIB
    assert RunLimits(device="cpu").left_for_head() is not None


def sizes_there() -> Sizes:
    limits = MemoryLimits.on(CUDA, None)
    return Sizes(
        n=1_000_000, d=2048, n_centers=4000, n_classes=100, n_widths=5, n_penalties=8, n_folds=8,
        value_bytes=4, limit_bytes=limits.bytes, device=limits.device, host_limit_bytes=limits.host_bytes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("free", "host", "solver", "refusal"),
    [
        # Direct projects 7.3 GiB where it computes, and 1.4 GiB of main memory beside a device.
        (16, 256, "direct", None),
        (
            4,
            256,
            "falkon",
            r"needs about 7\.30 GiB of memory, and 3\.40 GiB may be taken on cuda; take fewer",
        ),
        (139, 4, "direct", None),
        (
            139,
            1.3,
            "falkon",
            r"on cuda needs about 1\.43 GiB of memory, and 1\.30 GiB may be taken; take fewer",
        ),
    ],
)
def test_solvers_are_chosen_by_the_memory_in_which_they_work(
    free: int,
    host: float,
    solver: str,
    refusal: str | None,
    memory: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With kernel values kept, falkon would be the cheaper one wherever it fits.
    monkeypatch.setattr("toptune.train.solvers.solver_choice.CUDA_CACHE_SHARE", 0)
    memory(free=free * GIB, host=int(host * GIB))
    sizes = sizes_there()
    assert choose_solver("auto", sizes).solver == solver
    if refusal is not None:
        with pytest.raises(InputError, match=refusal):
            choose_solver("direct", sizes)


def test_a_card_with_slow_float64_is_measured_once_and_takes_falkon(
    cuda: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of 90 rows, as of many: float32 kernel values, which are not kept.
    monkeypatch.setattr("toptune.train.estimators.kernel_ridge.FLOAT64_WORK", 0)
    monkeypatch.setattr("toptune.train.solvers.solver_choice.CUDA_CACHE_SHARE", 0)
    monkeypatch.setattr(device_rates, "SIZE", 8)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a card")
    monkeypatch.setattr(device_rates, "_measured", {})
    # Every product of float64, which come first, takes a second, and those of float32 a 64th.
    ticks = iter([*range(8), *(8 + tick / 64 for tick in range(8))])
    monkeypatch.setattr(device_rates, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    X, y = data(90, 8)
    head = FalkonClassifier(device="cuda", n_centers=30, cv=3, random_state=0)
    plan = head.fit(X.astype(np.float32), y).report_.plan
    assert plan is not None
    assert plan["float32_share"] == 1 / 64
    assert cuda.operations["mm"] == 8
    assert cuda.waits["synchronize"] == 16
    # Another fit in the process takes what was measured, and an explicit solver asks for nothing.
    head.fit(X.astype(np.float32), y)
    assert cuda.operations["mm"] == 8
    monkeypatch.setattr(device_rates, "_measured", {})
    head.set_params(solver="direct").fit(X.astype(np.float32), y)
    assert cuda.operations["mm"] == 8


@pytest.mark.parametrize(("share", "solver"), [(0.5, "direct"), (1 / 64, "falkon")])
def test_falkon_is_taken_where_float64_is_slow(share: float, solver: str) -> None:
    sizes = Sizes(
        n=1_000_000, d=2048, n_centers=4000, n_classes=100, n_widths=5, n_penalties=8, n_folds=5,
        value_bytes=4, limit_bytes=12 * GIB, device="cuda", host_limit_bytes=64 * GIB, float32_share=share,
    )  # fmt: skip
    choice = choose_solver("auto", sizes)
    assert (choice.solver, choice.to_dict()["float32_share"]) == (solver, share)


@pytest.mark.parametrize(("free", "is_cached"), [(139, True), (16, False)])
def test_kernel_values_are_kept_on_a_device_that_has_room(
    free: int, is_cached: bool, memory: Callable[..., None]
) -> None:
    memory(free=free * GIB, host=256 * GIB)  # the values take 14.9 GiB
    assert choose_solver("falkon", sizes_there()).is_cached == is_cached


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_device_that_is_too_small_is_refused_before_the_work(
    estimator: Any, memory: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(free=30_000, host=GIB)
    monkeypatch.setattr(torch.Tensor, "to", lambda *_, **__: pytest.fail("a tensor was moved to the device"))
    with pytest.raises(InputError, match=r"needs about .* may be taken on cuda; .*--memory-limit"):
        estimator(device="cuda", random_state=0).fit(*data(3000, 20))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_large_device_in_a_small_machine_takes_the_fit(estimator: Any, memory: Callable[..., None]) -> None:
    memory(free=GIB, host=480_000)
    X, y = data(900, 10)
    with pytest.raises(InputError, match=r"may be taken; "):
        estimator(random_state=0).fit(X, y)
    options = {"n_centers": 20} if hasattr(estimator(), "n_centers") else {}
    estimator(device="cuda", random_state=0, **options).fit(X, y)


def test_main_memory_is_asked_for_what_lies_there(memory: Callable[..., None]) -> None:
    memory(free=GIB, host=60_000)
    # Fewer rows than columns: the matrix of the rows is factored in main memory.
    with pytest.raises(InputError, match=r"ridge on 200 rows of 300 features on cuda needs about .*taken; "):
        StreamingRidgeClassifier(device="cuda").fit(*data(200, 300))


def test_a_layer_search_and_a_training_ask_for_the_devices_memory(
    build: Build, tmp_path: Path, memory: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = build()
    options: dict[str, Any] = {
        "dataset": "pets",
        "model": "tiny.demo",
        "device": "cuda",
        "head": "ridge",
        "cv": 2,
    }
    memory(free=10_000, host=64 * GIB)
    for layers in ("last", "auto"):
        with pytest.raises(InputError, match=r"may be taken on cuda; "):
            train(tmp_path / "store", out=tmp_path / "run", layers=layers, **options)
    assert not (tmp_path / "run").exists()
    memory(free=GIB, host=64 * GIB)
    read: list[int | None] = []
    iterate = PreprocessedBlocks.iterate

    def noted(blocks: PreprocessedBlocks, block_rows: int | None = None) -> Any:
        read.append(block_rows)
        return iterate(blocks, block_rows)

    monkeypatch.setattr(PreprocessedBlocks, "iterate", noted)
    run = train(tmp_path / "store", out=tmp_path / "run", layers="auto", **options)
    assert run.metrics["accuracy"] > 0.5
    assert run.config["report"]["plan"]["limit_bytes"] == int(0.85 * GIB)
    assert cache.n_rows == 90
    # The first pass is that of the search, whose blocks are of 1/32 of the limit: d columns and 3 d + 1 more.
    dims = sum(array.dim for array in cache.arrays())
    assert read[0] == int(0.85 * GIB) // 32 // (8 * 12 * dims)


def test_auto_leaves_a_small_fit_on_the_cpu_and_says_so(
    build: Build, tmp_path: Path, cuda: Counts, caplog: pytest.LogCaptureFixture
) -> None:
    build()
    options: dict[str, Any] = {"dataset": "pets", "model": "tiny.demo", "head": "ridge", "cv": 2}
    with caplog.at_level(logging.INFO, logger="toptune.machine.devices"):
        run = train(tmp_path / "store", out=tmp_path / "small", device="auto", **options)
    assert not cuda.operations
    assert run.config["options"]["device"] == "cpu"
    (told,) = caplog.messages
    assert re.match(r"device auto takes cpu: \d+ rows of \d+ columns take .* multiply-adds, and a GPU", told)
    run = train(tmp_path / "store", out=tmp_path / "asked", device="cuda", **options)
    assert cuda.operations
    assert run.config["options"]["device"] == "cuda"


def test_small_fits_of_every_kind_stay_on_the_cpu(build: Build, tmp_path: Path, cuda: Counts) -> None:
    cache = build()
    options: dict[str, Any] = {"dataset": "pets", "model": "tiny.demo", "cv": 2}
    store = tmp_path / "store"
    tried = train(store, out=tmp_path / "tried", head="auto", budget=0.01, **options)
    assert tried.record.options["device"] == "cpu"
    compared = compare_heads(store, heads=["ncm", "forest"], seeds=1, out=tmp_path / "compared", **options)
    assert compared.config["options"]["device"] == "cpu"
    report = report_layers(store, out=tmp_path / "layers", short_list=1, **options)
    assert report.config["options"]["device"] == "cpu"
    run = train(store, out=tmp_path / "run", head="ridge", **options)
    gone = cache.manifest.ids[run.train_rows[0]]
    update_run(run, out=tmp_path / "updated", forget=[gone])
    assert not cuda.operations
    update_run(run, out=tmp_path / "asked", forget=[gone], device="cuda")
    assert cuda.operations


@pytest.mark.parametrize(
    ("name", "n_rows", "n_columns", "is_small"),
    [("ridge", 300, 512, True), ("ridge", 1_000, 1_024, False), ("falkon", 300, 64, True),
     ("falkon", 2_000, 64, False), ("falkon", 500, 768, False), ("ridge", 1_000_000, 16, True)],
)  # fmt: skip
def test_what_is_small_is_arithmetic(name: str, n_rows: int, n_columns: int, is_small: bool) -> None:
    assert (why_small(name, None, n_rows=n_rows, n_columns=n_columns) is not None) == is_small


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("solvers.one_pass.accumulate", "fitting FalkonClassifier: the memory of cuda is full"),
        ("layers.stored_grams.PrimalGrams", "searching layers: the memory of cuda is full"),
        ("runs.training.score", "scoring the test rows: the memory of cuda is full"),
        ("runs.training.folds_record", "the memory of the device is full"),
    ],
    ids=["fit", "layers", "score", "elsewhere"],
)
@pytest.mark.usefixtures("cuda")
def test_a_training_that_fills_the_device_is_told_so_and_leaves_no_run(
    place: str,
    said: str,
    build: Build,
    tmp_path: Path,
    run_cli: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build()

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(f"toptune.train.{place}", fail)
    given = ["--store", tmp_path / "store", "--dataset", "pets", "--model", "tiny.demo", "--device", "cuda"]
    given += ["--layers", "auto" if "layers" in place else "last"]
    code, _, err = run_cli("train", *given, "--out", tmp_path / "run")
    assert code == 1
    for words in (said, "60.0 of 80.0 GiB are free", "--device cpu"):
        assert words in err
    assert "A fault in toptune" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]
