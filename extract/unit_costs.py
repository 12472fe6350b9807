"""What a unit of several models took, shared out among them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from toptune.extract.writing import UnitValues


def share_costs(finished: Sequence[UnitValues], costs: Mapping[str, Any]) -> list[UnitValues]:
    """Give each model's values of a unit their part of CPU seconds and energy, by their forward seconds.

    Parameters
    ----------
    finished : sequence of UnitValues
        Of one unit, one a model.
    costs : mapping
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
