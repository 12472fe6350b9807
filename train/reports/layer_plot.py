"""Accuracy of layers and of subsets of layers: the image of a layer report, and the drawing of a page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toptune.store.files.writing import write_made
from toptune.train.layers.choices import LayerChoice, LayerSearch

if TYPE_CHECKING:  # matplotlib takes a third of a second to import, and most commands draw nothing
    from matplotlib.axes import Axes

_NAMED_LAYERS = 60
_PATHS = {
    "first": "from the first layer",
    "last": "from the last layer",
    "forward": "greedy forward",
    "backward": "greedy backward",
    "each": "last of each model",
}


@dataclass(frozen=True, kw_only=True)
class LayerPoint:
    """What is drawn of a subset of layers: its left-out accuracy, and the standard error where it is known.

    Attributes
    ----------
    path : str
        How the subset was found; see `LayerChoice`.
    arrays : tuple of str
        Names of the stored arrays, by depth.
    figure : float
        Left-out accuracy of ridge regression; of numbers, R2.
    standard_error : float, optional
        Standard error of the figure.
    is_r2 : bool
        Whether the figure is R2.
    """

    path: str
    arrays: tuple[str, ...]
    figure: float
    standard_error: float | None = None
    is_r2: bool = False

    @classmethod
    def of(cls, choice: LayerChoice) -> "LayerPoint":
        """Take a row of a layer search."""
        return cls(
            path=choice.path,
            arrays=choice.arrays,
            figure=choice.figure,
            standard_error=choice.standard_error,
            is_r2=choice.accuracy is None,
        )

    @property
    def layer(self) -> str:
        """Name of the first layer of the subset, without its pooling."""
        array = self.arrays[0]
        return array.rpartition(".")[0] or array

    @property
    def pooling(self) -> str:
        """Pooling of the first layer of the subset."""
        return self.arrays[0].rpartition(".")[2]


def save_layer_image(path: Path, search: LayerSearch, *, title: str = "") -> None:
    """Write a PNG of two drawings: `draw_layers`, and beside it `draw_subsets` with the chosen subset."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [LayerPoint.of(choice) for choice in search.choices]
    n_layers = len({point.layer for point in points if point.path == "alone"})
    # A dollar sign in a name must not begin a formula.
    with mpl.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(min(24.0, 9.0 + 0.2 * n_layers), 5.0), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, sharey=True)
        draw_layers(left, points, n_named=_NAMED_LAYERS)
        draw_subsets(right, points)
        chosen = search.chosen
        right.plot(len(chosen.arrays), 100 * chosen.figure, "*", color="black", markersize=13, label="chosen")
        right.legend(fontsize=8)
        for axes in (left, right):
            axes.grid(alpha=0.3)
        if title:
            figure.suptitle(title, fontsize=11)
        write_made(path, figure.savefig)


def draw_layers(
    axes: "Axes", points: Sequence[LayerPoint], *, n_named: int, name: Callable[[str], str] = str
) -> None:
    """Draw the accuracy of each layer alone, in percent by depth, with a line for each pooling.

    Parameters
    ----------
    axes : Axes
    points : sequence of LayerPoint
        All rows of a search; those of the path ``alone`` are drawn.
    n_named : int
        Names that fit on the axis. Of more layers, evenly spread ones are named.
    name : callable
        Makes the name of a layer fit to be drawn.
    """
    alone = [point for point in points if point.path == "alone"]
    layers = list(dict.fromkeys(point.layer for point in alone))
    for pooling in sorted({point.pooling for point in alone}):
        found = [point for point in alone if point.pooling == pooling]
        _draw(axes, [layers.index(point.layer) for point in found], found, name(pooling))
    # Names of all layers of a deep network would overlap.
    step = -(-len(layers) // n_named) or 1
    shown = [name(layer) for layer in layers[::step]]
    axes.set_xticks(range(0, len(layers), step), shown, rotation=90, fontsize=8)
    axes.set_xlabel("layer, by depth")
    axes.set_ylabel(f"left-out {figure_name(points)} of ridge regression, %")
    axes.legend(title="each alone, pooling", fontsize=8, title_fontsize=8)


def draw_subsets(axes: "Axes", points: Sequence[LayerPoint]) -> bool:
    """Draw the accuracy of subsets of layers, in percent by their number, with a line for each path.

    Returns
    -------
    bool
        Whether the search compared any subsets.
    """
    from matplotlib.ticker import MaxNLocator

    is_drawn = False
    for path, label in _PATHS.items():
        if found := [point for point in points if point.path == path]:
            _draw(axes, [len(point.arrays) for point in found], found, label)
            is_drawn = True
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("number of layers")
    if is_drawn:
        axes.legend(fontsize=8)
    return is_drawn


def figure_name(points: Sequence[LayerPoint]) -> str:
    """Return what the figures of points are."""
    return "R2" if any(point.is_r2 for point in points) else "accuracy"


def _draw(axes: "Axes", places: Sequence[int], points: Sequence[LayerPoint], label: str) -> None:
    """Draw a line through points, with bars of one standard error to either side."""
    errors = [100 * point.standard_error for point in points if point.standard_error is not None]
    axes.errorbar(
        places,
        [100 * point.figure for point in points],
        yerr=errors if len(errors) == len(points) else None,
        marker="o",
        markersize=4,
        capsize=2,
        linewidth=1.2,
        label=label,
    )
