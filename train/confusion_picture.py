"""A confusion matrix as a picture, readable up to about a hundred classes.

Drawn by Pillow: matplotlib takes half a second for the names of a hundred classes, longer than many a fit.
"""

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

_NUMBERED_CLASSES = 30
_NAMED_CLASSES = 100
# Pixels: of letters, of the least and the largest matrix, and around it.
_TEXT, _SMALL_TEXT, _TITLE = 13, 9, 15
_LEAST, _LARGEST = 300, 2200
_GAP, _LINE, _BAR_WIDTH, _BAR = 6, 24, 90, 20
_INK = (38, 38, 38)
# ColorBrewer's "Blues", from a share of 0 to 1.
_BLUES = np.array(
    [
        (247, 251, 255), (222, 235, 247), (198, 219, 239), (158, 202, 225), (107, 174, 214),
        (66, 146, 198), (33, 113, 181), (8, 81, 156), (8, 48, 107),
    ]
)  # fmt: skip


def save_confusion_picture(
    path: Path, confusion: npt.ArrayLike, classes: Sequence[str], *, title: str = ""
) -> None:
    """Write a confusion matrix (n_classes, n_classes), true x predicted, as a PNG.

    Colours are shares of each true class; cells carry counts up to 30 classes, axes carry names up
    to 100 and every tenth position beyond.
    """
    counts = np.asarray(confusion, dtype=np.int64)
    n = len(classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    is_numbered = n <= _NUMBERED_CLASSES
    size, per_class = (_TEXT, 22) if is_numbered else (_SMALL_TEXT, 14)
    cell = max(1, round(float(np.clip(per_class + 150 / n, _LEAST / n, _LARGEST / n))))
    side = n * cell
    names = _names(classes, cell=cell, size=size)
    margin, top = _LINE + names.width + 2 * _GAP, 2 * _LINE
    # Names below the matrix are those beside it, turned.
    picture = Image.new("RGB", (margin + side + _BAR_WIDTH, top + side + margin), "white")
    draw = ImageDraw.Draw(picture)
    cells = Image.fromarray(_colors(shares)).resize((side, side), Image.Resampling.NEAREST)
    picture.paste(cells, (margin, top))
    draw.rectangle((margin - 1, top - 1, margin + side, top + side), outline=_INK)
    picture.paste(names, (margin - _GAP - names.width, top))
    picture.paste(names.transpose(Image.Transpose.ROTATE_90), (margin, top + side + _GAP))
    if is_numbered:
        for row, column in np.argwhere(counts > 0).tolist():
            center = (margin + (column + 0.5) * cell, top + (row + 0.5) * cell)
            color = "white" if shares[row, column] > 0.5 else "black"
            draw.text(center, str(counts[row, column]), fill=color, font=_font(size), anchor="mm")
    font = _font(_TEXT)
    middle = (margin + side // 2, top + side // 2)
    draw.text((middle[0], picture.height - _GAP), "predicted class", fill=_INK, font=font, anchor="ms")
    _paste_turned(picture, "true class", (_GAP + _TEXT // 2, middle[1]))
    if title:
        shown = "".join(each if _is_drawable(each) else "?" for each in title)
        fitting = _TITLE * min(1.0, 0.95 * picture.width / _font(_TITLE).getlength(shown))
        draw.text((picture.width / 2, _LINE), shown, fill=_INK, font=_font(fitting), anchor="mm")
    _draw_bar(picture, draw, left=margin + side + _LINE, top=top + side // 8, height=side * 3 // 4)
    picture.save(path, compress_level=1)


def _names(classes: Sequence[str], *, cell: int, size: int) -> Image.Image:
    """Class names under one another, each beside its row, ending at the right edge."""
    n = len(classes)
    if n <= _NAMED_CLASSES:
        shown = {row: _short(name, row) for row, name in enumerate(classes)}
    else:
        shown = {row: str(row) for row in range(0, n, max(10, 10 * (n // 400)))}
    font = _font(size)
    width = int(max(map(font.getlength, shown.values()))) + 1
    strip = Image.new("RGB", (width, n * cell), "white")
    draw = ImageDraw.Draw(strip)
    for row, name in shown.items():
        draw.text((width, (row + 0.5) * cell), name, fill=_INK, font=font, anchor="rm")
    return strip


def _draw_bar(picture: Image.Image, draw: ImageDraw.ImageDraw, *, left: int, top: int, height: int) -> None:
    """Draw the scale of the colours."""
    shares = np.linspace(1, 0, height)[:, None].repeat(_BAR, axis=1)
    picture.paste(Image.fromarray(_colors(shares)), (left, top))
    draw.rectangle((left - 1, top - 1, left + _BAR, top + height), outline=_INK)
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        at = (left + _BAR + _GAP // 2, top + (1 - share) * height)
        draw.text(at, f"{share:.1f}", fill=_INK, font=_font(_SMALL_TEXT), anchor="lm")
    _paste_turned(picture, "share of the true class", (left + _BAR + _LINE + _GAP, top + height // 2))


def _paste_turned(picture: Image.Image, text: str, center: tuple[int, int]) -> None:
    font = _font(_TEXT)
    line = Image.new("RGB", (int(font.getlength(text)) + 1, _LINE), "white")
    ImageDraw.Draw(line).text((line.width / 2, _LINE / 2), text, fill=_INK, font=font, anchor="mm")
    turned = line.transpose(Image.Transpose.ROTATE_90)
    picture.paste(turned, (center[0] - turned.width // 2, center[1] - turned.height // 2))


def _colors(shares: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    at = np.linspace(0, 1, len(_BLUES))
    channels = [np.interp(shares, at, channel) for channel in _BLUES.T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _short(name: str, position: int) -> str:
    """Shorten a name to 28 letters; its number stands for one in a script that the font lacks."""
    if not _is_drawable(name):
        return f"#{position}"
    return name if len(name) <= 28 else name[:27] + "…"


@cache
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_font_file(), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def _font_file() -> str:
    """Find the font that every machine has: matplotlib's own, whose package need not be imported for it."""
    spec = find_spec("matplotlib")
    (folder,) = spec.submodule_search_locations if spec and spec.submodule_search_locations else ("",)
    return str(Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")


def _is_drawable(text: str) -> bool:
    """Whether the font has every letter."""
    if text.isascii() and text.isprintable():
        return True
    from matplotlib.ft2font import FT2Font

    font = FT2Font(_font_file())
    return all(font.get_char_index(ord(letter)) for letter in text)
