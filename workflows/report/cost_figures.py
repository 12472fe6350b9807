"""Accuracy against seconds or energy, with a panel for each data set and backbone."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup
from scipy.stats import gmean

from toptune.workflows.report.drawing import Key, Panel, drawing, plain_ticks, to_svg
from toptune.workflows.report.settings import JOULES_A_WATT_HOUR, Setting

MAX_PANELS = 24
Cost = Literal["seconds", "energy"]
_UNITS = {"seconds": "seconds of training", "energy": "watt-hours of training"}


@dataclass(frozen=True)
class _Point:
    """A method on one panel: accuracy and interval in percent, cost of training, and cost with extraction."""

    method: str
    accuracy: float
    spent: float
    interval: tuple[float, float] | None = None
    with_extraction: float | None = None
    is_estimated: bool = False


def draw_accuracy_against(
    cost: Cost, settings: Sequence[Setting], legend: Mapping[str, Key]
) -> tuple[list[Panel], int]:
    """Draw accuracy against a cost; a backbone with several data sets first gets a panel of their means.

    Means are taken for the methods that were run on all data sets of the backbone. The mean of accuracies is
    arithmetic; the mean of costs is geometric, because costs spread over orders of magnitude.

    Returns
    -------
    panels : list of Panel
        At most `MAX_PANELS`.
    n_left_out : int
        Number of panels beyond `MAX_PANELS`.
    """
    by_model: dict[str, dict[str, list[_Point]]] = defaultdict(lambda: defaultdict(list))
    for setting in settings:
        if (point := _point(cost, setting)) is not None:
            by_model[setting.model][setting.dataset].append(point)
    groups = []
    for model, by_dataset in by_model.items():
        if len(by_dataset) > 1 and (means := _means(list(by_dataset.values()))):
            groups.append((f"mean over {len(by_dataset)} data sets · {model}", means))
    for model, by_dataset in by_model.items():
        groups += [(f"{dataset} · {model}", points) for dataset, points in by_dataset.items()]
    panels = [
        Panel(heading, _panel(heading, points, legend, f"{cost}{number}", _UNITS[cost]))
        for number, (heading, points) in enumerate(groups[:MAX_PANELS])
    ]
    return panels, len(groups) - len(panels)


def _point(cost: Cost, setting: Setting) -> _Point | None:
    spent = setting.seconds if cost == "seconds" else setting.watt_hours
    if setting.accuracy is None or not spent:
        return None
    if cost == "seconds":
        extraction = setting.cost("extract_seconds")
    elif (extraction := setting.cost("extract_joules")) is not None:
        extraction /= JOULES_A_WATT_HOUR
    interval = setting.accuracy.interval
    return _Point(
        setting.method,
        100 * setting.accuracy.mean,
        spent,
        None if interval is None else (100 * interval[0], 100 * interval[1]),
        spent + extraction if extraction else None,
        is_estimated=cost == "energy" and setting.has_estimated_energy,
    )


def _means(datasets: Sequence[Sequence[_Point]]) -> list[_Point]:
    by_method = [{point.method: point for point in points} for points in datasets]
    # A mean over some of the data sets would compare methods on different problems.
    everywhere = [method for method in by_method[0] if all(method in each for each in by_method)]

    def mean(method: str, average: Callable[[list[float]], float], name: str) -> float:
        return float(average([getattr(each[method], name) for each in by_method]))

    return [
        _Point(
            method,
            mean(method, np.mean, "accuracy"),
            mean(method, gmean, "spent"),
            is_estimated=any(each[method].is_estimated for each in by_method),
        )
        for method in everywhere
    ]


def _panel(heading: str, points: Sequence[_Point], legend: Mapping[str, Key], name: str, unit: str) -> Markup:
    tips, estimated = {}, [point.is_estimated for point in points]
    label = f"{unit}, {'' if all(estimated) else 'partly '}estimated" if any(estimated) else unit
    with drawing() as (figure, axes):
        # Limits are set before anything is drawn: for a single cost, matplotlib's own limits may coincide.
        axes.set_xscale("log")
        most = max(point.with_extraction or point.spent for point in points)
        axes.set_xlim(min(point.spent for point in points) / 2, 2 * most)
        for number, point in enumerate(points):
            key, interval = legend[point.method], ""
            if point.interval is not None:
                axes.vlines(point.spent, *point.interval, color=key.color, linewidth=1, alpha=0.55)
                interval = " ({:.2f} to {:.2f})".format(*point.interval)
            if point.with_extraction is not None:
                axes.hlines(point.accuracy, point.spent, point.with_extraction, color=key.color, linewidth=1,
                            linestyle=":")  # fmt: skip
            axes.plot(
                point.spent, point.accuracy, key.marker, color=key.color, markersize=6, gid=f"point{number}"
            )
            tips[f"point{number}"] = (
                f"{point.method}: {point.accuracy:.2f} %{interval}, {point.spent:.3g} {unit}"
                f"{' (estimated)' if point.is_estimated else ''}"
            )
        plain_ticks(axes)
        axes.margins(y=0.1)
        axes.grid(True)
        axes.set_xlabel(label)
        axes.set_ylabel("accuracy, %")
        return to_svg(figure, name=name, label=f"Accuracy against {label}, {heading}", tips=tips)
