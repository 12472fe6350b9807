"""Passes side by side: the same bytes, no other thread's settings changed, nothing lost when one fails."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.modules.module as module_hooks
from tiny import feature_bytes
from torch import nn

from toptune.errors import ToptuneError
from toptune.extract import extract_models, load_backbone
from toptune.extract.backbone.backbone import Backbone
from toptune.extract.batch_size import CANDIDATES, measure_batch_size
from toptune.extract.pipeline.forwarding import forward_pixels
from toptune.extract.pipeline.streams import MOST_STREAMS, AbandonedError, Streams, count_streams
from toptune.extract.pipeline.thread_pools import pool_of_shares
from toptune.extract.pipeline.transfers import Transfer, start_transfer
from toptune.store import FeatureCache, FeatureStore

Make = Callable[..., Path]
Stored = Callable[..., FeatureCache]
# Blocks, a module that a hook is put on, and the output.
OPTIONS = {"layers": ["all", "blocks.3.0.conv_pw"], "dtype": "float32", "precision": "fp32", "fold": False}


def _streams_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("toptune-forward")]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Record for each forward pass the thread it ran in, and that thread's threads of torch."""
    seen: list[tuple[str, int]] = []
    plain = Backbone.forward

    def recorded(self: Backbone, *given: Any) -> dict[str, torch.Tensor]:
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        return plain(self, *given)

    monkeypatch.setattr(Backbone, "forward", recorded)
    return seen


def test_features_are_the_same_bytes_however_many_passes_run_side_by_side(
    make_folder: Make, stored: Stored, tmp_path: Path, passes: list[tuple[str, int]]
) -> None:
    data = make_folder(150)
    (data / "cat" / "010.png").write_bytes(b"no image")
    alone = stored(data, store=tmp_path / "one", **OPTIONS)
    assert {name for name, _ in passes} == {"MainThread"}
    assert alone.n_units > 1
    passes.clear()
    torch.set_num_threads(3)
    together = stored(data, store=tmp_path / "three", **OPTIONS)
    apart = [each for each in passes if each[0] != "MainThread"]
    assert len(apart) == -(-150 // 4)
    assert {threads for _, threads in apart} == {1}
    assert len({name for name, _ in apart}) == 3
    assert feature_bytes(together) == feature_bytes(alone)
    assert torch.get_num_threads() == 3
    assert _streams_left() == []


def test_several_models_share_the_streams(
    make_folder: Make, model_folder: Path, stored: Stored, tmp_path: Path, passes: list[tuple[str, int]]
) -> None:
    torch.set_num_threads(2)
    models = [f"local-dir:{model_folder}", "random:test_resnet"]
    options: dict[str, Any] = {"batch_size": 4, "img_size": 32, "layers": "last"}
    extract_models(make_folder(70), models=models, store=tmp_path / "both", **options)
    assert len({name for name, _ in passes} - {"MainThread"}) == 2
    torch.set_num_threads(1)
    for model in models:
        alone = stored(make_folder(70), store=tmp_path / "alone", model=model, img_size=32)
        together = FeatureStore.open(tmp_path / "both").cache(alone.name, alone.dataset)
        assert feature_bytes(together) == feature_bytes(alone)


def test_hooks_of_passes_side_by_side_do_not_cross(model_folder: Path) -> None:
    backbone = load_backbone(f"local-dir:{model_folder}")
    arrays = backbone.resolve(["blocks.3.0.conv_pw", "blocks.4.0.conv_pw"], "mean")
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (2, *backbone.transform.size, 3), dtype=np.uint8) for _ in range(100)]
    torch.set_num_threads(4)
    with Streams(4) as streams:
        launched = [streams.launch(partial(forward_pixels, backbone, batch, arrays)) for batch in batches]
        found = [each.result()[0].result() for each in launched]
    torch.set_num_threads(1)
    for batch, values in zip(batches, found, strict=True):
        expected = forward_pixels(backbone, batch, arrays).result()
        assert all(np.array_equal(values[name], expected[name]) for name in expected)


def test_a_pass_that_fails_fails_the_extraction_which_resumes(
    make_folder: Make, stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, plain, calls = make_folder(150), Backbone.forward, []

    def failing(self: Backbone, *given: Any) -> dict[str, torch.Tensor]:
        calls.append(threading.current_thread().name)
        if sum(name.startswith("toptune-forward") for name in calls) == 25:
            raise RuntimeError("this pass failed")
        return plain(self, *given)

    expected = feature_bytes(stored(data, store=tmp_path / "undisturbed", **OPTIONS))
    torch.set_num_threads(2)
    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "forward", failing)
        with pytest.raises(RuntimeError, match="this pass failed"):
            stored(data, store=tmp_path / "disturbed", **OPTIONS)
    assert _streams_left() == []
    assert feature_bytes(stored(data, store=tmp_path / "disturbed", **OPTIONS)) == expected


@pytest.mark.parametrize(("threads", "shares"), [(4, {2.0}), (5, {2.0, 3.0}), (2, {1.0})])
def test_streams_have_their_share_of_the_threads_and_leave_others_theirs(
    threads: int, shares: set[float]
) -> None:
    both = threading.Barrier(2)  # neither stream takes the other's part

    def threads_here() -> Transfer:
        both.wait(timeout=30)
        return start_transfer({"n": torch.tensor([[float(torch.get_num_threads())]])}, {})

    torch.set_num_threads(threads)
    with Streams(2) as streams:
        launched = [streams.launch(threads_here) for _ in range(8)]
        assert {each.result()[0].result()["n"].item() for each in launched} == shares
        assert torch.get_num_threads() == threads
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [threads]
    assert torch.get_num_threads() == threads


class _Slow(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        return x


def test_passes_that_nobody_waits_for_are_given_up_at_their_next_layer() -> None:
    slow = nn.Sequential(*(_Slow() for _ in range(200)))

    def compute() -> Transfer:
        return start_transfer({"x": slow(torch.zeros(1, 1))}, {})

    torch.set_num_threads(2)
    start = time.perf_counter()
    with Streams(2) as streams:
        launched = [streams.launch(compute) for _ in range(3)]
        time.sleep(0.2)
    assert time.perf_counter() - start < 5  # a pass takes 10
    assert [type(each.exception()) for each in launched[:2]] == [AbandonedError] * 2
    assert launched[2].cancelled()
    assert nn.Sequential(_Slow())(torch.ones(1)).item() == 1
    assert not module_hooks._global_forward_pre_hooks


def test_streams_are_counted(model_folder: Path) -> None:
    backbone = load_backbone(f"local-dir:{model_folder}")
    for threads, n in ((1, 1), (3, 3), (64, MOST_STREAMS)):
        torch.set_num_threads(threads)
        assert count_streams(backbone) == n
    assert count_streams(load_backbone(f"local-dir:{model_folder}", compiled=True)) == 1


def test_batch_sizes_are_measured_side_by_side(model_folder: Path, passes: list[tuple[str, int]]) -> None:
    backbone = load_backbone(f"local-dir:{model_folder}")
    torch.set_num_threads(2)
    assert measure_batch_size(backbone, backbone.resolve("last")) in CANDIDATES["cpu"]
    assert all(name.startswith("toptune-forward") for name, _ in passes)
    assert len(passes) == 2 * 3 * len(CANDIDATES["cpu"])


def test_a_size_that_does_not_fit_ends_the_search_and_is_not_halved(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, sizes = Backbone.forward, []

    def small(self: Backbone, batch: torch.Tensor, *rest: Any) -> dict[str, torch.Tensor]:
        sizes.append(len(batch))
        if len(batch) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, batch, *rest)

    monkeypatch.setattr(Backbone, "forward", small)
    backbone = load_backbone(f"local-dir:{model_folder}")
    assert measure_batch_size(backbone, backbone.resolve("last")) == 8
    assert sizes == [8, 8, 8, 16]
    assert "do not fit" not in caplog.text


def test_a_pool_that_cannot_start_its_threads_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, before = threading.Thread.start, torch.get_num_threads()
    there: list[threading.Thread] = []

    def start(self: threading.Thread) -> None:
        if len(there) == 2:
            raise RuntimeError("can't start new thread")
        plain(self)
        there.append(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(ToptuneError, match=r"started 2 of 5 threads \(read\) and no more.* fewer --workers"):
        pool_of_shares([1] * 5, "read")
    for thread in there:
        thread.join(timeout=5)
    assert [thread.is_alive() for thread in there] == [False, False]
    assert torch.get_num_threads() == before
    assert not caplog.records
