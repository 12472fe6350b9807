"""A confusion matrix as an image, drawn by matplotlib: the file of a run, and the drawing of a report."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from toptune.store.files.writing import write_made

if TYPE_CHECKING:  # matplotlib takes a third of a second to import, and most commands draw nothing
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

_NUMBERED_CLASSES = 30
_NAMED_CLASSES = 40
# The opacity of this color is the share of a class, so that the image suits light and dark pages.
_SHADE = (0.23, 0.51, 0.80)
_NAME_LENGTH = 28
# More cells a side than this would be finer than the dots, and a matrix of 10,000 classes takes 800 MB.
_MOST_CELLS = 1000
# In a large matrix every class gets two dots a side, as long as that takes no more than 350 dpi.
_DPI, _LARGEST_DPI, _DOTS_A_CLASS = 150, 350, 2


def save_confusion_image(
    path: Path, confusion: npt.ArrayLike | csr_array, classes: Sequence[str], *, title: str = ""
) -> None:
    """Write a confusion matrix (n_classes, n_classes), true x predicted, as a PNG; see `draw_confusion`.

    A name in a script that matplotlib's font lacks is replaced by the number of the class.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # matplotlib warns of every letter that its font lacks, and draws a box in its place.
    names = [_shorten(name) if _is_drawable(name) else f"#{row}" for row, name in enumerate(classes)]
    matrix, margin = confusion_side(len(names)), 0.06 * max(map(len, names))
    dpi = np.clip(_DOTS_A_CLASS * len(names) / matrix, _DPI, _LARGEST_DPI)
    figure = Figure(figsize=(matrix + margin + 1, matrix + margin), dpi=float(dpi), layout="constrained")
    FigureCanvasAgg(figure)
    image = draw_confusion(figure.add_subplot(), confusion, names)
    figure.colorbar(image, label="share of the true class", shrink=0.75)
    shown = "".join(letter if _is_drawable(letter) else "?" for letter in title)
    figure.suptitle(shown, fontsize=9, parse_math=False)
    write_made(path, figure.savefig)


def draw_confusion(
    axes: "Axes", confusion: npt.ArrayLike | csr_array, names: Sequence[str], *, ink: str = "black"
) -> "AxesImage":
    """Draw a confusion matrix (n_classes, n_classes), true x predicted.

    Shades are shares of the true class. Up to 30 classes, cells show counts in the color `ink`. Up to 40
    classes, the axes show all names; beyond, evenly spread ones. Beyond 1,000 classes, a cell is the sum of
    neighboring classes.
    """
    from matplotlib.colors import LinearSegmentedColormap

    together = -(-len(names) // _MOST_CELLS)
    counts, names = _pooled(csr_array(confusion), together), names[::together]
    n = len(names)
    # Shares of the true class make rare classes as visible as frequent ones; a class without rows has
    # shares of 0.
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shades = LinearSegmentedColormap.from_list("shades", [(*_SHADE, 0), (*_SHADE, 1)])
    image = axes.imshow(shares, cmap=shades, vmin=0, vmax=1)
    step = -(-n // _NAMED_CLASSES)
    size = 8 if n <= 20 else 5.5
    for set_ticks, rotation in ((axes.set_xticks, 90), (axes.set_yticks, 0)):
        set_ticks(range(0, n, step), names[::step], rotation=rotation, fontsize=size, parse_math=False)
    axes.tick_params(length=0 if step == 1 else 2)
    if n <= _NUMBERED_CLASSES:
        size = 7.5 if n <= 10 else 5.5
        for row, column in np.argwhere(counts > 0).tolist():
            axes.text(
                column, row, str(counts[row, column]), ha="center", va="center", fontsize=size, color=ink
            )
    axes.spines[:].set_visible(True)
    each = f" (a cell is {together} classes)" if together > 1 else ""
    axes.set_xlabel(f"predicted class{each}")
    axes.set_ylabel(f"true class{each}")
    return image


def _pooled(confusion: csr_array, together: int) -> npt.NDArray[np.int64]:
    """Add up the counts of `together` neighboring classes, as a dense matrix."""
    pairs, n = confusion.tocoo(), -(-confusion.shape[0] // together)
    counts = np.zeros((n, n), np.int64)
    np.add.at(counts, (pairs.row // together, pairs.col // together), pairs.data)
    return counts


def confusion_side(n_classes: int) -> float:
    """Return the side in inches at which a confusion matrix with its names is legible."""
    return float(np.clip(2.4 + 0.14 * n_classes, 3.2, 6.0))


def _shorten(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _is_drawable(text: str) -> bool:
    return all(ord(letter) in _letters() for letter in text)


@cache
def _letters() -> frozenset[int]:
    """Return the code points that matplotlib's font has."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())
