"""Boxes: a part of an image file is a row, and a file is decoded once for boxes that follow each other."""

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from toptune.errors import UnreadableImageError

# The names of the columns of a manifest that hold a box.
COLUMNS = ("x0", "y0", "x1", "y1")
_MARK = b"toptune box 1 "
_UNITS = {True: b"shares", False: b"pixels"}
# The header is one short line.
_MOST_HEADER = 200

Size = tuple[int, int]
Image = TypeVar("Image")


@dataclass(frozen=True)
class Box:
    """A rectangle of an upright image.

    Attributes
    ----------
    x0, y0, x1, y1 : float
        Left, upper, right and lower edge, from the upper left corner.
    are_shares : bool
        Whether the edges are shares of the image's width and height, from 0 to 1; pixels otherwise.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    are_shares: bool = False

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge."""
        return self.x0, self.y0, self.x1, self.y1

    def __str__(self) -> str:
        return ",".join(f"{edge:.12g}" for edge in self.edges)

    @property
    def mark(self) -> int:
        """A number below 2^29 that differs for different boxes, but for one in 500 million."""
        return int.from_bytes(hashlib.sha256(self._header).digest()[:4], "big") >> 3

    @property
    def _header(self) -> bytes:
        return _MARK + _UNITS[self.are_shares] + b" " + str(self).encode() + b"\n"

    def wrapped(self, data: bytes) -> bytes:
        """Return the bytes of a file with the box before them, as sources give them to all readers.

        The digest of these bytes is that of the row: another box is another image.
        """
        return self._header + data

    def pixels(self, size: Size) -> tuple[int, int, int, int]:
        """Return the edges in whole pixels of an image of a width and height, to the nearest.

        Raises
        ------
        UnreadableImageError
            If the box leaves the image, or holds no pixel.
        """
        wide, high = size if self.are_shares else (1, 1)
        x0, y0, x1, y1 = (
            round(self.x0 * wide), round(self.y0 * high), round(self.x1 * wide), round(self.y1 * high)
        )  # fmt: skip
        if x0 < 0 or y0 < 0 or x1 > size[0] or y1 > size[1]:
            raise UnreadableImageError(
                f"the box {self} is not inside the image, which has {size[0]} x {size[1]} pixels; correct "
                "x0, y0, x1, y1, which count from the upper left corner of the upright image"
            )
        if x1 <= x0 or y1 <= y0:
            raise UnreadableImageError(
                f"the box {self} holds no pixel of the image, which has {size[0]} x {size[1]}; correct x0, "
                "y0, x1, y1, or take the row out"
            )
        return x0, y0, x1, y1


def unwrapped(data: bytes) -> tuple[Box | None, bytes | memoryview]:
    """Return the box before the bytes of a file, if there is one, and the file.

    Raises
    ------
    UnreadableImageError
        If there is a box that cannot be read.
    """
    if not data.startswith(_MARK):
        return None, data
    line, newline, _ = data[:_MOST_HEADER].partition(b"\n")
    words = line.removeprefix(_MARK).decode("ascii", "replace").split(" ")
    try:
        x0, y0, x1, y1 = map(float, words[1].split(","))
        box = Box(x0, y0, x1, y1, are_shares={b"shares": True, b"pixels": False}[words[0].encode()])
    except (ValueError, KeyError, IndexError):
        newline = b""
    if not newline or not all(map(math.isfinite, box.edges)):
        raise UnreadableImageError("damaged: its bytes begin like a box and go on otherwise")
    return box, memoryview(data)[len(line) + 1 :]


@dataclass
class _Slot(Generic[Image]):
    """One file: its lock, and the image or the reason why there is none."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    image: Image | None = None
    reason: str | None = None
    pixels: int = 0


class RecentImages(Generic[Image]):
    """The images that were decoded last, for threads that take several boxes of them.

    Parameters
    ----------
    pixels : int
        Pixels that all images together may have; the last image is kept whatever its size.
    """

    def __init__(self, pixels: int) -> None:
        self._most = pixels
        self._slots: OrderedDict[Hashable, _Slot[Image]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], tuple[Image, int]]) -> Image:
        """Return the image of a key, decoded by the first thread that asks; other threads wait for it.

        Parameters
        ----------
        key : hashable
            What decides the image.
        decode : callable
            Returns the image and its number of pixels.

        Raises
        ------
        UnreadableImageError
            If the image cannot be decoded, which is tried once, too.
        """
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
        with slot.lock:
            if slot.image is None and slot.reason is None:
                try:
                    slot.image, slot.pixels = decode()
                except UnreadableImageError as error:
                    slot.reason = str(error)
                self._forget(key)
        if slot.image is None:
            raise UnreadableImageError(slot.reason or "")
        return slot.image

    def _forget(self, last: Hashable) -> None:
        """Let go of the images that were asked for longest ago, until the others are few enough."""
        with self._lock:
            for key in list(self._slots):
                if sum(slot.pixels for slot in self._slots.values()) <= self._most and len(self._slots) <= 64:
                    break
                if key != last and (self._slots[key].image is not None or self._slots[key].reason):
                    del self._slots[key]
