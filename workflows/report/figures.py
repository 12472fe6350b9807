"""More figures of a report: speed-up over fine-tuning, accuracy by layer."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from toptune.workflows.report.cost_figures import MAX_PANELS
from toptune.workflows.report.drawing import (
    GRID,
    INK,
    MARKERS,
    MUTED,
    SERIES,
    Key,
    Panel,
    drawable,
    drawing,
    plain_ticks,
    to_svg,
)
from toptune.workflows.report.pairs import Comparison
from toptune.workflows.report.settings import Setting
from toptune.workflows.report.table import in_digits

_NAMED_LAYERS = 24
_PATHS = {"alone": "each layer alone", "first": "first layers together", "last": "last layers together"}


def draw_speedups(comparisons: Sequence[Comparison], legend: Mapping[str, Key]) -> Markup:
    """Draw how many times faster each method trained: a dot a pair of runs, a bar at the median."""
    n, tips = len(comparisons), {}
    # A name says its training size, and with it, as a rule, which fine-tuning stands beside it.
    times = Counter(each.method for each in comparisons)
    with drawing(4.4, 0.6 + 0.5 * n) as (figure, axes):
        # Names stand above their rows: long ones would leave no width for the axis on a phone.
        across = axes.get_yaxis_transform()
        for place, each in enumerate(comparisons):
            key, median = legend[each.method], float(np.median(each.speedups))
            axes.plot(each.speedups, np.full(len(each.speedups), place), key.marker, color=key.colour,
                      alpha=0.6, markersize=5, markeredgewidth=0, gid=f"row{place}")  # fmt: skip
            axes.vlines(median, place - 0.2, place + 0.2, color=INK, linewidth=1.5)
            axes.text(median, place + 0.23, f"{in_digits(median)} x", ha="center", va="top", fontsize=8)
            name = f"{each.method} beside {each.finetuning}" if times[each.method] > 1 else each.method
            axes.text(0.01, place - 0.24, drawable(name), transform=across, color=MUTED, fontsize=8)
            least, most = in_digits(each.speedups.min()), in_digits(each.speedups.max())
            tips[f"row{place}"] = f"{each.method} beside {each.finetuning}: {least} to {most}"
        axes.axvline(1, color=GRID, linewidth=2, zorder=0)
        axes.set_xscale("log")
        plain_ticks(axes)
        axes.set_ylim(n - 0.3, -0.6)
        axes.set_yticks([])
        axes.grid(True, axis="x")
        axes.set_xlabel("times faster than fine-tuning")
        return to_svg(figure, name="speedup", label="Speed-up over fine-tuning by method", tips=tips)


def draw_layers(settings: Sequence[Setting]) -> tuple[list[Panel], int]:
    """Draw the accuracy of each layer, one panel a data set and backbone whose layers a run has searched."""
    tables: dict[str, list[dict[str, str]]] = {}
    for setting in settings:
        for run in setting.runs:
            heading = f"{run.dataset} · {run.model}"
            if heading not in tables and (table := run.layer_search()):
                tables[heading] = table
    chosen = list(tables.items())[:MAX_PANELS]
    panels = [
        Panel(heading, _layers_panel(heading, table, f"layers{number}"))
        for number, (heading, table) in enumerate(chosen)
    ]
    return panels, len(tables) - len(chosen)


def _layers_panel(heading: str, table: Sequence[Mapping[str, str]], name: str) -> Markup:
    names = [row["arrays"] for row in table if row["path"] == "alone"]
    with drawing(3.9, 3.3) as (figure, axes):
        for number, (path, label) in enumerate(_PATHS.items()):
            found = [100 * float(row["accuracy"]) for row in table if row["path"] == path]
            places = range(len(found))
            if path == "last":
                # From the last layer backwards: it stands at the right.
                places = range(len(names) - 1, len(names) - 1 - len(found), -1)
            marker = list(MARKERS)[number]
            axes.plot(
                places, found, marker=marker, color=SERIES[number], linewidth=1, markersize=4, label=label
            )
        step = -(-len(names) // _NAMED_LAYERS) or 1
        shown = [drawable(each, 24) for each in names[::step]]
        axes.set_xticks(range(0, len(names), step), shown, rotation=90, fontsize=7)
        axes.grid(True, axis="y")
        axes.set_ylabel("left-out accuracy, %")
        axes.legend(frameon=False, fontsize=7.5)
        return to_svg(figure, name=name, label=f"Accuracy by layer on {heading}")
