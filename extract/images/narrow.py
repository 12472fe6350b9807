"""`NarrowImages`: images that use little of the range which their files declare are counted and told once."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from toptune.extract.images.samples import NARROW
from toptune.text import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NarrowImages:
    """How many images use a sixteenth of the declared range or less.

    Attributes
    ----------
    counts : mapping of int to int
        Number of images by the bits of a sample that their files declare.
    first : str or None
        Name of the first of them.
    """

    counts: Mapping[int, int] = field(default_factory=dict)
    first: str | None = None

    def with_rows(self, bits: Mapping[int, int], name: Callable[[int], str]) -> "NarrowImages":
        """Return the same with further images, by row and declared bits; `name` gives the name of a row."""
        if not bits:
            return self
        counts = dict(self.counts)
        for each in bits.values():
            counts[each] = counts.get(each, 0) + 1
        return NarrowImages(counts, name(min(bits)) if self.first is None else self.first)

    def __add__(self, other: "NarrowImages") -> "NarrowImages":
        bits = {*self.counts, *other.counts}
        counts = {each: self.counts.get(each, 0) + other.counts.get(each, 0) for each in sorted(bits)}
        return NarrowImages(counts, other.first if self.first is None else self.first)

    def __str__(self) -> str:
        images = " and ".join(
            f"{counted(n, 'image')} of {counted(bits, 'bit')}" for bits, n in sorted(self.counts.items())
        )
        uses = "uses" if sum(self.counts.values()) == 1 else "use"
        return (
            f"{images} {uses} 1/{NARROW} of the range or less, the first is {self.first}: to a model such an "
            "image is nearly black or all gray. If samples have fewer bits than their file says, such as 12 "
            "of 16, scale them to the full range or declare the depth (BitsPerSample of TIFF, sBIT of PNG), "
            "and extract again"
        )

    def warn(self) -> None:
        """Log a warning if there are such images."""
        if self.counts:
            logger.warning("%s [TT022]", self)
