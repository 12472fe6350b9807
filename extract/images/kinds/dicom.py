"""DICOM by pydicom: one frame, with the rescale, window and photometric interpretation of its file."""

import io
from typing import Any

import numpy.typing as npt

from toptune.errors import UnreadableImageError
from toptune.extract.images.kinds.values import Before, Values, checked_shape, library
from toptune.text import counted

MARK = slice(128, 132), b"DICM"
_WHAT = "a DICOM file"
# How pydicom begins where no decoder that is installed decodes a compression.
_UNDECODED = "Unable to dec"
_ADVICE = (
    "; pip install python-gdcm, or pylibjpeg and pylibjpeg-libjpeg, which decode more, or save the file "
    "without compression"
)
_GRAY = ("MONOCHROME1", "MONOCHROME2")


def read(data: bytes, before: Before, *, is_scaled: bool) -> Values:
    """Read the frame of a DICOM file.

    Stored values are rescaled (modality LUT: Hounsfield units, for instance). Where no scale is stated, the
    first window of the file, or its VOI LUT, says black and white, and without them the stored bits of
    unsigned values. ``MONOCHROME1`` is inverted; palettes and YBR become RGB.

    Parameters
    ----------
    data : bytes
        The bytes of the file.
    before : callable
        Refuses what is too large.
    is_scaled : bool
        Whether a scale is stated, so that the window is not applied.

    Raises
    ------
    UnreadableImageError
        If pydicom is not installed, the file is damaged, holds no image or several frames.
    """
    pydicom = library("pydicom", extra="toptune[dicom]", what=_WHAT)
    pixels = library("pydicom.pixels", extra="toptune[dicom]", what=_WHAT)
    try:
        return _frame(pydicom.dcmread(io.BytesIO(data)), pixels, before, is_scaled=is_scaled)
    except UnreadableImageError:
        raise
    except Exception as error:  # a damaged file may make pydicom raise anything
        # pydicom puts what each decoder lacks or says on a line of its own.
        reason = "; ".join(line.strip() for line in str(error).splitlines()) or type(error).__name__
        kind = "not supported" if isinstance(error, NotImplementedError | RuntimeError) else "damaged"
        advice = _ADVICE if reason.startswith(_UNDECODED) else ""
        raise UnreadableImageError(f"{kind}: {_WHAT}: {reason.replace(':;', ':'):.400}{advice}") from error


def _frame(file: Any, pixels: Any, before: Before, *, is_scaled: bool) -> Values:
    names = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    if not any(name in file for name in names):
        raise UnreadableImageError(f"not supported: {_WHAT} without an image; take it out of the data set")
    frames = int(file.get("NumberOfFrames") or 1)
    if frames != 1:
        raise UnreadableImageError(
            f"not supported: {_WHAT} of {counted(frames, 'frame')}, and a row is one image; save each frame "
            "as a file"
        )
    rows, columns, samples = int(file.Rows), int(file.Columns), int(file.get("SamplesPerPixel") or 1)
    before(columns, rows, rows * columns * samples * max(1, int(file.BitsAllocated) // 8))
    kind = str(file.PhotometricInterpretation)
    stored = pixels.pixel_array(file)
    if kind == "PALETTE COLOR":
        stored = pixels.apply_color_lut(stored, file)[..., :3]
    height, width, bands = checked_shape(stored.shape, stored.dtype, _WHAT)
    if kind not in _GRAY:
        bits = 8 * stored.dtype.itemsize if kind == "PALETTE COLOR" else int(file.BitsStored)
        said = (0.0, float(2**bits - 1)) if stored.dtype.kind == "u" else None
        return Values(stored.reshape(height, width, bands), _WHAT, declared=said, bits=bits)
    found, declared, bits = _gray(file, pixels, stored, is_scaled=is_scaled)
    return Values(
        found.reshape(height, width, bands),
        _WHAT,
        declared=declared,
        bits=bits,
        is_inverted=kind == "MONOCHROME1",
        # A slope below 0 turns the range around, and black stays the least value.
        type_range=(min(_range(file)), max(_range(file))) if stored.dtype.kind in "iu" else None,
    )


def _gray(
    file: Any, pixels: Any, stored: npt.NDArray[Any], *, is_scaled: bool
) -> tuple[npt.NDArray[Any], tuple[float, float] | None, int | None]:
    """Return gray values, what of them is black and white, and the bits of values that have no window."""
    rescaled = pixels.apply_modality_lut(stored, file)
    if is_scaled:
        return rescaled, None, None
    if file.get("VOILUTSequence"):
        depth = int(file.VOILUTSequence[0].LUTDescriptor[2])
        return pixels.apply_voi_lut(rescaled, file), (0.0, float(2**depth - 1)), None
    if "WindowCenter" in file and "WindowWidth" in file:
        return pixels.apply_windowing(rescaled, file), _range(file), None
    if stored.dtype.kind != "u":
        return rescaled, None, None
    bits = int(file.BitsStored)
    return stored, (0.0, float(2**bits - 1)), bits


def _range(file: Any) -> tuple[float, float]:
    """Return the values between which pydicom's windowing puts its results: what can be stored, rescaled."""
    bits, low = int(file.BitsStored), 0
    if "ModalityLUTSequence" in file:
        bits = int(file.ModalityLUTSequence[0].LUTDescriptor[2])
    elif int(file.PixelRepresentation):
        low = -(2 ** (bits - 1))
    high = low + 2**bits - 1
    if file.get("RescaleSlope") is None or file.get("RescaleIntercept") is None:
        return float(low), float(high)
    slope, intercept = float(file.RescaleSlope), float(file.RescaleIntercept)
    return low * slope + intercept, high * slope + intercept
