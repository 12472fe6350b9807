"""A confusion matrix as a picture, readable up to about a hundred classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

_NUMBERED_CLASSES = 30
_NAMED_CLASSES = 100
# Of the font's size, a little above the mean of DejaVu Sans.
_LETTER_WIDTH = 0.65
# Inches.
_BAR_WIDTH = 1.1
_TITLE_HEIGHT = 0.5


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
    size = 9 if n <= _NUMBERED_CLASSES else 7
    if n <= _NAMED_CLASSES:
        ticks = list(range(n))
        names = [_short(name, position) for position, name in enumerate(classes)]
    else:
        ticks = list(range(0, n, max(10, 10 * (n // 400))))
        names = [str(tick) for tick in ticks]
    # Laid out by arithmetic, in inches: matplotlib's own layout draws everything twice.
    side = float(np.clip(1.5 + 0.22 * n, 3.0, 22.0))
    margin = 0.5 + max(map(len, names)) * _LETTER_WIDTH * size / 72
    width, height = margin + side + _BAR_WIDTH, margin + side + _TITLE_HEIGHT
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((margin / width, margin / height, side / width, side / height))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks(ticks, [_plain(name) for name in names], rotation=90, fontsize=size)
    axes.set_yticks(ticks, [_plain(name) for name in names], fontsize=size)
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
        shown = "".join(each if _is_drawable(each) else "?" for each in title)
        fitting = 72 * 0.95 * width / (_LETTER_WIDTH * len(shown))
        figure.text(0.5, 1 - 0.35 / height, _plain(shown), ha="center", fontsize=min(11, fitting))
    bar = figure.add_axes(
        ((margin + side + 0.2) / width, (margin + 0.15 * side) / height, 0.2 / width, 0.7 * side / height)
    )
    figure.colorbar(image, cax=bar, label="share of the true class")
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
