"""What a TIFF file says of its samples, read from its first directory without decoding anything."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from toptune.errors import UnreadableImageError
from toptune.text import counted

_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_KINDS = {1: "B", 3: "H", 4: "I", 16: "Q"}
# TIFF 6.0, section 8, and the supplements: the tags that say what the numbers of a pixel mean.
_WIDTH, _LENGTH = 256, 257
_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _PREDICTOR = 258, 259, 262, 277, 284, 317
_TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT, _SUBSAMPLING = 322, 323, 339, 530
_PHOTOMETRICS = {
    0: "white is zero",
    1: "black is zero",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "CIE L*a*b*",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "color filter array",
    34892: "linear raw",
}
_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "undefined", 5: "complex", 6: "complex"}
# libtiff takes differences of samples of whole bytes only.
_PREDICTED_BITS = (8, 16, 32, 64)
# No compression, CCITT, LZW, JPEG, Deflate and PackBits, which every libtiff has.
_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946)
_STATE_IT = (
    "pixels have no agreed range; state it with --scale MIN:MAX of extract, or save it with 8 or 16 bits, "
    "unsigned"
)
# Directories have about 20 entries; a damaged count must not make a loop of millions.
_MAX_ENTRIES = 4096


@dataclass(frozen=True)
class Tiff:
    """Tags of the first image of a TIFF file.

    Attributes
    ----------
    order : str
        ``<`` where the first byte of a number is its lowest, ``>`` where it is the highest.
    values : mapping of int to tuple of int
        Values by tag, of those tags that hold whole numbers.
    places : mapping of int to (int, str)
        Where in the file the value of a tag is, if it lies in the directory, and its code for `struct`.
    """

    order: str
    values: Mapping[int, tuple[int, ...]]
    places: Mapping[int, tuple[int, str]]

    @property
    def bits(self) -> int:
        """Bits of the widest sample."""
        return max(self.values.get(_BITS, (1,)))

    @property
    def has_size(self) -> bool:
        """Whether the file says how wide and how high the image is."""
        return self._first(_WIDTH, 0) > 0 and self._first(_LENGTH, 0) > 0

    @property
    def is_white_zero(self) -> bool:
        """Whether the file says that 0 is white."""
        return self.values.get(_PHOTOMETRIC) == (0,)

    @property
    def is_little_endian(self) -> bool:
        """Whether the first byte of a number is its lowest."""
        return self.order == "<"

    @property
    def is_well_known(self) -> bool:
        """Whether every libtiff decodes the compression."""
        return self._first(_COMPRESSION, 1) in _COMPRESSIONS

    @property
    def has_plain_differences(self) -> bool:
        """Whether gray samples are differences to the sample before, and are not compressed.

        libtiff and Pillow take sums only of what they decompress.
        """
        is_gray = self.values.get(_SAMPLES, (1,)) == (1,) and self.bits in (12, 16) and not self.tile_pixels
        return is_gray and self._first(_PREDICTOR, 1) == 2 and self._first(_COMPRESSION, 1) == 1

    @property
    def has_wide_planes(self) -> bool:
        """Whether 16-bit colors lie in planes of their own that are not compressed."""
        return self.bits == 16 and self._first(_PLANAR, 1) == 2 and self._first(_COMPRESSION, 1) == 1

    @property
    def tile(self) -> tuple[int, int]:
        """Width and height of a tile, which may be larger than the image; zeros where there are no tiles."""
        return self._first(_TILE_WIDTH, 0), self._first(_TILE_LENGTH, 0)

    @property
    def tile_pixels(self) -> int:
        """Pixels of one tile."""
        return self.tile[0] * self.tile[1]

    def __str__(self) -> str:
        bits = self.values.get(_BITS, (1,))
        counted_bits = counted(bits[0], "bit") if len(set(bits)) == 1 else f"{'/'.join(map(str, bits))} bits"
        formats = {_FORMATS.get(each, f"sample format {each}") for each in self._formats}
        kind = self._first(_PHOTOMETRIC, -1)
        samples = counted(self._first(_SAMPLES, 1), f"{' and '.join(sorted(formats))} sample")
        return (
            f"a TIFF of {samples} of {counted_bits}, "
            f"{_PHOTOMETRICS.get(kind, 'no color space' if kind < 0 else f'color space {kind}')}, "
            f"compression {self._first(_COMPRESSION, 1)}"
            + (", in planes" if self._first(_PLANAR, 1) == 2 else "")
            + (f", predictor {self._first(_PREDICTOR, 1)}" if _PREDICTOR in self.values else "")
        )

    @property
    def _formats(self) -> tuple[int, ...]:
        return self.values.get(_SAMPLE_FORMAT, (1,))

    def _first(self, tag: int, default: int) -> int:
        return next(iter(self.values.get(tag, ())), default)

    def _cannot_be_summed(self, *, is_plain: bool) -> bool:
        if is_plain:
            return self.bits > 8 and not self.has_plain_differences
        return self.bits not in _PREDICTED_BITS

    def refuse_unsupported(self) -> None:
        """Refuse samples without an agreed range, and features that Pillow reads wrongly or calls damage.

        Raises
        ------
        UnreadableImageError
            The message says what the file has.
        """
        reason = None
        is_plain = self._first(_COMPRESSION, 1) == 1
        if 3 in self._formats:
            reason = f"floating-point {_STATE_IT}"
        elif 2 in self._formats:
            reason = f"signed {_STATE_IT}"
        elif self._first(_PREDICTOR, 1) != 1 and self._cannot_be_summed(is_plain=is_plain):
            reason = "differences of such samples cannot be read; save it without a predictor"
        elif self.has_wide_planes and self._first(_PHOTOMETRIC, -1) != 2:
            reason = "such planes cannot be read; save it as RGB"
        elif is_plain and self._first(_PHOTOMETRIC, -1) == 6 and {*self.values.get(_SUBSAMPLING, ())} - {1}:
            # Subsampled colors that are not compressed are fewer bytes than Pillow reads.
            reason = "subsampled colors that are not compressed cannot be read; save it as RGB"
        if reason is not None:
            raise UnreadableImageError(f"not supported: {self}; {reason}")


def read_tiff(data: bytes) -> Tiff | None:
    """Read the tags of the first image; None if the bytes are no TIFF or end before its directory."""
    if data[:4] not in _MAGICS:
        return None
    order, is_big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    number, head, inline = ("Q", 16, 8) if is_big else ("I", 8, 4)
    values: dict[int, tuple[int, ...]] = {}
    places: dict[int, tuple[int, str]] = {}
    try:
        (start,) = struct.unpack_from(order + number, data, head - inline)
        (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, start)
        start += 8 if is_big else 2
        for entry in range(min(count, _MAX_ENTRIES)):
            at = start + entry * (20 if is_big else 12)
            tag, kind, n = struct.unpack_from(f"{order}HH{number}", data, at)
            at += 4 + inline
            if kind not in _KINDS or not n or n * struct.calcsize(order + _KINDS[kind]) > len(data):
                continue
            code = f"{order}{n}{_KINDS[kind]}"
            if struct.calcsize(code) > inline:
                (at,) = struct.unpack_from(order + number, data, at)
            else:
                places[tag] = at, code
            values[tag] = struct.unpack_from(code, data, at)
    except (struct.error, OverflowError):
        return None
    return Tiff(order, values, places)


def with_black_zero(data: bytes, tiff: Tiff) -> bytes:
    """Return the file with its color space changed from "white is zero" to "black is zero"."""
    at, code = tiff.places[_PHOTOMETRIC]
    value = struct.pack(code, 1)
    return data[:at] + value + data[at + len(value) :]
