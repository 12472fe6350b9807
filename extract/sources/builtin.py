"""Two data sets need no download: ``digits`` and ``greek``."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from toptune.errors import InputError
from toptune.extract.sources.glyphs import GREEK, HELD_OUT_FONTS, distort, render
from toptune.store.datasets.manifest import Manifest

BUILTINS = {
    "digits": "1,797 scanned handwritten digits, 8x8 gray, 10 classes (scikit-learn's load_digits)",
    "greek": "1,200 drawn lower-case Greek letters, 20x20 gray, distorted, in eight fonts, 24 classes",
}
GREEK_FONTS = (*HELD_OUT_FONTS, "DejaVuSans", "DejaVuSansMono-Bold", "DejaVuSerif", "DejaVuSerif-Italic")
GREEK_PER_CLASS = 50
_GREEK_NAMES = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho final-sigma sigma tau "
    "upsilon phi chi psi omega"
)
_GREEK_SEED = 1821


@dataclass(frozen=True)
class BuiltinSource:
    """An image source whose images are held in memory.

    Attributes
    ----------
    name : str
        Name of the data set.
    ids, labels : tuple of str
        Id and label of each image, in the fixed order of the rows.
    pngs : tuple of bytes
        The images, PNG encoded.
    """

    name: str
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    pngs: tuple[bytes, ...]

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.ids)

    @cached_property
    def _manifest(self) -> Manifest:
        return Manifest.from_columns(
            ids=list(self.ids),
            labels=list(self.labels),
            splits=[None] * self.n,
            sizes=[len(png) for png in self.pngs],
        )

    def manifest(self) -> Manifest:
        """Return ids, labels and sizes; the built-in sets have no splits of their own."""
        return self._manifest

    def read(self, row: int) -> bytes:
        """Return the PNG bytes of image ``row``, counted from 0."""
        if not 0 <= row < self.n:
            raise InputError(f"{self.name} has rows 0 to {self.n - 1}, not {row}")
        return self.pngs[row]


def open_builtin(name: str, split: str | None = None) -> BuiltinSource:
    """Open a built-in data set.

    Parameters
    ----------
    name : str
        A key of `BUILTINS`.
    split : str, optional
        Must be None, because the built-in sets have no splits; ``train`` makes a split from a seed.

    Returns
    -------
    BuiltinSource
        The same bytes at every call on one machine.

    Raises
    ------
    InputError
        The name is unknown, or a split was asked for.
    """
    if name not in _MAKERS:
        raise InputError(f"no built-in data set {name!r}; there are: {', '.join(BUILTINS)}")
    if split is not None:
        raise InputError(f"the built-in data set {name} has no split {split!r}; leave --split away")
    return _MAKERS[name]()


@cache
def _digits() -> BuiltinSource:
    images, targets = load_digits(return_X_y=True)
    # scikit-learn's digits have 17 levels of gray, from 0 to 16.
    gray = np.rint(images.reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    return BuiltinSource(
        name="digits",
        ids=tuple(f"digits/{row:04d}" for row in range(len(gray))),
        labels=tuple(str(target) for target in targets),
        pngs=tuple(_png(image) for image in gray),
    )


@cache
def _greek() -> BuiltinSource:
    random = np.random.default_rng(_GREEK_SEED)
    letters = dict(zip(_GREEK_NAMES.split(), GREEK, strict=True))
    names = [(name, copy) for name in letters for copy in range(GREEK_PER_CLASS)]
    return BuiltinSource(
        name="greek",
        ids=tuple(f"greek/{name}/{copy:02d}" for name, copy in names),
        labels=tuple(name for name, _ in names),
        pngs=tuple(_png(_greek_image(letters[name], copy, random)) for name, copy in names),
    )


def _greek_image(letter: str, copy: int, random: np.random.Generator) -> NDArray[np.uint8]:
    drawn = render(letter, GREEK_FONTS[copy % len(GREEK_FONTS)], size=40, ink=28)
    return distort(drawn, random, size=20)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


_MAKERS: dict[str, Callable[[], BuiltinSource]] = {"digits": _digits, "greek": _greek}
