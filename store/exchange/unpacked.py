"""A limit on how much a file of features may unpack to."""

from pathlib import Path

from toptune.errors import InputError
from toptune.store.files import reading

# Features are read in slices of rows, or against the limit of memory, and never held whole without being
# asked for: so much more is believed of them than of records.
MAX_UNPACKED_BYTES = 8 << 30


def check_unpacked(path: Path, name: str, n_bytes: int) -> None:
    """Refuse an array that unpacks to far more than its file suggests; see `toptune.store.files.reading`.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Name of the array, for the message.
    n_bytes : int
        Size of the array when it is unpacked.

    Raises
    ------
    InputError
        If `n_bytes` is above 8 GiB and above 64 times the file's size.
    """
    try:
        reading.check_unpacked(n_bytes, path.stat().st_size, what=name, believed=MAX_UNPACKED_BYTES)
    except ValueError as error:
        raise InputError(f"{path}: {error}; if that is meant, save it as .npy") from error
