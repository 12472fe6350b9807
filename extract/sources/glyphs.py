# ruff: noqa: RUF001  (characters of many scripts are the data of this module)
"""Characters are drawn from fonts, for the pretraining of the embedded backbone and the data set ``greek``.

The fonts are those inside the matplotlib package, so that the same images can be drawn wherever toptune
is installed. ``SOURCE_SCRIPTS`` are the classes of the pretraining task. None of them is a digit in any
script, and none of them *looks* like a digit or like a lower-case Greek letter: a character was left out
when its `shape_similarity` to one of those exceeds `MAX_SIMILARITY` in any of `SIMILARITY_FONTS` (which
removes S, B, O, I, l and many more), and when it nearly repeats one already in the list. The rule sees
upright drawings within one typeface: remoter likenesses (Z and 2, b and 6) stay.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from toptune.errors import InputError

DIGITS = "0123456789"
GREEK = "αβγδεζηθικλμνξπρςστυφχψω"  # without omicron, which is drawn as the Latin o

SOURCE_SCRIPTS = {
    "latin": "ACFGLMNRUVWXZabdfkræħ",
    "cyrillic": "БДЖЙЛФЦЧЩЪЫЮЯфђљњґѣѵѫ",
    "armenian": "ԳԴԵԶԷԸԹԺԻԽԾԿՀՁՃՆՇՊՌՎՒՔՖէթխկմնչպվփֆ",
    "georgian": "აბზკლოპრსტფქღძჭჯ",
    "hebrew": "אבגדזיךכלמפץצקרש",
    "tifinagh": "ⴰⴲⴳⴵⴻⴼⴽⴾⴿⵁⵂⵃⵄⵆⵇⵈⵉⵋⵌⵎⵐⵑⵒⵓⵖⵗⵘⵚⵛⵜⵞⵠⵢⵣⵤ",
    "arrows": "←↖↗↩↪↯↰↱↶↷↺↻⇄⇐⇑⇝⇦",
    "mathematical": "∇∈∉∋∓±×÷√∝∞∟∠∢∧∩∫∮∴∵∷∼∾≀≅≈≍≎≏≐≒≠≡≣≤≥≪≬≮≶⊂⊄⊆⊏⊓⊕⊗⊞⊠⊡⊢⊣⊥⊨⊩⊬⊰⊲⊳⊸⋀⋈⋋⋐⋔⋕⋖⋚⋞⋢⋮⋯⋰⋱",
    "technical": "⌂⌐⌘⌤⌥⌦⏎",
    "geometric": "■▣▤▬▲△▷▸◀◁◆◇◊◍◎◐◑◒◔◕◖◘◢◣◩◬◿",
    "other": "☀☁☂☃★☆☍☎☏☐☑☓☘☙☚☛☜☝☠☢☤☼☽☾☿♀♂♃♄♅♔♕♖♗♘♙♝♞♡♢♤♥♧♨♩♪♫♬♭♮♲♻⚐⚑⚒⚓⚔⚖⚗⚙⚚⚛⚜⚡⚢⚤⚥",
    "signs": "&@$%§¶©£¢¤‡*^>=)¿‰«»",
}
MAX_SIMILARITY = 0.8
SIMILARITY_FONTS = ("DejaVuSans", "DejaVuSerif", "STIXGeneral")

PRETRAINING_FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
)
HELD_OUT_FONTS = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta")
_POINTS = 96  # drawn this large, then reduced


def source_characters() -> list[str]:
    """Return the characters of the pretraining task, script after script."""
    return [character for script in SOURCE_SCRIPTS.values() for character in script]


def has_glyph(character: str, font: str) -> bool:
    """Say whether ``font`` really draws ``character``.

    The Computer Modern fonts place other glyphs at many code points; they count for Latin letters only.
    """
    if font.startswith("cm") and not (character.isascii() and character.isalpha()):
        return False
    return ord(character) in _charmap(font)


@cache
def draw_ink(character: str, font: str) -> Image.Image:
    """Draw ``character`` in white on black at 96 points, cut to its ink (mode L).

    Raises
    ------
    InputError
        The font is not in matplotlib's package, or does not have the character.
    """
    if not has_glyph(character, font):
        raise InputError(f"font {font} has no glyph for {character!r}; choose another font or character")
    # The layout is basic, because Raqm is not in every build of Pillow and could shape the character
    # differently.
    face = ImageFont.truetype(str(_font_file(font)), _POINTS, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = (int(edge) for edge in face.getbbox(character))
    image = Image.new("L", (max(1, right - left), max(1, bottom - top)), 0)
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=face)
    return image


def render(character: str, font: str, *, size: int = 48, ink: int = 34) -> NDArray[np.uint8]:
    """Draw ``character`` so that the longer side of its ink measures ``ink`` pixels, centered.

    Parameters
    ----------
    character, font : str
        A character, and the name of a font file of matplotlib without ``.ttf``.
    size, ink : int
        Side of the image and of the ink's box in pixels.

    Returns
    -------
    ndarray of uint8, shape (size, size)
        255 is ink.

    Raises
    ------
    InputError
        As `draw_ink`, or ``ink`` does not fit into ``size``.
    """
    if not 0 < ink <= size:
        raise InputError(f"ink={ink} must lie between 1 and size={size}")
    drawn = draw_ink(character, font)
    scale = ink / max(drawn.size)
    reduced = drawn.resize(
        (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))), Image.Resampling.BOX
    )
    canvas = Image.new("L", (size, size), 0)
    canvas.paste(reduced, ((size - reduced.width) // 2, (size - reduced.height) // 2))
    return np.asarray(canvas, dtype=np.uint8)


def distort(
    image: NDArray[np.uint8],
    random: np.random.Generator,
    *,
    size: int,
    rotation_degrees: float = 12.0,
    shear: float = 0.2,
    shift: float = 0.06,
    elastic: float = 0.03,
    blur: tuple[float, float] = (0.6, 1.4),
    noise: float = 0.08,
) -> NDArray[np.uint8]:
    """Return a randomly deformed, reduced, blurred and noisy copy of a white-on-black image.

    Parameters
    ----------
    image : ndarray of uint8, shape (s, s)
        A rendered character.
    random : numpy.random.Generator
        Source of every choice; the same state gives the same image.
    size : int
        Side of the result in pixels.
    rotation_degrees, shear : float
        Largest rotation and shear to either side.
    shift, elastic : float
        Largest shift, and standard deviation of the elastic displacements, as fractions of the side.
    blur : (float, float)
        Range of the Gaussian blur before reduction, in pixels of ``image`` per 48 pixels of side.
    noise : float
        Largest standard deviation of additive noise as a fraction of full scale.

    Returns
    -------
    ndarray of uint8, shape (size, size)
    """
    side = image.shape[0]
    angle = np.deg2rad(random.uniform(-rotation_degrees, rotation_degrees))
    rotate = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotate @ np.array([[1.0, random.uniform(-shear, shear)], [0.0, 1.0]])
    matrix = matrix / random.uniform(0.75, 1.1, size=2)  # columns: one scale per axis
    center = (side - 1) / 2 * (1 + random.uniform(-2 * shift, 2 * shift, size=2))
    # The image is sampled at the centers of the result's pixels, after a blur that keeps the reduction from
    # aliasing.
    axis = (np.arange(size) + 0.5) * side / size - 0.5
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij")) - (side - 1) / 2
    coarse = random.normal(0.0, elastic * side, size=(2, 4, 4))
    bend = np.stack([ndimage.zoom(c, size / 4, order=3, grid_mode=True, mode="nearest") for c in coarse])
    where = np.einsum("ij,jhw->ihw", matrix, grid) + center[:, None, None] + bend
    smooth = ndimage.gaussian_filter(image.astype(np.float32), random.uniform(*blur) * side / 48)
    values = ndimage.map_coordinates(smooth, where, order=1, mode="constant", cval=0.0) / 255.0
    values = values * random.uniform(0.5, 1.0) + random.uniform(0.0, 0.15)
    values = values + random.normal(0.0, random.uniform(0.0, noise), size=values.shape)
    gray: NDArray[np.uint8] = np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)
    return gray


def shape_similarity(characters: str, others: str, font: str) -> NDArray[np.float64]:
    """Return the correlations of characters' blurred, size-free shapes in one font.

    Returns
    -------
    ndarray of float64, shape (len(characters), len(others))
        Correlations in [-1, 1]; rows and columns of characters that the font lacks are -1.
    """
    left, right = (np.stack(list(_shapes(text, font))) for text in (characters, others))
    known = np.outer(np.any(left != 0, axis=1), np.any(right != 0, axis=1))
    return np.where(known, left @ right.T, -1.0)


def _shapes(characters: str, font: str) -> Iterator[NDArray[np.float64]]:
    for character in characters:
        if not has_glyph(character, font):
            yield np.zeros(32 * 32)
            continue
        shape = ndimage.gaussian_filter(render(character, font, size=32, ink=24).astype(float), 1.0).ravel()
        shape -= shape.mean()
        yield shape / np.linalg.norm(shape)


def _font_file(font: str) -> Path:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    if not path.is_file():
        raise InputError(
            f"matplotlib {matplotlib.__version__} ships no font {font}; is its data folder whole?"
        )
    return path


@cache
def _charmap(font: str) -> frozenset[int]:
    return frozenset(FT2Font(str(_font_file(font))).get_charmap())
