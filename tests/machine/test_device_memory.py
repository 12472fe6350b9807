"""A device without memory left is explained, whichever library found that there is none."""

import weakref

import pytest
import torch

from toptune.errors import DeviceMemoryError
from toptune.machine.device_memory import explained_out_of_memory, is_out_of_memory

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GiB)"),
    torch.AcceleratorError("CUDA error: out of memory"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:30])
@pytest.mark.usefixtures("cuda")
def test_a_full_device_is_named_with_what_is_free_and_what_to_change(error: RuntimeError) -> None:
    assert is_out_of_memory(error)
    said = (
        r"fitting: the memory of cuda:0.* is full \(60.0 of 80.0 GiB are free, .*\); take less, or .*cpu\)"
        r"(\n\[TT\d+\])?$"
    )
    with (
        pytest.raises(DeviceMemoryError, match=said) as raised,
        explained_out_of_memory("fitting", device="cuda:0", knobs="take less"),
    ):
        raise error
    assert raised.value.exit_code == 1
    assert raised.value.__cause__ is error
    assert ("page-locked" in str(raised.value)) == (not isinstance(error, torch.OutOfMemoryError))


def test_other_errors_pass_unchanged() -> None:
    for other in (RuntimeError("CUDA error: device-side assert"), KeyError("out of memory")):
        assert not is_out_of_memory(other)
        with (
            pytest.raises(type(other)) as raised,
            explained_out_of_memory("fitting", device="cuda", knobs="take less"),
        ):
            raise other
        assert raised.value is other


def test_main_memory_is_not_called_a_device() -> None:
    with (
        pytest.raises(DeviceMemoryError, match=r"^fitting: main memory is full; take less(\n\[TT\d+\])?$"),
        explained_out_of_memory("fitting", device=None, knobs="take less"),
    ):
        torch.empty(10**15)


def test_the_memory_of_the_failed_work_is_free_afterwards() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def fail() -> None:
        values = torch.zeros(3)
        held.append(weakref.ref(values))
        raise FULL[0]

    with pytest.raises(DeviceMemoryError) as raised, explained_out_of_memory("x", device=None, knobs="y"):
        fail()
    assert held[0]() is None, raised.value
