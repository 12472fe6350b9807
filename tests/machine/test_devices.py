"""Names of devices: one answer for extraction and for training."""

import contextlib
import logging
import re
from collections.abc import Callable

import pytest
import torch

from toptune.extract.request.options import ExtractOptions
from toptune.machine import devices
from toptune.machine.devices import (
    check_device_name,
    device_of,
    resolve_device,
    resolve_precision,
    settle_device,
)
from toptune.machine.limits import RunLimits
from toptune.store import InputError
from toptune.train import StreamingRidgeClassifier
from toptune.train.layers.options import SearchOptions
from toptune.train.reports.options import CompareOptions, LayerReportOptions
from toptune.train.updates.update import UpdateOptions
from toptune.workflows.advice.options import AdviceOptions
from toptune.workflows.finetuning.options import FineTuneOptions
from toptune.workflows.predict.evaluation import EvaluateOptions


def test_no_device_is_the_cpu() -> None:
    assert device_of(None) == device_of("cpu") == device_of(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("resolve", [resolve_device, device_of])
def test_both_stages_refuse_a_device_with_the_number_of_those_that_are_there(
    resolve: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(resolve)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve("cuda") == torch.device("cuda")
    assert resolve("cuda:1") == torch.device("cuda:1")
    message = "'cuda:9' is not there: torch sees 2 CUDA devices; use --device cpu or one of cuda:0 to cuda:1"
    with pytest.raises(InputError, match=message):
        resolve("cuda:9")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        InputError, match=r"'cuda' is not there: torch sees 0 CUDA devices; use --device cpu(\n\[TT\d+\])?$"
    ):
        resolve("cuda")
    for name in ("tpu", "xpu", "meta", "cuda:x", "mps:0", ""):
        offered = "cpu, cuda or cuda:N" if resolve is device_of else "cpu, cuda, mps or cuda:N"
        with pytest.raises(InputError, match=rf"'{name}' is unknown; .*hoose .* {offered}"):
            resolve(name)


@pytest.mark.parametrize(
    "kind", [RunLimits, SearchOptions, LayerReportOptions, CompareOptions, UpdateOptions]
)
def test_heads_are_offered_no_device_that_they_refuse(kind: Callable[..., object]) -> None:
    with pytest.raises(InputError, match="'nonsense' is unknown; choose one of auto, cpu, cuda or cuda:N"):
        kind(device="nonsense")


@pytest.mark.parametrize("kind", [ExtractOptions, FineTuneOptions, EvaluateOptions, AdviceOptions])
@pytest.mark.parametrize("device", [None, 3, True, ["cpu"]])
def test_what_is_no_text_is_no_device(kind: Callable[..., object], device: object) -> None:
    expected = rf"device is {re.escape(repr(device))}, which is no name; choose one of auto, cpu, cuda, mps"
    checks: list[Callable[..., object]] = [kind, resolve_device]
    for check in checks:
        with pytest.raises(InputError, match=expected):
            check(device=device)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bool], None]:
    """Pretend that torch sees a number of CUDA devices, and Apple's GPU or not."""

    def pretend(n_cuda: int, has_mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n_cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_cuda)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)

    return pretend


@pytest.mark.parametrize(
    ("n_cuda", "has_mps", "network", "head", "reason"),
    [
        (0, False, "cpu", "cpu", "torch sees no GPU here"),
        (1, False, "cuda", "cuda", "card 0"),
        (2, True, "cuda", "cuda", "2 CUDA devices, the first is card 0"),
        (0, True, "mps", "cpu", "heads are fitted in float64, which MPS lacks"),
    ],
)
def test_auto_is_cuda_then_mps_where_mps_can_do_the_work_then_the_cpu(
    n_cuda: int, has_mps: bool, network: str, head: str, reason: str, machine: Callable[[int, bool], None],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    machine(n_cuda, has_mps)
    with caplog.at_level(logging.INFO):
        assert settle_device("auto") == network
        assert resolve_device("auto") == torch.device(network)
        assert device_of("auto") == torch.device(head)
        assert RunLimits().settled().device == head
    assert caplog.messages[-1] == f"device auto takes {head}: {reason}"
    assert [settle_device(name) for name in ("cpu", "cuda", "mps")] == ["cpu", "cuda", "mps"]


def test_mps_is_refused_where_it_is_not_or_cannot_do_the_work(machine: Callable[[int, bool], None]) -> None:
    machine(2, False)
    with pytest.raises(
        InputError, match="'mps' is not there: torch sees no MPS device; use --device cpu or one"
    ):
        resolve_device("mps")
    machine(0, True)
    assert resolve_device("mps") == torch.device("mps")
    with pytest.raises(
        InputError, match=r"'mps' cannot do this: heads are fitted in float64.*; use --device cpu"
    ):
        device_of("mps")
    with pytest.raises(InputError, match=r"'cuda' is not there: .*; use --device cpu or mps(\n\[TT\d+\])?$"):
        resolve_device("cuda")
    assert resolve_precision("auto", torch.device("mps")) == "fp32"
    for half in ("bf16", "fp16"):
        with pytest.raises(
            InputError, match=rf"'{half}' on device 'mps': .*; use --precision fp32, or --device"
        ):
            resolve_precision(half, torch.device("mps"))


def test_a_name_is_checked_and_the_cpu_taken_for_a_reason_without_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "choose_device", lambda *_: pytest.fail("looked for devices"))
    check_device_name("auto")
    assert settle_device("auto", cpu_because="it is so") == "cpu"


def test_a_head_refuses_a_device_that_is_not_there() -> None:
    with pytest.raises(InputError, match="'cuda:99' is not there: torch sees"):
        StreamingRidgeClassifier(device="cuda:99").fit([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1])


class _Current(contextlib.AbstractContextManager[None]):
    """Stands for `torch.cuda.device`: the device is current inside."""

    index = 0

    def __init__(self, device: torch.device) -> None:
        self._inside = device.index

    def __enter__(self) -> None:
        _Current.index, self._inside = self._inside, _Current.index

    def __exit__(self, *_: object) -> None:
        _Current.index = self._inside


@pytest.mark.parametrize(
    ("device", "capability", "precision"),
    [
        ("cuda:0", (6, 1), "fp32"),
        ("cuda:0", (7, 0), "fp16"),
        ("cuda:0", (7, 5), "fp16"),
        ("cuda:1", (8, 0), "bf16"),
    ],
)
def test_precision_auto_asks_the_device_that_is_named(
    device: str, capability: tuple[int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device", _Current)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: _Current.index == 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", {torch.device(device): capability}.__getitem__)
    assert resolve_precision("auto", torch.device(device)) == precision
    assert _Current.index == 0
    # Fine-tuning knows no fp16.
    assert resolve_precision("auto", torch.device(device), has_fp16=False) in ("fp32", "bf16")
    with pytest.raises(InputError, match="precision 'fp16' is unknown; did you mean 'bf16'"):
        resolve_precision("fp16", torch.device(device), has_fp16=False)
