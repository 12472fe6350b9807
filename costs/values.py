"""The JSON values that costs are recorded as, in ``metrics.json`` and in the results of commands."""

from typing import NotRequired, TypedDict


class PhaseUse(TypedDict):
    """What one phase took: seconds by the wall and of the processors, and images where they are counted."""

    wall_seconds: float
    cpu_seconds: float
    images: NotRequired[int]


class EnergySource(TypedDict):
    """Where the energy of the processors is taken from.

    ``source`` is ``rapl`` (counters) or ``model``; ``estimate`` says whether any of the energy is one.
    ``watts_per_core`` is what the model assumes.
    """

    source: str
    estimate: bool
    watts_per_core: float | None


class DeviceUse(TypedDict):
    """What was used of CUDA devices; see `toptune.costs.accelerators.AcceleratorUse`."""

    devices: list[str]
    seconds: float
    peak_memory_bytes: int
    energy_joules: float | None
    source: str | None
    estimate: bool


class Emissions(TypedDict):
    """CO2 in kg, and the carbon intensity by which it was taken from the energy; None where none is known."""

    co2e_kg: float | None
    co2e: dict[str, str | int | float] | None


class Costs(Emissions):
    """What some work cost; see `toptune.costs.meter.CostMeter.to_dict`.

    ``sessions`` counts the processes that a fine-tuning, stopped and resumed, ran in.
    """

    phases: dict[str, PhaseUse]
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    bytes_read: int | None
    bytes_written: int | None
    gpu: DeviceUse | None
    energy_joules: float
    energy: EnergySource
    sessions: NotRequired[int]
