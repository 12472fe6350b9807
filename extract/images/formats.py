"""Which image formats are read, and why a file is not: damage is told from what is not supported."""

import functools
import io
from collections.abc import Callable
from typing import Any, BinaryIO

from PIL import Image

from toptune.errors import UnreadableImageError
from toptune.extract.images.kinds.opening import has_mark
from toptune.extract.images.kinds.tiff_tags import Tiff, read_tiff
from toptune.extract.images.samples import jpeg_problem

# Formats that Pillow decodes within this process, in the order in which Pillow tries them. All others stay
# out: EPS runs Ghostscript, WMF and the stubs (BUFR, GRIB, HDF5) call handlers that other code registers,
# IPTC opens what it contains in any format, MIC and FPX need another library, MPEG is not decoded, FITS
# unpacks without a limit, and numbers of MCIDAS and FITS mean something only with their headers.
FORMATS = (
    *("BMP", "DIB", "GIF", "JPEG", "PPM", "PNG", "AVIF", "BLP", "CUR", "PCX", "DCX", "DDS", "FLI", "FTEX"),
    *("GBR", "JPEG2000", "ICNS", "ICO", "IM", "IMT", "TIFF", "MSP", "PCD", "PIXAR", "PSD", "QOI", "SGI"),
    *("SPIDER", "SUN", "TGA", "WEBP", "XBM", "XPM", "XVTHUMB"),
)
# Formats of which Pillow reads every variant, but for those that are told below: others are broken.
_WHOLLY_READ = ("GIF", "PPM", "PNG", "AVIF", "QOI", "WEBP", "JPEG", "TIFF")
# Formats with variants that Pillow does not read. Other formats have marks so short that any file may begin
# with them.
_PARTLY_READ = (
    *("BMP", "BLP", "DDS", "FTEX", "GBR", "JPEG2000", "ICNS", "ICO", "PCX", "PIXAR", "PSD", "SGI", "SUN"),
)
# Containers whose headers do not bind the size of the image inside.
CONTAINERS = ("CUR", "ICNS", "ICO")
# What a file is that no reader of toptune takes: the place and the bytes that tell, and its name.
_OTHERS = (
    (0, b"%!PS", "a PostScript file"),
    (0, b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (40, b" EMF", "a Windows metafile"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (0, b"II\xbc", "a JPEG XR image"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (0, b"#?RADIANCE", "a Radiance image"),
    (0, b"#?RGBE", "a Radiance image"),
    (0, b"P7\n", "a PAM image"),
    (0, b"SIMPLE  =", "a FITS file"),
    (344, b"n+1\x00", "a NIfTI file"),
    (0, b"GRIB", "a GRIB file"),
    (0, b"BUFR", "a BUFR file"),
    (0, b"\x00\x00\x01\xba", "an MPEG file"),
    (0, b"\x00\x00\x01\xb3", "an MPEG file"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an OLE file, such as FlashPix, MIC or an office document"),
    (0, b"gimp xcf", "a GIMP image"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML file"),
    (0, b"<!DOCTYPE", "an HTML page"),
    (0, b"<html", "an HTML page"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"AT&TFORM", "a DjVu file"),
)

_HEAD_BYTES = 256
_UNKNOWN = "not an image in a format that toptune reads"


@functools.cache
def readable() -> tuple[str, ...]:
    """Return the formats that are read and that this Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


class _Watched(io.BytesIO):
    """A file in memory that notes whether more was asked for than is there."""

    ran_out = False

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        if size is not None and len(found) < size:
            self.ran_out = True
        return found


def is_image(file: BinaryIO) -> bool:
    """Return whether a file can be opened as an image, or has the mark of another kind that is read."""
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if has_mark(head):
        return True
    try:
        with Image.open(file, formats=readable()):
            return True
    except Exception:  # noqa: BLE001  (plugins raise almost anything)
        return False


def other_kind(data: bytes) -> str | None:
    """Name the kind of a file that is known and not read; None for images and for unknown bytes."""
    for place, magic, name in _OTHERS:
        if data[place : place + len(magic)] == magic:
            return name
    if data[4:8] == b"ftyp" and not data[8:12].startswith(b"avi"):
        brand = data[8:12].decode("ascii", "backslashreplace")
        is_heif = brand in ("heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1")
        return "a HEIF image" if is_heif else f"an ISO media file of brand {brand!r}"
    return None


def not_opened(data: bytes) -> UnreadableImageError:
    """Say why Pillow does not open the bytes of a file as an image."""
    kind = other_kind(data)
    if kind is not None:
        return _not_supported(kind)
    for name in readable():
        opener, accept = Image.OPEN[name]
        try:
            # Formats without an `accept` have no mark of their own: they say nothing about other bytes.
            found = accept is not None and accept(data[:16])
        except Exception:  # noqa: BLE001, S112  (the mark is longer than the file)
            continue
        if isinstance(found, str):  # Pillow knows the format and was built without its decoder
            return UnreadableImageError(f"not supported: {found}")
        if found:
            return _refused_by(name, opener, data)
    return UnreadableImageError(_UNKNOWN)


def _refused_by(name: str, opener: Callable[..., Any], data: bytes) -> UnreadableImageError:
    """Say why the reader of a format, whose mark the file has, does not open it."""
    file = _Watched(data)
    try:
        opener(file, "")
        reason = "its size or kind is not what its header says"
    except Exception as error:  # noqa: BLE001  (plugins raise almost anything)
        reason = str(error) or type(error).__name__
    if name == "TIFF" and (tiff := read_tiff(data)) is not None and tiff.has_size:
        return UnreadableImageError(
            f"not supported: {tiff}; choose its bands with --bands and their range with --scale of extract, "
            "or save it as gray or RGB of 8 or 16 bits"
        )
    if name == "JPEG" and (problem := jpeg_problem(data)) is not None:
        return _not_supported(problem)
    if name in _WHOLLY_READ or (name in _PARTLY_READ and file.ran_out):
        return UnreadableImageError(f"damaged: {reason}")
    if name in _PARTLY_READ:
        return UnreadableImageError(f"not supported: {name}: {reason}; save it as PNG or JPEG")
    return UnreadableImageError(_UNKNOWN)


def not_loaded(data: bytes, error: Exception, tiff: Tiff | None) -> UnreadableImageError:
    """Say why the pixels of an opened image could not be decoded."""
    if data.startswith(b"\xff\xd8\xff") and (problem := jpeg_problem(data)) is not None:
        return _not_supported(problem)
    reason = str(error) or type(error).__name__
    if isinstance(error, NotImplementedError):
        return UnreadableImageError(f"not supported: {reason}; save it as PNG or JPEG")
    if tiff is not None and not tiff.is_well_known:
        return UnreadableImageError(f"not supported, or damaged: {tiff}: {reason}; save it as PNG or JPEG")
    return UnreadableImageError(f"damaged: {reason}")


def _not_supported(kind: str) -> UnreadableImageError:
    return UnreadableImageError(f"not supported: {kind}; save it as PNG or JPEG")
