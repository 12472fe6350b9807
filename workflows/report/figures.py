"""Further figures of a report: speed-up over fine-tuning, and accuracy by layer."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from toptune.train.reports.layer_plot import LayerPoint, draw_layers, draw_subsets, figure_name
from toptune.workflows.report.cost_figures import MAX_PANELS
from toptune.workflows.report.drawing import (
    GRID,
    INK,
    MUTED,
    Key,
    Panel,
    drawable,
    drawing,
    plain_ticks,
    to_svg,
)
from toptune.workflows.report.pairs import Answer, Comparison, by_accuracy
from toptune.workflows.report.settings import Setting
from toptune.workflows.report.table import in_digits

_NAMED_LAYERS = 24
# Rows of the figure of all settings, and of a data set in it where there are many data sets.
_MOST_ROWS, _LEAST_ROWS = 60, 3


def draw_overview(
    answers: Sequence[Answer], settings: Sequence[Setting], legend: Mapping[str, Key]
) -> tuple[Markup | None, int]:
    """Draw the accuracy of all settings on one axis: a row each, by data set and falling accuracy.

    Settings that can be told apart from the best of their data set are paler.

    Returns
    -------
    drawing : Markup or None
        None where nothing was tested.
    n_left_out : int
        Settings beyond `_MOST_ROWS`, the least accurate of each data set.
    """
    if not answers:
        return None, 0
    most = max(_LEAST_ROWS, _MOST_ROWS // len(answers))
    tips, place, left_out = {}, 0.0, 0
    rows: list[tuple[float, Setting, bool]] = []
    headings: dict[float, str] = {}
    for answer in answers:
        tested = [each for each in settings if each.dataset == answer.dataset and each.accuracy is not None]
        ranked = sorted(tested, key=by_accuracy)
        left_out += len(ranked[most:])
        if len(answers) > 1:
            headings[place] = answer.dataset
            place += 0.8
        for setting in ranked[:most]:
            rows.append((place, setting, setting in answer.equals))
            place += 1.0
    with drawing(5.8, 0.6 + 0.32 * place) as (figure, axes):
        across = axes.get_yaxis_transform()
        for at, heading in headings.items():
            axes.text(0, at - 0.2, drawable(heading), transform=across, color=INK, fontsize=9.5,
                      fontweight="bold", va="center")  # fmt: skip
        for number, (at, setting, is_alike) in enumerate(rows):
            assert setting.accuracy is not None, "settings without accuracy were passed over"
            key, alpha = legend[setting.method], 1.0 if is_alike else 0.45
            mean, interval = 100 * setting.accuracy.mean, ""
            if setting.accuracy.interval is not None:
                low, high = (100 * each for each in setting.accuracy.interval)
                axes.hlines(at, low, high, color=key.color, linewidth=1.6, alpha=alpha)
                interval = f" ({low:.2f} to {high:.2f})"
            axes.plot(mean, at, key.marker, color=key.color, markersize=6, alpha=alpha, gid=f"row{number}")
            name = f"{setting.method} · {setting.model}"
            # Names stand above the points: beside the axis, long names would leave the axis no width.
            axes.text(0, at - 0.42, drawable(name, 70), transform=across, color=MUTED, fontsize=8,
                      va="center")  # fmt: skip
            tips[f"row{number}"] = f"{name}: {mean:.2f} %{interval}"
        axes.set_ylim(place - 0.4, -0.9)
        axes.set_yticks([])
        axes.margins(x=0.03)
        axes.grid(True, axis="x")
        axes.set_xlabel("accuracy, %")
        label = "Accuracy of all settings"
        return to_svg(figure, name="overview", label=label, tips=tips), left_out


def draw_speedups(comparisons: Sequence[Comparison], legend: Mapping[str, Key]) -> Markup:
    """Draw how many times faster each method trained: a dot for each pair of runs, a bar at the median."""
    n, tips = len(comparisons), {}
    # The name of a method has the training size, which as a rule tells which fine-tuning it is compared with.
    times = Counter(each.method for each in comparisons)
    with drawing(4.4, 0.6 + 0.5 * n) as (figure, axes):
        # Names stand above the rows: beside the axis, long names would leave it no width on a phone.
        across = axes.get_yaxis_transform()
        for place, each in enumerate(comparisons):
            key, median = legend[each.method], float(np.median(each.speedups))
            axes.plot(each.speedups, np.full(len(each.speedups), place), key.marker, color=key.color,
                      alpha=0.6, markersize=5, markeredgewidth=0, gid=f"row{place}")  # fmt: skip
            axes.vlines(median, place - 0.2, place + 0.2, color=INK, linewidth=1.5)
            axes.text(median, place + 0.23, f"{in_digits(median)} x", ha="center", va="top", fontsize=8)
            name = f"{each.method} beside {each.finetuning}" if times[each.method] > 1 else each.method
            axes.text(0.01, place - 0.24, drawable(name), transform=across, color=MUTED, fontsize=8)
            least, most = in_digits(each.speedups.min()), in_digits(each.speedups.max())
            tips[f"row{place}"] = f"{each.method} beside {each.finetuning}: {least} to {most}"
        axes.axvline(1, color=GRID, linewidth=2, zorder=0)
        # Speed-ups are ratios: twice as fast and half as fast lie equally far from 1.
        axes.set_xscale("log")
        plain_ticks(axes)
        axes.set_ylim(n - 0.3, -0.6)
        axes.set_yticks([])
        axes.grid(True, axis="x")
        axes.set_xlabel("times faster than fine-tuning")
        return to_svg(figure, name="speedup", label="Speed-up over fine-tuning by method", tips=tips)


def draw_layer_searches(settings: Sequence[Setting]) -> tuple[list[Panel], int]:
    """Draw the layer search of each data set and backbone: layers alone, and the subsets it compared.

    Returns
    -------
    panels : list of Panel
        At most `MAX_PANELS`.
    n_left_out : int
        Number of panels beyond `MAX_PANELS`.
    """
    searches: dict[str, list[LayerPoint]] = {}
    for setting in settings:
        for run in setting.runs:
            heading = f"{run.dataset} · {run.model}"
            # One search is drawn for each data set and backbone: the first that a run holds.
            if heading not in searches and (points := run.layer_search()):
                searches[heading] = points
    panels = []
    for number, (heading, points) in enumerate(searches.items()):
        panels.append(Panel(heading, _layers_panel(heading, points, f"layers{number}")))
        if {point.path for point in points} != {"alone"}:
            panels.append(Panel(f"{heading}, subsets", _subsets_panel(heading, points, f"subsets{number}")))
    return panels[:MAX_PANELS], max(0, len(panels) - MAX_PANELS)


def _layers_panel(heading: str, points: Sequence[LayerPoint], name: str) -> Markup:
    with drawing(3.9, 3.3) as (figure, axes):
        draw_layers(axes, points, n_named=_NAMED_LAYERS, name=lambda layer: drawable(layer, 24))
        return to_svg(figure, name=name, label=f"{_title(points)} by layer on {heading}")


def _subsets_panel(heading: str, points: Sequence[LayerPoint], name: str) -> Markup:
    with drawing(3.9, 3.3) as (figure, axes):
        draw_subsets(axes, points)
        axes.set_ylabel(f"left-out {figure_name(points)}, %")
        return to_svg(figure, name=name, label=f"{_title(points)} of subsets of layers on {heading}")


def _title(points: Sequence[LayerPoint]) -> str:
    name = figure_name(points)
    return name[0].upper() + name[1:]
