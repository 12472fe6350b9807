"""A confusion matrix as a picture, readable up to about a hundred classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

_NUMBERED_CLASSES = 30
_NAMED_CLASSES = 100


def save_confusion_picture(
    path: Path, confusion: npt.ArrayLike, classes: Sequence[str], *, title: str = ""
) -> None:
    """Write a confusion matrix (n_classes, n_classes), true x predicted, as a PNG.

    Colours are shares of each true class; cells carry counts up to 30 classes, axes carry names up
    to 100 and every tenth position beyond.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = np.asarray(confusion, dtype=np.int64)
    n = len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(3.0 + 0.24 * n, 4.5, 24.0))
    figure = Figure(figsize=(side + 1.2, side), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    size = 9 if n <= _NUMBERED_CLASSES else 7
    if n <= _NAMED_CLASSES:
        names = [_short(name, position) for position, name in enumerate(classes)]
        axes.set_xticks(range(n), [_plain(name) for name in names], rotation=90, fontsize=size)
        axes.set_yticks(range(n), [_plain(name) for name in names], fontsize=size)
    else:
        ticks = list(range(0, n, max(10, 10 * (n // 400))))
        axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=size)
        axes.set_yticks(ticks, [str(tick) for tick in ticks], fontsize=size)
    if n <= _NUMBERED_CLASSES:
        for row, column in np.argwhere(counts > 0):
            dark = shares[row, column] > 0.5
            axes.text(
                column, row, str(counts[row, column]), ha="center", va="center", fontsize=size - 1,
                color="white" if dark else "black",
            )  # fmt: skip
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if title:
        axes.set_title(_plain("".join(each if _is_drawable(each) else "?" for each in title)), fontsize=11)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    figure.savefig(path)


def _short(name: str, position: int) -> str:
    """Shorten a name to 28 letters; its number stands for one in a script that the font lacks."""
    if not _is_drawable(name):
        return f"#{position}"
    return name if len(name) <= 28 else name[:27] + "…"


def _is_drawable(text: str) -> bool:
    """Whether matplotlib's own font, the only one that is sure to be there, has every letter."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return all(font.get_char_index(ord(letter)) for letter in text)


def _plain(text: str) -> str:
    """Keep matplotlib from reading dollar signs in names as formulas."""
    return text.replace("$", r"\$")
