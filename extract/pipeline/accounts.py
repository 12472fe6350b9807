"""Time, failures and costs of computed units are added up here, from this process or from dask workers."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from toptune.costs.values import Costs
from toptune.extract.images.narrow import NarrowImages
from toptune.extract.pipeline.writer import UnitValues


@dataclass(frozen=True, kw_only=True)
class ModelDone:
    """Failures and seconds of one model over some units.

    Attributes
    ----------
    n_failed : int
        Images that could not be used.
    seconds_compute, seconds_device, seconds_write : float
        Seconds of the model's forward passes, of a CUDA device in them, and of committing its features.
    """

    n_failed: int = 0
    seconds_compute: float = 0.0
    seconds_device: float = 0.0
    seconds_write: float = 0.0

    def __add__(self, other: "ModelDone") -> "ModelDone":
        return ModelDone(
            n_failed=self.n_failed + other.n_failed,
            seconds_compute=self.seconds_compute + other.seconds_compute,
            seconds_device=self.seconds_device + other.seconds_device,
            seconds_write=self.seconds_write + other.seconds_write,
        )


@dataclass(frozen=True, kw_only=True)
class UnitsDone:
    """Failures and seconds of all models over some units; the images were read once for all of them.

    Attributes
    ----------
    seconds_read : float
        Seconds of reading and decoding, shared by the threads.
    models : tuple of ModelDone
        Failures and seconds by model, in the order of the models.
    narrow : NarrowImages
        Images that use little of the range that their files declare.
    """

    seconds_read: float
    models: tuple[ModelDone, ...]
    narrow: NarrowImages = field(default_factory=NarrowImages)

    def __add__(self, other: "UnitsDone") -> "UnitsDone":
        return UnitsDone(
            seconds_read=self.seconds_read + other.seconds_read,
            models=tuple(a + b for a, b in zip(self.models, other.models, strict=True)),
            narrow=self.narrow + other.narrow,
        )


def share_costs(finished: Sequence[UnitValues], costs: Costs) -> list[UnitValues]:
    """Divide the CPU seconds and energy of a unit among the models, in proportion to their forward seconds.

    Parameters
    ----------
    finished : sequence of UnitValues
        The values of one unit, one for each model.
    costs : Costs
        Costs of the whole process since the unit before, reading ahead included; see `CostMeter.to_dict`.

    Returns
    -------
    list of UnitValues
        The same values with their costs.
    """
    # A process has one clock of CPU seconds and one of energy, and several models compute in it at once:
    # forward seconds, which are measured for each model, say how the work was divided. The host's seconds of
    # a CUDA device are those of waiting, whichever model the device worked for.
    spent = [values.seconds_device or values.seconds_compute for values in finished]
    total = sum(spent)
    # Where images were read and nothing was computed, the models have equal parts in the costs.
    parts = [each / total if total else 1 / len(finished) for each in spent]
    return [
        replace(
            values,
            costs={
                "cpu_seconds": part * costs["cpu_seconds"],
                "energy_joules": part * costs["energy_joules"],
                "energy_estimate": costs["energy"]["estimate"],
                "peak_memory_bytes": costs["peak_memory_bytes"],
                **({"device_seconds": values.seconds_device} if values.seconds_device else {}),
            },
        )
        for values, part in zip(finished, parts, strict=True)
    ]
