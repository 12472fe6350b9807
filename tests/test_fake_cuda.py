"""The pretended CUDA device catches what it promises, and toptune computes the same numbers on it."""

import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from fake_cuda import Counts, CudaTensor, fake_cuda

from toptune.extract import extract
from toptune.store import FeatureStore
from toptune.workflows import Classifier, finetune


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there, here: there + here,
        lambda there, here: torch.stack([there, here]),
        lambda there, here: here.add_(there),
        lambda there, here: here[there.long()],
        lambda there, here: there.index_put_((torch.tensor([0]),), here[:1]),
        lambda there, here: there.__setitem__(torch.tensor([0, 1, 2]), here),
        lambda there, here: torch.mul(there, there, out=here),
    ],
)
@pytest.mark.usefixtures("cuda")
def test_tensors_of_two_devices_are_refused(mixed: Callable[[torch.Tensor, torch.Tensor], Any]) -> None:
    with pytest.raises(RuntimeError, match=r"device|cpu"):
        mixed(torch.ones(3, device="cuda"), torch.ones(3))


@pytest.mark.usefixtures("cuda")
def test_what_cuda_allows_is_computed() -> None:
    there = torch.arange(4.0, device="cuda")
    scaled = there * torch.tensor(2.0)
    assert scaled.is_cuda
    assert scaled.device == torch.device("cuda:0")
    assert there[torch.tensor([1, 3])].tolist() == [1, 3]
    assert scaled.to("cpu", torch.float64).numpy().tolist() == [0, 2, 4, 6]
    assert torch.zeros_like(there).is_cuda
    assert there.add_(1) is there
    assert not torch.ones(3).is_cuda


@pytest.mark.parametrize("convert", [np.asarray, lambda tensor: tensor.numpy()])
@pytest.mark.usefixtures("cuda")
def test_numpy_of_a_tensor_on_the_device_is_refused(convert: Callable[[torch.Tensor], Any]) -> None:
    with pytest.raises(TypeError, match=r"Use Tensor.cpu\(\) first"):
        convert(torch.ones(3, device="cuda"))


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.usefixtures("cuda")
def test_a_copy_is_nonsense_until_the_device_was_waited_for(is_new: bool) -> None:
    there, here = torch.ones(3, device="cuda"), torch.zeros(3)
    here = there.to("cpu", non_blocking=True) if is_new else here.copy_(there, non_blocking=True)
    assert here.isnan().all()
    torch.cuda.synchronize()
    assert here.tolist() == [1, 1, 1]


def test_operations_and_waits_are_counted(cuda: Counts) -> None:
    there = torch.ones(3).to("cuda", non_blocking=True)
    assert not cuda.waits
    product = there @ there
    assert cuda.operations["matmul"] + cuda.operations["__matmul__"] == 1
    assert not cuda.waits
    assert product.item() == 3
    assert there.cpu().sum() == 3
    assert there[there > 0].shape == (3,)
    torch.cuda.Event().synchronize()  # type: ignore[no-untyped-call]
    assert dict(cuda.waits) == {"item": 1, "copy to main memory": 1, "index by mask": 1, "event": 1}


def test_a_stream_cannot_use_what_another_computes_before_it_has_waited(cuda: Counts) -> None:
    side, there = torch.cuda.Stream(), torch.ones(3, device="cuda")  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side), pytest.raises(RuntimeError, match="has not waited for it"):
        there + 1
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        more = there + 1
    there.record_stream(side)
    with pytest.raises(RuntimeError, match="has not waited for it"):
        more.sum()
    torch.cuda.current_stream().wait_stream(side)
    assert more.sum().item() == 6
    assert dict(cuda.waits) == {"item": 1}


def test_the_books_follow_a_tensor_into_other_memory(cuda: Counts) -> None:
    gc.collect()  # what earlier tests left
    cuda.clear()
    before = cuda.live_bytes
    there = torch.ones(100, device="cuda")
    there.data = torch.ones(300, device="cuda")
    assert cuda.live_bytes - before == 1200
    # The memory of 100 numbers is free, and a stream of its own may take it.
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(side):
        more = [torch.ones(100, device="cuda") for _ in range(20)]
        assert sum(each.sum().item() for each in more) == 2000
    del there, more
    assert cuda.live_bytes == before


def test_memory_is_not_given_back_while_another_stream_uses_it() -> None:
    def use_beside() -> None:
        with fake_cuda():
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            there = torch.ones(3, device="cuda")
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                there + 1
            del there

    with pytest.raises(AssertionError, match="given back while another stream used them"):
        use_beside()


@pytest.mark.usefixtures("cuda")
def test_locked_memory_is_not_written_to_while_it_is_copied() -> None:
    here = torch.zeros(3, pin_memory=True)
    here.to("cuda", non_blocking=True)
    early = torch.cuda.Event()  # type: ignore[no-untyped-call]
    early.record()
    here.to("cuda", non_blocking=True)
    early.synchronize()
    here += 1
    with pytest.raises(RuntimeError, match="written to while a copy was reading it"):
        torch.cuda.synchronize()


def test_bytes_are_those_of_the_tensors_that_lie_there(cuda: Counts) -> None:
    gc.collect()  # what earlier tests left
    cuda.clear()
    before = cuda.live_bytes
    there = torch.zeros(100, dtype=torch.float64, device="cuda")
    some = there[:10]
    assert cuda.live_bytes - before == 800
    del there
    assert cuda.live_bytes - before == 800  # a view keeps what it is a part of
    some += 1.0
    doubled = some * 2
    del some, doubled
    assert (cuda.live_bytes - before, cuda.peak_bytes - before) == (0, 880)


def test_the_device_is_gone_afterwards() -> None:
    before = torch.cuda.is_available(), torch.Tensor.pin_memory
    with fake_cuda():
        assert torch.cuda.is_available()
    assert (torch.cuda.is_available(), torch.Tensor.pin_memory) == before


def test_an_extraction_is_the_same_there(tmp_path: Path, photos: Path) -> None:
    def features(device: str) -> npt.NDArray[Any]:
        options: dict[str, Any] = {"precision": "fp32", "layers": "last", "batch_size": 8}
        summary = extract(photos, model="random:test_vit", store=tmp_path / device, device=device, **options)
        (cache,) = FeatureStore.open(tmp_path / device).caches()
        return cache.blocks(["last.none"]).take(np.arange(summary.rows))

    expected = features("cpu")
    with fake_cuda() as counts:
        found = features("cuda")
    assert counts.operations["layer_norm"] > 0
    assert counts.waits["event"] > 0
    np.testing.assert_array_equal(found, expected)


def test_networks_need_no_float64_there(tmp_path: Path, photos: Path) -> None:
    """MPS has none; what holds for networks on MPS can be seen without such a machine."""
    model, run = "random:test_vit", tmp_path / "run"
    options: dict[str, Any] = {"epochs": 1, "warmup_epochs": 0, "learning_rates": [1e-2], "depth": "head"}
    with fake_cuda(has_float64=False) as counts:
        with pytest.raises(TypeError, match="float64"):
            torch.ones(1).double().to("cuda")
        assert extract(photos, model=model, store=tmp_path / "s", precision="fp32", img_size=32).units_done
        tuned = finetune(photos, model=model, out=run, precision="fp32", img_size=32, **options)
        answers = Classifier.load(run).predict([photos])
        assert counts.operations["layer_norm"] > 0
    assert (tuned.record.device, tuned.record.options["device"]) == ("cuda", "cuda")
    assert len(answers) == 36


@pytest.mark.usefixtures("cuda")
def test_memory_is_given_back_by_any_thread(request: pytest.FixtureRequest) -> None:
    """The collector of garbage runs in threads that read images, while another thread takes memory."""
    import fake_cuda as device

    before = sys.getswitchinterval()
    request.addfinalizer(lambda: sys.setswitchinterval(before))
    sys.setswitchinterval(1e-6)
    memory = torch.zeros(8)

    def take_and_give_back() -> None:
        for _ in range(5000):
            CudaTensor(memory[:4])

    threads = [threading.Thread(target=take_and_give_back) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert memory.untyped_storage().data_ptr() not in device._sharing
