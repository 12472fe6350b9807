"""Limits on how much a file may unpack to."""

from pathlib import Path

from toptune.errors import InputError

# Features rarely shrink to a tenth of their size. Up to the first limit any size is believed; beyond the
# limit a file must not unpack to more than `MAX_RATIO` times its size.
MAX_UNPACKED_BYTES = 8 * 2**30
MAX_RATIO = 50


def check_unpacked(path: Path, name: str, n_bytes: int) -> None:
    """Refuse an array that unpacks to far more than its file suggests.

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
        If `n_bytes` is above 8 GiB and above 50 times the file's size.
    """
    file_bytes = path.stat().st_size
    if n_bytes > MAX_UNPACKED_BYTES and n_bytes > MAX_RATIO * file_bytes:
        raise InputError(
            f"{path}: {name} unpacks to {n_bytes} bytes, above the limit of {MAX_UNPACKED_BYTES} and more "
            f"than {MAX_RATIO} times the file's {file_bytes}; if that is meant, save it as .npy"
        )
