"""What computing some units took, by this process or by a dask worker."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from toptune.costs.values import Costs
from toptune.extract.pipeline.writer import UnitValues


@dataclass(frozen=True, kw_only=True)
class ModelDone:
    """One model's share.

    Attributes
    ----------
    n_failed : int
        Images that could not be used.
    seconds_compute, seconds_write : float
        Of its forward passes and of committing.
    """

    n_failed: int = 0
    seconds_compute: float = 0.0
    seconds_write: float = 0.0

    def __add__(self, other: "ModelDone") -> "ModelDone":
        return ModelDone(
            n_failed=self.n_failed + other.n_failed,
            seconds_compute=self.seconds_compute + other.seconds_compute,
            seconds_write=self.seconds_write + other.seconds_write,
        )


@dataclass(frozen=True, kw_only=True)
class UnitsDone:
    """Units of one data set, read once for some models.

    Attributes
    ----------
    seconds_read : float
        That reading and decoding took, shared by its threads.
    models : tuple of ModelDone
        One a model, in the order they were given.
    """

    seconds_read: float
    models: tuple[ModelDone, ...]

    def __add__(self, other: "UnitsDone") -> "UnitsDone":
        return UnitsDone(
            seconds_read=self.seconds_read + other.seconds_read,
            models=tuple(a + b for a, b in zip(self.models, other.models, strict=True)),
        )


def share_costs(finished: Sequence[UnitValues], costs: Costs) -> list[UnitValues]:
    """Give each model's values of a unit their part of CPU seconds and energy, by their forward seconds.

    Parameters
    ----------
    finished : sequence of UnitValues
        Of one unit, one a model.
    costs : Costs
        Of the whole process since the unit before, reading ahead included; see `CostMeter.to_dict`.
    """
    total = sum(values.seconds_compute for values in finished)
    # Where nothing was computed, only read, all have the same part in it.
    parts = [values.seconds_compute / total if total else 1 / len(finished) for values in finished]
    return [
        replace(
            values,
            costs={
                "cpu_seconds": part * costs["cpu_seconds"],
                "energy_joules": part * costs["energy_joules"],
                "energy_estimate": costs["energy"]["estimate"],
                "peak_memory_bytes": costs["peak_memory_bytes"],
            },
        )
        for values, part in zip(finished, parts, strict=True)
    ]
