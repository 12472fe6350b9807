"""What was used of CUDA devices, by a binding of NVML and a torch that only say what they are told."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from toptune.costs import accelerators
from toptune.costs.accelerators import AcceleratorUse, add_use, devices_in_use, open_nvml
from toptune.costs.meter import CostMeter, describe_costs

OURS, OTHER = "GPU-aaaa", "GPU-bbbb"


class FakeNvml:
    """Two devices: millijoules and process ids by UUID; None for what a device does not tell."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.millijoules: dict[str, int | None] = {OTHER: 5_000, OURS: 1_000_000}
        self.pids: dict[str, list[int] | None] = {OTHER: [1], OURS: [os.getpid()]}

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return list(self.millijoules)[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetUUID(self, handle: object) -> str:  # noqa: N802
        return str(handle)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: object) -> int:  # noqa: N802
        return int(self._told(self.millijoules[str(handle)]))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in self._told(self.pids[str(handle)])]

    def _told(self, value: Any) -> Any:
        if value is None:
            raise self.NVMLError("Not Supported")
        return value


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """A process that has 3 MB on one of two devices."""
    monkeypatch.setattr(accelerators, "devices_in_use", lambda: {OURS: ("Fake H1", 3_000_000)})
    return FakeNvml()


def test_energy_is_that_of_the_devices_in_use(nvml: FakeNvml) -> None:
    use = AcceleratorUse(nvml)
    nvml.millijoules |= {OTHER: 9_000_000, OURS: 1_250_000}
    assert use.to_dict(2.5) == {
        "devices": ["Fake H1"],
        "seconds": 2.5,
        "peak_memory_bytes": 3_000_000,
        "energy_joules": 250.0,
        "source": "nvml",
        "estimate": False,
    }


@pytest.mark.parametrize("pids", [[os.getpid(), 4711], [4711], [], None])
def test_a_device_that_may_be_shared_makes_it_an_estimate(nvml: FakeNvml, pids: list[int] | None) -> None:
    use = AcceleratorUse(nvml)
    nvml.pids[OURS] = pids
    nvml.millijoules[OURS] = 1_002_000
    found = use.to_dict(1.0)
    assert found is not None
    assert (found["energy_joules"], found["estimate"]) == (2.0, True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda nvml: nvml.millijoules.update({OURS: None}),
        lambda nvml: nvml.millijoules.pop(OURS),
        lambda nvml: nvml.millijoules.update({OURS: 999}),  # the driver began anew
    ],
)
def test_a_counter_that_cannot_be_read_is_said_to_be_missing(
    nvml: FakeNvml, spoil: Callable[[FakeNvml], None], tmp_path: Path
) -> None:
    use, meter = AcceleratorUse(nvml), CostMeter(powercap=tmp_path, nvml=nvml)
    spoil(nvml)
    found = use.to_dict(1.0)
    assert found is not None
    assert (found["energy_joules"], found["source"], found["estimate"]) == (None, None, True)
    costs = meter.to_dict()
    assert costs["energy_joules"] == pytest.approx(10 * costs["cpu_seconds"])


def test_costs_are_those_of_processors_and_devices(nvml: FakeNvml, tmp_path: Path) -> None:
    for name, value in {"energy_uj": 0, "max_energy_range_uj": 10**12}.items():
        (tmp_path / "intel-rapl:0").mkdir(exist_ok=True)
        (tmp_path / "intel-rapl:0" / name).write_text(f"{value}\n")
    (tmp_path / "stat").write_text("cpu  0 0 0 0 0 0 0 0 0 0\n")
    meter = CostMeter(powercap=tmp_path, proc=tmp_path, nvml=nvml)
    nvml.millijoules[OURS] = 1_040_000
    costs = meter.to_dict()
    # The package's counter stood still.
    assert costs["energy_joules"] == 40.0
    assert costs["energy"] == {"source": "rapl", "estimate": False, "watts_per_core": None}
    assert costs["gpu"] is not None
    assert costs["gpu"]["seconds"] == costs["wall_seconds"]
    assert " s of GPUs, 40 J, " in describe_costs(costs)
    nvml.pids[OURS] = [os.getpid(), 1]
    assert " s of GPUs, 40 J (estimated), " in describe_costs(meter.to_dict())


def fake_torch(*reserved: int) -> SimpleNamespace:
    return SimpleNamespace(
        cuda=SimpleNamespace(
            is_initialized=lambda: bool(reserved),
            device_count=lambda: len(reserved),
            max_memory_reserved=lambda index: reserved[index],
            get_device_properties=lambda index: SimpleNamespace(uuid=f"u{index}", name=f"card {index}"),
        )
    )


def test_devices_in_use_are_those_with_memory_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(0, 512))
    assert devices_in_use() == {"GPU-u1": ("card 1", 512)}
    monkeypatch.setitem(sys.modules, "torch", fake_torch())
    assert devices_in_use() == {}
    monkeypatch.delitem(sys.modules, "torch")
    assert devices_in_use() == {}
    assert AcceleratorUse(FakeNvml()).to_dict(1.0) is None


@pytest.mark.parametrize("is_installed", [True, False])
def test_without_a_binding_or_a_driver_nothing_is_read(
    monkeypatch: pytest.MonkeyPatch, *, is_installed: bool
) -> None:
    module = ModuleType("pynvml")

    def fail() -> None:
        raise FakeNvml.NVMLError("Driver Not Loaded")

    module.__dict__.update(NVMLError=FakeNvml.NVMLError, nvmlInit=fail)
    monkeypatch.setitem(sys.modules, "pynvml", module if is_installed else None)
    open_nvml.cache_clear()
    try:
        assert open_nvml() is None
        monkeypatch.setattr(accelerators, "devices_in_use", lambda: {OURS: ("Fake H1", 1)})
        found = AcceleratorUse().to_dict(1.0)
        assert found is not None
        assert (found["energy_joules"], found["estimate"]) == (None, True)
    finally:
        open_nvml.cache_clear()


def test_use_of_two_sessions_adds_up(nvml: FakeNvml) -> None:
    use = AcceleratorUse(nvml)
    nvml.millijoules[OURS] = 1_010_000
    first, second = use.to_dict(1.0), use.to_dict(3.0)
    assert first is not None
    both = add_use(first, second)
    assert both is not None
    assert (both["seconds"], both["energy_joules"], both["estimate"]) == (4.0, 20.0, False)
    assert add_use(None, None) is None
    assert add_use(None, first) == add_use(first, None) == first
    unread = add_use(first | {"energy_joules": None, "source": None, "estimate": True}, second)
    assert unread is not None
    assert (unread["energy_joules"], unread["source"], unread["estimate"]) == (None, None, True)
