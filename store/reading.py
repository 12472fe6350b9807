"""Read a whole file, with the store's errors."""

from pathlib import Path

from toptune.store.errors import StoreError


def read_file(path: Path) -> bytes:
    """Return a file's content.

    Raises
    ------
    FileNotFoundError
        If there is none: what that means, only the caller knows.
    StoreError
        If the system refuses for another reason, such as permissions.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except OSError as error:
        raise StoreError(
            f"cannot read {path}: {error.strerror or error}; check its permissions and the disk"
        ) from error
