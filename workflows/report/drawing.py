"""Drawings for a page: matplotlib's SVG whose colors are the page's, in its light and its dark theme."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from xml.etree import ElementTree

import matplotlib as mpl
from cycler import cycler
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# These colors are placeholders. They become variables of the page, so that one drawing serves the light and
# the dark theme.
INK, MUTED, GRID, ACCENT = "#010101", "#010102", "#010103", "#010104"
SERIES = tuple(f"#0102{number:02x}" for number in range(1, 9))
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", ACCENT: "var(--accent)"} | {
    color: f"var(--c{number})" for number, color in enumerate(SERIES)
}
# matplotlib's marker, and the letter that looks like it.
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
# Characters that XML 1.0 does not allow (section 2.2, the production Char).
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLE = {
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.prop_cycle": cycler(color=SERIES),
    "legend.frameon": False,
    "svg.fonttype": "none",
    # A name of a data set or a class may have dollar signs, and is never a formula.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Panel:
    """A drawing with its heading."""

    heading: str
    drawing: Markup


@dataclass(frozen=True)
class Key:
    """Marker and color of a method for matplotlib; a letter and the color's number for the page's legend."""

    marker: str
    color: str
    letter: str
    number: int


def make_legend(methods: Sequence[str]) -> dict[str, Key]:
    """Give each method a marker and a color; the first 64 methods get different pairs."""
    markers, legend = list(MARKERS.items()), {}
    for at, method in enumerate(methods):
        number = at % len(SERIES)
        marker, letter = markers[(at + at // len(SERIES)) % len(markers)]
        legend[method] = Key(marker, SERIES[number], letter, number)
    return legend


@contextmanager
def drawing(width: float = 3.6, height: float = 2.6) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure of a size in inches and its axes, in the style of the page, which scales the drawing."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The SVG holds text, which the browser draws with fonts that have the letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def to_svg(figure: Figure, *, name: str, label: str, tips: Mapping[str, str] | None = None) -> Markup:
    """Make a figure a part of a page; must be called within `drawing`.

    Parameters
    ----------
    figure : Figure
    name : str
        Name that no other drawing of the page has: all ids of the drawing begin with the name.
    label : str
        Description of the drawing for people who cannot see it.
    tips : mapping, optional
        ``gid`` of an artist to the text that shows when the mouse points at the artist.
    """
    file = io.BytesIO()
    # matplotlib derives ids from random numbers unless it has a salt; the salt makes equal pages equal
    # bytes.
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())  # noqa: S314  (matplotlib's own text)
    for parent in list(root.iter()):
        for child in list(parent):
            # A style element would apply to the whole page, and the metadata are of no use there.
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({key: _adapted(key, value, name) for key, value in attributes.items()})
        if tips and (tip := tips.get(attributes.get("id", ""))):
            title = ElementTree.Element("title")
            title.text = tip
            element.insert(0, title)
    for key in ("width", "height", "version"):
        # Without a size of its own the drawing takes the width that the page gives it.
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-label": label})
    text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)
    return Markup(text)  # noqa: S704  (written by an XML writer, which escapes every name)


def drawable(text: str, length: int = 60) -> str:
    """Make a name fit for a drawing: keep its end, and replace characters that XML does not allow."""
    plain = _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
    return plain if len(plain) <= length else f"…{plain[1 - length :]}"


def plain_ticks(axes: Axes) -> None:
    """Label a logarithmic x-axis with plain numbers, and with more numbers if the axis spans little."""
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _position: f"{number:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", color=GRID)


def _adapted(key: str, value: str, name: str) -> str:
    """Fit an attribute of an SVG element into the page: unique ids, and the page's colors."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    if key in ("style", "fill", "stroke"):
        for color, variable in _VARIABLES.items():
            value = value.replace(color, variable)
    return value.replace("url(#", f"url(#{name}-")
