"""Accuracy by layer and pooling, and of subsets of layers, as an image."""

from collections.abc import Sequence
from pathlib import Path

from toptune.train.layers.choices import LayerChoice, LayerSearch

_NAMED_LAYERS = 60
_PATHS = {
    "first": "from the first layer",
    "last": "from the last layer",
    "forward": "greedy forward",
    "backward": "greedy backward",
}


def save_layer_image(path: Path, search: LayerSearch, *, title: str = "") -> None:
    """Write a PNG: each layer alone, a line for each pooling; and subsets by the number of their layers.

    Bars are one standard error to either side.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    alone = list(search.path("alone"))
    taps = list(dict.fromkeys(_tap(choice) for choice in alone))
    figure = Figure(figsize=(min(24.0, 9.0 + 0.2 * len(taps)), 5.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    poolings: dict[str, list[LayerChoice]] = {}
    for choice in alone:
        poolings.setdefault(choice.arrays[0].rpartition(".")[2], []).append(choice)
    for pooling, choices in sorted(poolings.items()):
        _draw(left, [taps.index(_tap(choice)) for choice in choices], choices, pooling)
    step = -(-len(taps) // _NAMED_LAYERS)
    left.set_xticks(range(0, len(taps), step), [_plain(tap) for tap in taps[::step]], rotation=90, fontsize=8)
    left.set_xlabel("layer, by depth")
    left.set_ylabel("left-out accuracy of ridge regression")
    left.legend(title="each alone, pooling", fontsize=8, title_fontsize=8)
    for name, label in _PATHS.items():
        found = list(search.path(name))
        if found:
            _draw(right, [len(choice.arrays) for choice in found], found, label)
    chosen = search.chosen
    right.plot(len(chosen.arrays), chosen.accuracy, "*", color="black", markersize=13, label="chosen")
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set_xlabel("number of layers")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    if title:
        figure.suptitle(_plain(title), fontsize=11)
    figure.savefig(path)


def _draw(axes: object, places: Sequence[int], choices: Sequence[LayerChoice], label: str) -> None:
    axes.errorbar(  # type: ignore[attr-defined]
        places,
        [choice.accuracy for choice in choices],
        yerr=[choice.standard_error for choice in choices],
        marker="o",
        markersize=4,
        capsize=2,
        linewidth=1.2,
        label=_plain(label),
    )


def _tap(choice: LayerChoice) -> str:
    return choice.arrays[0].rpartition(".")[0]


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollar signs in names as formulas."""
    return text.replace("$", r"\$")
