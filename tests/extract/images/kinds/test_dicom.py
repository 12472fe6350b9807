"""DICOM files equal what pydicom makes of them: rescale, window, photometric interpretation."""

import io
from typing import Any

import numpy as np
import pytest

from toptune.extract.images.decode import Decoding, decode_image, decoding
from toptune.extract.images.kinds.reading import Reading
from toptune.store import UnreadableImageError

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
RNG = np.random.default_rng(0)


def dicom(values: np.ndarray, kind: str = "MONOCHROME2", **tags: Any) -> bytes:
    file = pydicom.dataset.FileDataset("", {}, preamble=bytes(128))
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.SOPClassUID, file.SOPInstanceUID = file.file_meta.MediaStorageSOPClassUID, "1.2.3"
    frames = values.shape[0] if tags.get("NumberOfFrames") else 1
    rows, columns = values.shape[1:3] if frames > 1 else values.shape[:2]
    file.Rows, file.Columns, file.PhotometricInterpretation = rows, columns, kind
    file.SamplesPerPixel = 3 if kind == "RGB" else 1
    if kind == "RGB":
        file.PlanarConfiguration = 0
    file.BitsAllocated = 8 * values.dtype.itemsize
    file.BitsStored = tags.pop("BitsStored", file.BitsAllocated)
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in tags.items():
        setattr(file, name, value)
    file.add_new("PixelData", "OW" if values.dtype.itemsize > 1 else "OB", values.tobytes())
    written = io.BytesIO()
    pydicom.dcmwrite(written, file, enforce_file_format=True)
    return written.getvalue()


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.floor((values.astype(np.float64) - low) * 255 / (high - low) + 0.5), 0, 255).astype(
        np.uint8
    )


def ct() -> np.ndarray:
    return RNG.integers(-1024, 3000, (16, 12)).astype(np.int16)


def test_a_window_says_black_and_white() -> None:
    data = dicom(ct(), RescaleSlope=1, RescaleIntercept=-24, WindowCenter=[40, 600], WindowWidth=[400, 2000])
    file = pydicom.dcmread(io.BytesIO(data))
    windowed = pydicom.pixels.apply_windowing(pydicom.pixels.apply_modality_lut(file.pixel_array, file), file)
    found = np.asarray(decode_image(data))
    np.testing.assert_array_equal(found[..., 0], rounded(windowed, -32768 - 24, 32767 - 24))
    # The formula of the standard, PS3.3 C.11.2.1.2.1, without pydicom.
    hounsfield = ct_of(file) - 24.0
    direct = np.clip(((hounsfield - 39.5) / 399 + 0.5) * 255, 0, 255)
    assert np.abs(found[..., 1] - direct).max() <= 0.5 + 1e-9


def ct_of(file: Any) -> np.ndarray:
    return np.asarray(file.pixel_array).astype(np.float64)


@pytest.mark.parametrize("slope", [1, -1, 0.5])
def test_windows_of_other_slopes_and_functions(slope: float) -> None:
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        tags: dict[str, Any] = {"WindowCenter": 500, "WindowWidth": 900, "VOILUTFunction": function}
        values = RNG.integers(0, 4096, (16, 12)).astype(np.uint16)
        data = dicom(values, BitsStored=12, RescaleSlope=slope, RescaleIntercept=3, **tags)
        file = pydicom.dcmread(io.BytesIO(data))
        shown = pydicom.pixels.apply_windowing(
            pydicom.pixels.apply_modality_lut(file.pixel_array, file), file
        )
        found = np.asarray(decode_image(data))[..., 2]
        np.testing.assert_array_equal(found, rounded(shown, 3, 4095 * slope + 3))


def test_a_stated_scale_is_of_rescaled_values() -> None:
    data = dicom(ct(), RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=40, WindowWidth=400)
    file = pydicom.dcmread(io.BytesIO(data))
    with decoding(data, Decoding(reading=Reading(scale="-1000:400"))) as decoded:
        found = np.asarray(decoded.image)
    np.testing.assert_array_equal(found[..., 0], rounded(2 * ct_of(file) - 1000, -1000, 400))
    # Rescaled values are floats, and their range is that of what can be stored, not 0 and 1.
    with decoding(data, Decoding(reading=Reading(scale="dtype"))) as decoded:
        found = np.asarray(decoded.image)
    np.testing.assert_array_equal(
        found[..., 0], rounded(2 * ct_of(file) - 1000, -2 * 32768 - 1000, 2 * 32767 - 1000)
    )


def test_stored_bits_are_the_range_of_unsigned_values_without_a_window() -> None:
    values = RNG.integers(0, 4096, (16, 12)).astype(np.uint16)
    plain = np.asarray(decode_image(dicom(values, BitsStored=12)))
    np.testing.assert_array_equal(plain[..., 0], rounded(values, 0, 4095))
    inverted = np.asarray(decode_image(dicom(values, "MONOCHROME1", BitsStored=12)))
    np.testing.assert_array_equal(inverted, 255 - plain)
    with decoding(dicom(values // 100, BitsStored=12), Decoding()) as decoded:
        assert (decoded.bits, decoded.uses_little) == (12, True)


def test_colors() -> None:
    values = RNG.integers(0, 256, (16, 12, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(decode_image(dicom(values, "RGB"))), values)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            lambda: dicom(np.zeros((3, 8, 8), np.uint8), NumberOfFrames=3),
            "of 3 frames, and a row is one image",
        ),
        (lambda: dicom(ct()), r"a DICOM file of (int16|float64) values from .* --scale MIN:MAX"),
        (lambda: dicom(ct(), WindowCenter=0, WindowWidth=0), "damaged: a DICOM file: The .* Window Width"),
        (lambda: dicom(ct())[:300], "a DICOM file"),
        (lambda: dicom(ct())[:-20], "damaged"),
        (lambda: bytes(128) + b"DICM", "a DICOM file"),
    ],
)
def test_files_that_cannot_be_read(data: Any, message: str) -> None:
    with pytest.raises(UnreadableImageError, match=message):
        decode_image(data())


def test_a_compressed_file_is_the_same_image(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dicom(ct(), WindowCenter=40, WindowWidth=400)
    file, packed = pydicom.dcmread(io.BytesIO(data)), io.BytesIO()
    file.compress(pydicom.uid.RLELossless)
    pydicom.dcmwrite(packed, file, enforce_file_format=True)
    np.testing.assert_array_equal(decode_image(packed.getvalue()), decode_image(data))

    def fail(_file: Any) -> None:
        raise RuntimeError(
            "Unable to decompress 'JPEG-LS' as plugins are missing dependencies:\n\tgdcm - requires it"
        )

    # What is absent, and how to get it, stands on lines of its own behind the first one.
    monkeypatch.setattr(pydicom.pixels, "pixel_array", fail)
    said = "missing dependencies: gdcm - requires it; pip install python-gdcm, or .* without compression"
    with pytest.raises(UnreadableImageError, match=said):
        decode_image(data)


def test_the_limit_on_pixels_holds_by_the_header() -> None:
    with pytest.raises(UnreadableImageError, match="12 x 16 pixels, more than the limit of 100"):
        decode_image(dicom(ct()), max_pixels=100)
