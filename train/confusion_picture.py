"""A confusion matrix as a picture, readable up to about a hundred classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

_NUMBERED_CLASSES = 30
_NAMED_CLASSES = 100
# Of the font's size, a little above the mean of DejaVu Sans.
_LETTER_WIDTH = 0.65
_DPI = 100
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
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    counts = np.asarray(confusion, dtype=np.int64)
    n = len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size, per_class = (9, 0.22) if n <= _NUMBERED_CLASSES else (6, 0.14)
    if n <= _NAMED_CLASSES:
        ticks = list(range(n))
        names = [_short(name, position) for position, name in enumerate(classes)]
    else:
        ticks = list(range(0, n, max(10, 10 * (n // 400))))
        names = [str(tick) for tick in ticks]
    # Laid out by arithmetic: matplotlib's own layout draws everything twice.
    cell = max(1, round(_DPI * float(np.clip(per_class + 1.5 / n, 3.0 / n, 22.0 / n))))
    side, margin = n * cell / _DPI, 0.5 + max(map(len, names)) * _LETTER_WIDTH * size / 72
    width, height = margin + side + _BAR_WIDTH, margin + side + _TITLE_HEIGHT
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    colors = ScalarMappable(Normalize(0, 1), "Blues")
    axes = figure.add_axes(
        (margin / width, margin / height, side / width, side / height), xticks=[], yticks=[]
    )
    # Colours before the cells are enlarged, and names as plain texts: ticks would take most of the time.
    axes.imshow(colors.to_rgba(shares, bytes=True), interpolation="nearest")
    gap = 0.5 + 0.05 * _DPI / cell
    for tick, name in zip(ticks, map(_plain, names), strict=True):
        axes.text(tick, n - 1 + gap, name, ha="center", va="top", rotation=90, fontsize=size)
        axes.text(-gap, tick, name, ha="right", va="center_baseline", fontsize=size)
    if n <= _NUMBERED_CLASSES:
        for row, column in np.argwhere(counts > 0):
            dark = shares[row, column] > 0.5
            axes.text(
                column, row, str(counts[row, column]), ha="center", va="center", fontsize=size - 1,
                color="white" if dark else "black",
            )  # fmt: skip
    middle = margin + side / 2
    figure.text(middle / width, 0.1 / height, "predicted class", ha="center", va="bottom")
    figure.text(0.1 / width, middle / height, "true class", ha="left", va="center", rotation=90)
    if title:
        shown = "".join(each if _is_drawable(each) else "?" for each in title)
        fitting = 72 * 0.95 * width / (_LETTER_WIDTH * len(shown))
        figure.text(0.5, 1 - 0.35 / height, _plain(shown), ha="center", fontsize=min(11, fitting))
    bar = figure.add_axes(
        ((margin + side + 0.2) / width, (margin + 0.15 * side) / height, 0.2 / width, 0.7 * side / height)
    )
    figure.colorbar(colors, cax=bar, label="share of the true class")
    figure.savefig(path, pil_kwargs={"compress_level": 1})


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
