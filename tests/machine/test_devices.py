"""Names of devices: one answer for extraction and for training."""

import contextlib

import pytest
import torch

from toptune.machine.devices import device_of, resolve_device, resolve_precision
from toptune.store import InputError
from toptune.train import StreamingRidgeClassifier


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
        InputError, match=r"'cuda' is not there: torch sees 0 CUDA devices; use --device cpu$"
    ):
        resolve("cuda")
    with pytest.raises(InputError, match=r"'tpu' is unknown; .*hoose one of cpu, cuda or cuda:N"):
        resolve("tpu")


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


@pytest.mark.parametrize(("device", "precision"), [("cuda:0", "fp32"), ("cuda:1", "bf16")])
def test_precision_auto_asks_the_device_that_is_named(
    device: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device", _Current)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: _Current.index == 1)
    assert resolve_precision("auto", torch.device(device)) == precision
    assert _Current.index == 0
