"""The bytes of an image are decoded to upright RGB pixels."""

import dataclasses
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageFile

from toptune.errors import UnreadableImageError
from toptune.extract.images.formats import CONTAINERS, not_loaded, not_opened, readable
from toptune.extract.images.kinds.band_image import AnyImage, image_of
from toptune.extract.images.kinds.boxes import Box, RecentImages, unwrapped
from toptune.extract.images.kinds.heif import is_heif, open_heif
from toptune.extract.images.kinds.opening import read_values
from toptune.extract.images.kinds.quiet import quiet
from toptune.extract.images.kinds.reading import AS_DECLARED, Reading, scaled
from toptune.extract.images.kinds.tiff_tags import Tiff, read_tiff, with_black_zero
from toptune.extract.images.kinds.values import MOST_BYTES, Values
from toptune.extract.images.pixel_budget import PixelBudget, PixelShare
from toptune.extract.images.samples import (
    NARROW,
    Samples,
    color_of_low_bits,
    declared,
    gray,
    may_be_scaled,
    narrow_at_8_bits,
)
from toptune.store.features.recipe import ROUTES

DECODE = ROUTES["exact"]
# The route of new features unless the user names one.
AUTO, NEW_FEATURES = "auto", "fast"
# Routes that features may have been begun by, with which they go on.
EARLIER = {AUTO: ("exact", "exact-1"), "exact": ("exact-1",), "draft": ("draft-1",)}
# Pillow refuses more than this by itself, so a higher limit has no effect.
MAX_PIXELS = 178_956_970
# Decoding takes 4 to 10 bytes a pixel: all threads together stay below some 3 GB. Two of the largest images,
# or 29 photographs of 12 megapixels, are decoded at a time.
BUDGET = PixelBudget(2 * MAX_PIXELS)
# Images of which boxes were taken last, at 3 bytes a pixel beside the budget: one of the largest, or many.
_RECENT: "RecentImages[Decoded]" = RecentImages(MAX_PIXELS)
ORIENTATION = 0x0112
# EXIF 2.3 §4.6.4 A, tag Orientation: the transposition that brings the image upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Orientations that exchange width and height.
TURNED = (5, 6, 7, 8)
# Premultiplied colors are divided by their alpha before it is dropped.
_NOT_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}

Size = tuple[int, int]
# Called before pixels are decoded, with their number and the image's size.
Hold = Callable[[int, Size], None]
# Returns the pixels that are going to be made of an image of a width and height.
More = Callable[[Size], int]


@dataclass(frozen=True)
class Decoding:
    """How bytes become pixels.

    Attributes
    ----------
    draft_edge : int, optional
        Least length of the shorter edge in pixels, down to which a JPEG may be decoded at 1/2, 1/4 or 1/8 of
        its size (libjpeg's scaled inverse transform).
    version : {2, 1}
        Version 1 ignores what files say of samples of more than 8 bits; features were stored by it.
    reading : Reading
        What is stated of bands and of the range of their values.
    """

    draft_edge: int | None = None
    version: int = 2
    reading: Reading = AS_DECLARED


@dataclass(frozen=True)
class Decoded:
    """An image, upright, and what is known of its samples.

    Attributes
    ----------
    image : Image or BandImage
        The pixels: RGB, or as many bands as the `Reading` has channels.
    bits : int or None
        Bits of a sample as the file declares them; None for palettes and for black and white.
    uses_little : bool or None
        Whether samples of more than 8 bits use a sixteenth of their range or less; None for other samples.
    """

    image: AnyImage
    bits: int | None = None
    uses_little: bool | None = None

    def is_narrow(self, pixels: npt.NDArray[np.uint8]) -> bool:
        """Return whether the image uses a sixteenth of the declared range or less.

        Parameters
        ----------
        pixels : array of uint8
            The image as resized for a model, which spares a look at all pixels of most images.
        """
        if self.bits is None or self.uses_little is not None:
            return bool(self.uses_little)
        return (
            bool(pixels.max(initial=0) < 256 // NARROW)
            and isinstance(self.image, Image.Image)
            and narrow_at_8_bits(self.image)
        )


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, draft_edge: int | None = None, version: int = 2
) -> Image.Image:
    """Decode an image into upright 8-bit RGB.

    EXIF orientation is honored. Gray of more than 8 bits is scaled by the depth that the file declares, so
    that white becomes 255, and rounded; of 16-bit colors the high byte counts. Transparency is dropped, as
    timm does; CMYK, YCbCr, LAB, HSV, palette and 1-bit images are converted; an animation gives its first
    frame. Several threads may decode at once.

    Parameters
    ----------
    data : bytes
        The bytes of the image's file.
    max_pixels : int
        Larger images are refused by what their header says, before anything is decoded.
    draft_edge, version : int, optional
        See `Decoding`. What a box of a file is taken of is decoded whole.

    Raises
    ------
    UnreadableImageError
        If the bytes are no image in a format that is read, are damaged or cut off, or if the image is too
        large or has pixels without an agreed range, such as signed and floating-point ones.
    """
    with decoding(data, Decoding(draft_edge, version), max_pixels=max_pixels) as decoded:
        assert isinstance(decoded.image, Image.Image), "three channels"
        return decoded.image


@contextmanager
def decoding(
    data: bytes,
    how: Decoding,
    *,
    max_pixels: int = MAX_PIXELS,
    more: More | None = None,
) -> Iterator[Decoded]:
    """Decode an image, and hold its pixels in the budget of all threads until the block ends.

    Parameters
    ----------
    data : bytes
        The bytes of the image's file, perhaps with a `Box` before them.
    how : Decoding
        The route.
    max_pixels : int
        Larger images are refused by what their header says, before anything is decoded.
    more : callable, optional
        Returns the pixels that the caller is going to make of an image of a width and height.

    Yields
    ------
    Decoded
        The image.

    Raises
    ------
    UnreadableImageError
        As in `decode_image`.
    """
    if not data:
        raise UnreadableImageError("the file is empty")
    with BUDGET.share() as share:
        box, content = unwrapped(data)
        if box is None:
            yield _whole(data, how, max_pixels, share, more)
        else:
            yield _part(box, content, how, max_pixels, share, more)


def _whole(data: bytes, how: Decoding, max_pixels: int, share: PixelShare, more: More | None) -> Decoded:
    def hold(pixels: int, size: Size) -> None:
        share.hold(pixels if more is None else pixels + more(size))

    try:
        return _decode(data, how, max_pixels, hold)
    except MemoryError:
        pass
    # Other threads may have taken the memory: the image is tried once more while no other is decoded.
    share.hold_all()
    try:
        return _decode(data, how, max_pixels, None)
    except MemoryError:
        raise UnreadableImageError(
            "there is not enough memory for its pixels; shrink it, or run where there is more"
        ) from None


def _part(
    box: Box,
    content: bytes | memoryview,
    how: Decoding,
    max_pixels: int,
    share: PixelShare,
    more: More | None,
) -> Decoded:
    """Return the part of a file in a box; the file stays decoded for its next boxes."""
    # Edges are those of the whole image: it is never decoded at a fraction of its size.
    whole_size = dataclasses.replace(how, draft_edge=None)

    def decode() -> tuple[Decoded, int]:
        found = _whole(bytes(content), whole_size, max_pixels, share, None)
        return found, found.image.width * found.image.height

    whole = _RECENT.get((hashlib.sha256(content).digest(), whole_size, max_pixels), decode)
    edges = box.pixels(whole.image.size)
    size = edges[2] - edges[0], edges[3] - edges[1]
    share.hold(size[0] * size[1] + (0 if more is None else more(size)))
    return dataclasses.replace(whole, image=whole.image.crop(edges))


def _decode(data: bytes, how: Decoding, max_pixels: int, hold: Hold | None) -> Decoded:
    def before(width: int, height: int, n_bytes: int) -> None:
        _refuse_large((width, height), width * height, max_pixels)
        if n_bytes > MOST_BYTES:
            raise UnreadableImageError(
                f"{width} x {height} pixels of all bands take {n_bytes} bytes, more than the limit of "
                f"{MOST_BYTES}; cut it into parts"
            )
        if hold is not None:
            hold(width * height + n_bytes // 4, (width, height))

    with quiet():
        values = read_values(data, how.reading, before)
        if values is not None:
            return _of_values(values, how.reading)
        tiff = read_tiff(data)
        try:
            return _load(data, tiff, how, max_pixels, hold)
        except UnreadableImageError:
            if how.draft_edge is None:
                raise
        # What cannot be decoded at a fraction of its size may be whole.
        return _load(data, tiff, dataclasses.replace(how, draft_edge=None), max_pixels, hold)


def _load(data: bytes, tiff: Tiff | None, how: Decoding, max_pixels: int, hold: Hold | None) -> Decoded:
    is_opened = False
    try:
        # Pillow knows "white is zero" for samples of up to 8 bits, and hardly for more.
        is_inverted = how.version > 1 and tiff is not None and tiff.is_white_zero and tiff.bits > 8
        content = with_black_zero(data, tiff) if is_inverted and tiff is not None else data
        with _opened(content) as image:
            is_opened = True
            if how.version > 1 and tiff is not None:
                tiff.refuse_unsupported()
            # Pillow has read only the header here. A few kilobytes can stand for gigabytes of pixels.
            _refuse_large(image.size, image.size[0] * image.size[1], max_pixels)
            if how.draft_edge is not None and may_be_scaled(data):
                image.draft(None, _at_least(image.size, how.draft_edge))
            pixels = _pixels_in_memory(image, tiff, max_pixels)
            if hold is not None:
                hold(pixels, image.size)
            if how.version > 1 and tiff is not None and tiff.has_wide_planes:
                _read_whole_samples(image, tiff)
            image.load()
            # Cameras store pixels as the sensor lies, and the tag says how to turn them. timm's own loading
            # ignores the tag, and a photograph taken upright would lie on its side.
            orientation = orientation_of(image)
            if how.version == 1:
                return Decoded(_upright(_first_route(image), orientation))
            samples = declared(image, data, tiff, is_white_zero=is_inverted)
            if how.reading.is_stated:
                found = _of_values(_values_of(image, samples, how.reading), how.reading)
            else:
                found = _rgb_of(image, data, samples)
            return dataclasses.replace(found, image=_upright(found.image, orientation))
    except (UnreadableImageError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        # Pillow's own check comes before ours: "Image size (200000000 pixels) exceeds ..."
        found_size = re.search(r"\d+", str(error))
        raise UnreadableImageError(
            f"{found_size[0] if found_size else 'too many'} pixels, more than the limit of "
            f"{min(max_pixels, MAX_PIXELS)}; shrink it"
        ) from error
    except Exception as error:  # Pillow's plugins raise almost anything
        raise (not_loaded(data, error, tiff) if is_opened else not_opened(data)) from error


def _opened(content: bytes) -> Any:
    return open_heif(content) if is_heif(content) else Image.open(io.BytesIO(content), formats=readable())


def _of_values(values: Values, reading: Reading) -> Decoded:
    found = scaled(values, reading)
    image = _upright(image_of(found.pixels), values.orientation)
    return Decoded(image, found.bits, found.uses_little)


def _values_of(image: ImageFile.ImageFile, samples: Samples, reading: Reading) -> Values:
    """Return the bands of an image that Pillow has loaded: gray, or colors, with transparency beside them."""
    what, mode = f"an image of {image.format}", image.mode
    _refuse_floats(mode)
    if mode.startswith("I"):
        # The file's depth is the range, unless another one is stated.
        pixels = np.asarray(gray(image, samples)[0] if reading.scale is None else image)
    elif samples.bits is not None and samples.bits > 8 and reading.scale not in (None, "dtype"):
        raise UnreadableImageError(
            f"not supported: {what} with colors of {samples.bits} bits, of which Pillow reads 8; for --scale "
            f"{reading.scale} save it as TIFF"
        )
    else:
        kept = mode if mode in ("L", "LA", "RGB", "RGBA") else "L" if mode == "1" else "RGB"
        pixels = np.asarray(image.convert("L") if kept == "L" else image if mode == kept else _to_rgb(image))
    pixels = pixels.reshape(image.height, image.width, -1)
    white = 255.0 if pixels.dtype == np.uint8 else 65535.0
    has_alpha = pixels.shape[2] in (2, 4)
    return Values(pixels, what, has_alpha=has_alpha, declared=(0.0, white))


def _refuse_large(size: Size, pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise UnreadableImageError(
            f"{size[0]} x {size[1]} pixels, more than the limit of {max_pixels}; shrink it, "
            "or raise --max-pixels and extract again with --overwrite"
        )


def _pixels_in_memory(image: ImageFile.ImageFile, tiff: Tiff | None, max_pixels: int) -> int:
    """Return how many pixels the memory for decoding an opened image has room for."""
    if image.format in CONTAINERS:
        return MAX_PIXELS
    pixels = image.size[0] * image.size[1]
    if tiff is not None and tiff.tile_pixels > pixels:
        # libtiff decodes whole tiles, which may be larger than the image.
        _refuse_large(tiff.tile, tiff.tile_pixels, max_pixels)
        return pixels + tiff.tile_pixels
    return pixels


def _read_whole_samples(image: ImageFile.ImageFile, tiff: Tiff) -> None:
    """Let Pillow read planes of 16-bit samples, of which it would take every byte for a sample."""
    suffix = ";16L" if tiff.is_little_endian else ";16B"
    image.tile = [
        tile._replace(args=(f"{tile.args[0]}{suffix}", *tile.args[1:]))
        for tile in image.tile
        if isinstance(tile.args, tuple)
    ]


def _at_least(size: Size, edge: int) -> Size:
    """Return the size of the same shape whose shorter edge is `edge`."""
    short = max(1, min(size))
    return -(-size[0] * edge // short), -(-size[1] * edge // short)


def _rgb_of(image: ImageFile.ImageFile, data: bytes, samples: Samples) -> Decoded:
    _refuse_floats(image.mode)
    if image.mode.startswith("I"):
        found, uses_little = gray(image, samples)
        return Decoded(found.convert("RGB"), samples.bits, uses_little)
    low_bits = color_of_low_bits(image, data, samples)
    return Decoded(_to_rgb(image) if low_bits is None else low_bits, samples.bits)


def _first_route(image: Image.Image) -> Image.Image:
    """Turn pixels into RGB as version 1 of the routes does: all that is not 8 bits counts as 16."""
    _refuse_floats(image.mode)
    if not image.mode.startswith("I"):
        return _to_rgb(image)
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise UnreadableImageError(f"32-bit pixels from {low} to {high} have no agreed range; save 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def _refuse_floats(mode: str) -> None:
    # Pillow would clip such pixels at 255 without a word.
    if mode == "F":
        raise UnreadableImageError(
            "not supported: floating-point pixels have no agreed range; save it with 8 or 16 bits, unsigned"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert pixels of 8 bits or fewer."""
    mode = image.mode
    if mode == "RGB":
        return image
    if mode in ("P", "PA"):
        # The way leads through RGBA: a direct conversion loses which palette entries are transparent.
        has_alpha = mode == "PA" or "transparency" in image.info
        return (image.convert("RGBA") if has_alpha else image).convert("RGB")
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        if converted is None:  # only when asked to work in place
            raise UnreadableImageError("LAB pixels could not be converted")
        return converted
    if mode in _NOT_PREMULTIPLIED:
        image = image.convert(_NOT_PREMULTIPLIED[mode])
    return image.convert("RGB")


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF tag of an opened image, 1 where there is none or a damaged one."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001  (a damaged EXIF block does not make the pixels unreadable)
        return 1


def _upright(image: AnyImage, orientation: int) -> AnyImage:
    method = UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)
