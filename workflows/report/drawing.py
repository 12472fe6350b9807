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

# The page replaces these placeholders by the colors of its theme.
INK, MUTED, GRID, ACCENT = "#010101", "#010102", "#010103", "#010104"
SERIES = tuple(f"#0102{number:02x}" for number in range(1, 9))
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--line)", ACCENT: "var(--accent)"} | {
    color: f"var(--c{number})" for number, color in enumerate(SERIES)
}
# matplotlib's marker, and the letter that looks like it.
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
# XML 1.0 §2.2: what is no Char.
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
    # Names of data sets and classes are never formulas.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Panel:
    """A drawing with its heading."""

    heading: str
    drawing: Markup


@dataclass(frozen=True)
class Key:
    """How a method is drawn: matplotlib's marker and color; for the page a letter and a color's number."""

    marker: str
    color: str
    letter: str
    number: int


def make_legend(methods: Sequence[str]) -> dict[str, Key]:
    """Give each method its marker and color: 64 of them differ."""
    markers, legend = list(MARKERS.items()), {}
    for at, method in enumerate(methods):
        number = at % len(SERIES)
        marker, letter = markers[(at + at // len(SERIES)) % len(markers)]
        legend[method] = Key(marker, SERIES[number], letter, number)
    return legend


@contextmanager
def drawing(width: float = 3.6, height: float = 2.6) -> Iterator[tuple[Figure, Axes]]:
    """Give a figure of so many inches, and its axes, in the page's style; the page scales it."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The browser has the letters that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def to_svg(figure: Figure, *, name: str, label: str, tips: Mapping[str, str] | None = None) -> Markup:
    """Make a figure a part of a page; to be called within `drawing`.

    Parameters
    ----------
    name : str
        Unique on the page: ids of the drawing begin with it.
    label : str
        What it shows, for those who do not see it.
    tips : mapping, optional
        ``gid`` of an artist to the text that shows when one points at it.
    """
    file = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(file.getvalue())  # noqa: S314  (matplotlib's own text)
    for parent in list(root.iter()):
        for child in list(parent):
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
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-label": label})
    text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)
    return Markup(text)  # noqa: S704  (written by an XML writer, which escapes every name)


def drawable(text: str, length: int = 60) -> str:
    """Cut a name to its end and leave out what no XML may hold, so that it can stand in a drawing."""
    plain = _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
    return plain if len(plain) <= length else f"…{plain[1 - length :]}"


def plain_ticks(axes: Axes) -> None:
    """Label a logarithmic x-axis by plain numbers, more of them where it spans little."""
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _position: f"{number:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", color=GRID)


def _adapted(key: str, value: str, name: str) -> str:
    """Give an attribute its place on the page: ids of its own, the page's colors."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    if key in ("style", "fill", "stroke"):
        for color, variable in _VARIABLES.items():
            value = value.replace(color, variable)
    return value.replace("url(#", f"url(#{name}-")
