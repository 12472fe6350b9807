"""The library that reads the values of a file is chosen by the first bytes of the file."""

from toptune.extract.images.kinds import dicom, heif, numpy_file, tiff_bands
from toptune.extract.images.kinds.reading import Reading
from toptune.extract.images.kinds.values import Before, Values


def has_mark(head: bytes) -> bool:
    """Return whether a file begins as one of those do that are read here whatever is stated."""
    place, mark = dicom.MARK
    return head[place] == mark or head.startswith(numpy_file.MAGIC) or heif.is_heif(head)


def read_values(data: bytes, reading: Reading, before: Before) -> Values | None:
    """Read the values of a DICOM file, of an array of NumPy or, where something is stated, of a TIFF.

    Parameters
    ----------
    data : bytes
        The bytes of the file.
    reading : Reading
        What is stated. A TIFF of which nothing is stated is left to Pillow.
    before : callable
        Refuses what is too large.

    Returns
    -------
    Values or None
        None for files that Pillow reads.

    Raises
    ------
    UnreadableImageError
        If the file is of a kind that is read here, and cannot be.
    """
    place, mark = dicom.MARK
    if data[place] == mark:
        return dicom.read(data, before, is_scaled=reading.scale is not None)
    if data.startswith(numpy_file.MAGIC):
        return numpy_file.read(data, before)
    if reading.is_stated and data.startswith(tiff_bands.MAGICS):
        return tiff_bands.read(data, before)
    return None
