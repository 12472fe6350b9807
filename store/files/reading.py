"""Read a file or list a folder, with the store's errors."""

from pathlib import Path

from toptune.errors import StoreError


def read_file(path: Path) -> bytes:
    """Return a file's content.

    Raises
    ------
    FileNotFoundError
        If there is no such file; only the caller knows what that means.
    StoreError
        If the system refuses for another reason, such as permissions.
    """
    try:
        return path.read_bytes()
    except StoreError:
        raise
    # A path that leads through a file is a missing file too, so that callers handle one kind of error.
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except OSError as error:
        raise refused(path, error) from error


def list_folder(folder: Path) -> list[Path]:
    """List what is in a folder, sorted by name; empty if the folder is gone.

    Raises
    ------
    StoreError
        If the system refuses.
    """
    try:
        # File systems list names in any order; the sorted order makes messages and passes repeatable.
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except StoreError:
        raise
    except OSError as error:
        raise refused(folder, error) from error


def refused(path: Path, error: OSError) -> StoreError:
    """Make the error of a file or folder that the system refuses to read."""
    return StoreError(
        f"cannot read {path}: {error.strerror or error}; check its permissions and the disk", path
    )
