"""Float32 means float32 inside, however the process chose otherwise; outside its choice is as before."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from toptune.machine.precision import fixed_algorithms, full_precision

BACKENDS: Any = torch.backends
HAS_SWITCHES = hasattr(BACKENDS, "fp32_precision")  # torch >= 2.9
PATHS = {
    "general": "",
    "cuda": "cudnn",
    "cuda.matmul": "cuda.matmul",
    "cuda.conv": "cudnn.conv",
    "cuda.rnn": "cudnn.rnn",
    "mkldnn.matmul": "mkldnn.matmul",
    "mkldnn.conv": "mkldnn.conv",
    "mkldnn.rnn": "mkldnn.rnn",
}
OPERATIONS = [name for name in PATHS if "." in name]
# What a process may have chosen: switches in turn; "older" and the two "allow" are those before torch 2.9.
CHOICES: list[dict[str, Any]] = [
    {},
    {"older": "high"},
    {"older": "medium"},
    {"allow matmul": True},
    {"allow cudnn": False},
    {"cuda.matmul": "tf32"},
    {"cuda.conv": "tf32"},
    {"cuda.conv": "ieee"},
    {"cuda": "tf32"},
    {"mkldnn.matmul": "bf16"},
    {"mkldnn.conv": "bf16"},
    {"general": "tf32"},
    {"general": "bf16"},
    {"general": "ieee"},
    {"general": "tf32", "mkldnn.conv": "ieee"},
    {"older": "medium", "cuda.matmul": "ieee"},
]


def owner_of(name: str) -> Any:
    owner = BACKENDS
    for part in filter(None, PATHS[name].split(".")):
        owner = getattr(owner, part)
    return owner


def choose(name: str, value: Any) -> None:
    if name == "older":
        torch.set_float32_matmul_precision(value)
    elif name.startswith("allow"):
        (BACKENDS.cudnn if name == "allow cudnn" else BACKENDS.cuda.matmul).allow_tf32 = value
    else:
        owner_of(name).fp32_precision = value


def switches() -> dict[str, str]:
    return {name: owner_of(name).fp32_precision for name in PATHS}


def under_the_general_switch(value: str) -> dict[str, str]:
    before = BACKENDS.fp32_precision
    choose("general", value)
    found = switches()
    choose("general", before)
    return found


class OldBackends:
    """`torch.backends` before torch 2.9, as far as it matters."""

    class cudnn:  # noqa: N801
        allow_tf32 = True


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave other tests the switches of a new process."""
    yield
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True
    if HAS_SWITCHES:
        for name in PATHS:
            choose(name, "none")
        BACKENDS.cudnn.allow_tf32 = True


def test_products_of_16_bits_are_added_up_in_float32_where_algorithms_are_fixed() -> None:
    matmul: Any = BACKENDS.cuda.matmul
    names = ["allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"]
    names += ["allow_fp16_accumulation"] * hasattr(matmul, "allow_fp16_accumulation")
    before = {name: getattr(matmul, name) for name in names}
    assert any(before.values())
    with fixed_algorithms():
        assert not any(getattr(matmul, name) for name in names)
    assert {name: getattr(matmul, name) for name in names} == before


@pytest.mark.skipif(not HAS_SWITCHES, reason="torch has no switch for each operation")
@pytest.mark.parametrize("chosen", CHOICES, ids=str)
def test_switches_say_float32_inside_and_what_the_process_chose_outside(chosen: dict[str, Any]) -> None:
    for name, value in chosen.items():
        choose(name, value)
    before, followers = switches(), under_the_general_switch("ieee")
    with full_precision():
        assert {switches()[name] for name in OPERATIONS} == {"ieee"}
        assert torch.get_float32_matmul_precision() == "highest"
        assert not BACKENDS.cuda.matmul.allow_tf32
    assert switches() == before
    # A switch that followed the general one does so again.
    assert under_the_general_switch("ieee") == followers


@pytest.mark.parametrize("precision", ["medium", "high", "highest"])
def test_the_older_switches_alone_say_the_same(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toptune.machine.precision.torch.backends", OldBackends())
    torch.set_float32_matmul_precision(precision)
    with full_precision():
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32


def test_the_last_of_several_threads_switches_back() -> None:
    torch.set_float32_matmul_precision("medium")
    first_in, first_out, found = threading.Event(), threading.Event(), []

    def other() -> None:
        with full_precision():
            first_in.set()
            first_out.wait(10)
            found.append(torch.get_float32_matmul_precision())

    thread = threading.Thread(target=other)
    with full_precision():
        thread.start()
        assert first_in.wait(10)
    first_out.set()
    thread.join()
    assert found == ["highest"]
    assert torch.get_float32_matmul_precision() == "medium"


def test_autocast_is_off_inside() -> None:
    ones = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision():
            assert (ones @ ones).dtype == torch.float32
        assert (ones @ ones).dtype == torch.bfloat16


def test_an_error_inside_switches_back() -> None:
    torch.set_float32_matmul_precision("high")
    with pytest.raises(KeyError), full_precision():
        raise KeyError
    assert torch.get_float32_matmul_precision() == "high"


def test_cudnn_takes_fixed_algorithms_inside() -> None:
    cudnn: Any = BACKENDS.cudnn
    cudnn.benchmark = True
    try:
        with fixed_algorithms(), full_precision(), fixed_algorithms():
            assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) == (True, False, True)
        assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic) == (True, True, False)
    finally:
        cudnn.benchmark = False
