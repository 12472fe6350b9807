"""Settings: runs that differ by their seed only, under a name that says what sets them apart from others."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from toptune.workflows.report_runs import ReportedRun
from toptune.workflows.report_statistics import Estimate, estimate_accuracy

# What changes where and how fast something is computed, and not what.
_OF_NO_EFFECT = frozenset(
    {"seed", "device", "memory_limit", "workers", "cache_memory_bytes", "allow_failed", "max_failures"}
)
FINE_TUNING = "fine-tuning"
JOULES_A_WATT_HOUR = 3600.0


@dataclass(frozen=True, eq=False)
class Setting:
    """Repetitions of one training.

    Attributes
    ----------
    method : str
        The head, or ``fine-tuning``, with the options in which settings of it differ.
    runs : tuple of ReportedRun
        By seed.
    """

    method: str
    runs: tuple[ReportedRun, ...]

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.runs[0].dataset

    @property
    def model(self) -> str:
        """Name of the backbone."""
        return self.runs[0].model

    @property
    def is_finetuned(self) -> bool:
        """Whether the backbone was trained too."""
        return self.runs[0].is_finetuned

    @property
    def tested(self) -> tuple[ReportedRun, ...]:
        """Runs that have test rows."""
        return tuple(run for run in self.runs if run.accuracy is not None)

    @cached_property
    def accuracy(self) -> Estimate | None:
        """Over the seeds; None without test rows."""
        values = [run.accuracy for run in self.runs if run.accuracy is not None]
        return estimate_accuracy(values, n_test=self.tested[0].metrics["n_test"]) if values else None

    @property
    def seconds(self) -> float:
        """Mean training time."""
        return float(np.mean([run.seconds for run in self.runs]))

    @property
    def watt_hours(self) -> float | None:
        """Mean energy of a training, where every run has measured it."""
        joules = self.cost("energy_joules")
        return None if joules is None else joules / JOULES_A_WATT_HOUR

    @property
    def has_estimated_energy(self) -> bool:
        """Whether the energy of any run is an estimate."""
        return any(run.has_estimated_energy for run in self.runs)

    @property
    def countries(self) -> str:
        """Whose electricity the emissions are reckoned by, with commas."""
        return ", ".join(sorted({run.country for run in self.runs if run.country is not None}))

    def cost(self, name: str) -> float | None:
        """Mean of one of the costs, where every run has it."""
        values = [value for run in self.runs if (value := run.cost(name)) is not None]
        return float(np.mean(values)) if len(values) == len(self.runs) else None

    def metric(self, name: str) -> float | None:
        """Mean of a figure of the metrics over the runs that have it."""
        values = [value for run in self.tested if (value := run.metrics.get(name)) is not None]
        return float(np.mean(values)) if values else None


def methods_of(settings: Iterable[Setting]) -> list[str]:
    """List the methods, fine-tuning first."""
    return [method for _, method in sorted({(not each.is_finetuned, each.method) for each in settings})]


def make_settings(runs: Iterable[ReportedRun]) -> tuple[list[Setting], list[ReportedRun]]:
    """Group runs into settings, by data set, backbone and falling accuracy.

    Returns
    -------
    settings : list of Setting
    repeated : list of ReportedRun
        Left out: a later run has the same setting and seed.
    """
    groups: dict[str, dict[int, ReportedRun]] = defaultdict(dict)
    repeated = []
    for run in sorted(runs, key=lambda each: (str(each.config.get("created", {}).get("when")), each.folder)):
        seeds = groups[_spelt([run.dataset, run.model, _identity(run)])]
        if earlier := seeds.pop(run.options["seed"], None):
            repeated.append(earlier)
        seeds[run.options["seed"]] = run
    members = [tuple(seeds[seed] for seed in sorted(seeds)) for seeds in groups.values()]
    varying = _varying([each[0] for each in members])
    settings = [Setting(_method(each[0], varying), each) for each in members]
    return sorted(settings, key=_order), repeated


def _order(setting: Setting) -> tuple[Any, ...]:
    mean = -1.0 if setting.accuracy is None else setting.accuracy.mean
    return setting.dataset, setting.model, -mean, setting.method


def _base(run: ReportedRun) -> str:
    return FINE_TUNING if run.is_finetuned else str(run.options.get("head", "head"))


def _identity(run: ReportedRun) -> dict[str, Any]:
    """Give what decides the outcome of a run besides data set, backbone and seed."""
    options = {name: value for name, value in run.options.items() if name not in _OF_NO_EFFECT}
    if not run.is_finetuned:
        options["layers"] = options.get("layers") or "last"
    return options | {
        "method": _base(run),
        "dataset_version": run.config.get("dataset_version"),
        "features": str(run.config.get("cache", {}).get("digest", ""))[:8],
        "labels": run.config.get("relabelled", {}).get("labels"),
        "updated": "update" in run.config,
    }


def _varying(examples: Sequence[ReportedRun]) -> dict[str, set[str]]:
    """Options by method that differ between settings of one data set and backbone."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in examples:
        groups[run.dataset, run.model, _base(run)].append(_identity(run))
    found: dict[str, set[str]] = defaultdict(set)
    for (*_, base), identities in groups.items():
        for name in sorted({name for each in identities for name in each}):
            if len({_spelt(each.get(name)) for each in identities}) > 1:
                found[base].add(name)
    return found


def _method(run: ReportedRun, varying: dict[str, set[str]]) -> str:
    identity, base = _identity(run), _base(run)
    parts = [base]
    for name in sorted(varying[base]):
        value = identity.get(name)
        if value is True:
            parts.append(name.replace("_", " "))
        elif value not in (None, False, "", {}, []):
            text = value if isinstance(value, str) else _spelt(value)
            parts.append(f"{name.replace('_', ' ')} {text}")
    return ", ".join(parts)


def _spelt(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
