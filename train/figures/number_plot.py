"""Drawings of predicted numbers: against the true ones, and what is left between both."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.store.files.writing import write_made

Values = npt.NDArray[np.float64]

# Points of a drawing, at most; more would be a blot.
_POINTS = 5000
# Targets that are drawn, at most.
SHOWN_TARGETS = 9


def shown_rows(n: int) -> npt.NDArray[np.int64]:
    """Return the rows that a drawing shows: all, or some that are evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, _POINTS)).astype(np.int64))


def save_predicted(path: Path, truth: Values, predicted: Values, names: Sequence[str], *, title: str) -> None:
    """Draw predicted against true numbers (n, n_targets) into a PNG file, a panel for each target."""

    def draw(axes: Any, true: Values, guess: Values, name: str) -> None:
        low, high = float(min(true.min(), guess.min())), float(max(true.max(), guess.max()))
        axes.plot([low, high], [low, high], color="black", lw=1)
        axes.scatter(true, guess, s=8, alpha=0.5, linewidths=0)
        axes.set(xlabel=f"true {name}", ylabel=f"predicted {name}")

    _save(path, truth, predicted, names, draw, title=title)


def save_residuals(path: Path, truth: Values, predicted: Values, names: Sequence[str], *, title: str) -> None:
    """Draw predicted less true numbers over the predicted ones, a panel for each target."""

    def draw(axes: Any, true: Values, guess: Values, name: str) -> None:
        axes.axhline(0, color="black", lw=1)
        axes.scatter(guess, guess - true, s=8, alpha=0.5, linewidths=0)
        axes.set(xlabel=f"predicted {name}", ylabel="predicted less true")

    _save(path, truth, predicted, names, draw, title=title)


def _save(
    path: Path,
    truth: Values,
    predicted: Values,
    names: Sequence[str],
    draw: Callable[[Any, Values, Values, str], None],
    *,
    title: str,
) -> None:
    # Without pyplot, no window system is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = min(len(names), SHOWN_TARGETS)
    across = min(3, count)
    down = -(-count // across)
    figure = Figure(figsize=(1.2 + 4.2 * across, 0.6 + 3.8 * down), layout="constrained")
    FigureCanvasAgg(figure)
    some = shown_rows(len(truth))
    for at in range(count):
        draw(figure.add_subplot(down, across, at + 1), truth[some, at], predicted[some, at], names[at])
    more = f" ({count} of {len(names)} targets)" if count < len(names) else ""
    figure.suptitle(title + more, fontsize="medium")
    write_made(path, lambda place: figure.savefig(place, format="png", dpi=110))
