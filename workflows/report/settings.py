"""`Setting`: runs that differ by their seed only, with means and intervals."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from toptune.workflows.report.method_names import identity_of, name_methods, spelt
from toptune.workflows.report.runs import ReportedRun
from toptune.workflows.report.statistics import Estimate, estimate_accuracy

JOULES_A_WATT_HOUR = 3600.0


@dataclass(frozen=True, eq=False)
class Setting:
    """Repetitions of one training.

    Attributes
    ----------
    method : str
        Name of the method; see `name_methods`.
    runs : tuple of ReportedRun
        The repetitions, ordered by seed.
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
        """Mean accuracy over the seeds with an interval; None without test rows."""
        values = [run.accuracy for run in self.runs if run.accuracy is not None]
        return estimate_accuracy(values, n_test=self.tested[0].metrics.n_test) if values else None

    @property
    def seconds(self) -> float:
        """Mean training time in seconds."""
        return float(np.mean([run.seconds for run in self.runs]))

    @property
    def watt_hours(self) -> float | None:
        """Mean energy of a training in watt-hours; None unless every run measured its energy."""
        joules = self.cost("energy_joules")
        return None if joules is None else joules / JOULES_A_WATT_HOUR

    @property
    def has_estimated_energy(self) -> bool:
        """Whether the energy of any run is an estimate."""
        return any(run.has_estimated_energy for run in self.runs)

    @property
    def countries(self) -> str:
        """Countries whose electricity decides the emissions, with commas between them."""
        return ", ".join(sorted({run.country for run in self.runs if run.country is not None}))

    def cost(self, name: str) -> float | None:
        """Return the mean of one of the costs; None unless every run measured the cost."""
        values = [value for run in self.runs if (value := run.cost(name)) is not None]
        return float(np.mean(values)) if len(values) == len(self.runs) else None

    def metric(self, name: str) -> float | None:
        """Return the mean of a metric over the runs that have the metric; None if no run has one."""
        values = [value for run in self.tested if (value := getattr(run.metrics, name)) is not None]
        return float(np.mean(values)) if values else None


def methods_of(settings: Iterable[Setting]) -> list[str]:
    """List the methods, fine-tuning first."""
    return [method for _, method in sorted({(not each.is_finetuned, each.method) for each in settings})]


def make_settings(runs: Iterable[ReportedRun]) -> tuple[list[Setting], list[ReportedRun]]:
    """Group runs into settings, ordered by data set, backbone and falling accuracy.

    Returns
    -------
    settings : list of Setting
    repeated : list of ReportedRun
        Runs that are left out, because a later run has the same setting and seed.
    """
    groups: dict[str, dict[int, ReportedRun]] = defaultdict(dict)
    repeated = []
    # Runs come in the order of their times, so that the last one of a setting and seed stays.
    for run in sorted(runs, key=lambda each: (str(each.record.created.get("when")), each.folder)):
        seeds = groups[spelt([run.dataset, run.model, identity_of(run)])]
        if earlier := seeds.pop(run.seed, None):
            repeated.append(earlier)
        seeds[run.seed] = run
    members = [tuple(seeds[seed] for seed in sorted(seeds)) for seeds in groups.values()]
    methods = name_methods([each[0] for each in members])
    settings = [Setting(method, each) for method, each in zip(methods, members, strict=True)]
    return sorted(settings, key=_order), repeated


def _order(setting: Setting) -> tuple[str, str, float, str]:
    mean = -1.0 if setting.accuracy is None else setting.accuracy.mean
    return setting.dataset, setting.model, -mean, setting.method
