"""Costs are recorded as these JSON values, in ``metrics.json`` and in the results of commands."""

from typing import NotRequired, TypedDict


class PhaseUse(TypedDict):
    """Use of one phase: wall-clock seconds, CPU seconds, and images where images are counted."""

    wall_seconds: float
    cpu_seconds: float
    images: NotRequired[int]


class EnergySource(TypedDict):
    """Where the energy of the processors is taken from.

    ``source`` is ``rapl`` (counters) or ``model``; ``estimate`` says whether any part of the energy is an
    estimate. ``watts_per_core`` is the power of a busy core that the model assumes.
    """

    source: str
    estimate: bool
    watts_per_core: float | None


class DeviceUse(TypedDict):
    """Use of CUDA devices: seconds, peak memory and energy, with the source of the energy figure."""

    devices: list[str]
    seconds: float
    peak_memory_bytes: int
    energy_joules: float | None
    source: str | None
    estimate: bool


class Emissions(TypedDict):
    """CO2 in kg, and the carbon intensity that turns energy into CO2; both are None without a country."""

    co2e_kg: float | None
    co2e: dict[str, str | int | float] | None


class Costs(Emissions):
    """Costs of some work; see `toptune.costs.meter.CostMeter.to_dict`.

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
