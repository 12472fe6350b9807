"""Files are written here and nowhere else: durable, with the permissions that umask and folder give.

Libraries that write files themselves choose permissions (safetensors: readable by the owner alone), leave
bytes in the system's cache, or end the process where a disk is full (torch). They write to memory here
instead. A failure is the system's bare `OSError`; whoever knows what was asked for explains it, as
`new_target` does.
"""

import contextlib
import csv
import errno
import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from toptune.errors import InputError
from toptune.store.files.names import TEMPORARY_PREFIX
from toptune.store.files.system_errors import explained_writing

# Spreadsheets drop a tab or the end of a line before a formula (OWASP, "CSV injection").
_FORMULA_MARKS = ("=", "+", "-", "@", "\t", "\r", "\n")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write; its content is durable when the block ends."""
    with path.open("wb") as file:
        yield file
        file.flush()
        # Whatever is done next, such as a rename, must never stand for bytes that are not on the disk.
        os.fsync(file.fileno())


def write_file(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Write a file, which is durable when this returns; names that others may see need `replace_file`."""
    fill_opened(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666), data)


def fill_opened(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write all bytes of a new file, which are durable when this returns, and close the file."""
    try:
        left = memoryview(data)
        while len(left):
            # One call may write less than it was given, for instance on a disk that is nearly full.
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whatever is there; readers see the old content or the new."""
    temporary = path.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        write_file(temporary, data)
        # A rename swaps the two files in one step, so that a reader never meets half of either.
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_made(path: Path, make: Callable[[BinaryIO], object]) -> None:
    """Write what a library writes to a file object; the library sees memory, and no failing disk."""
    memory = io.BytesIO()
    make(memory)
    write_file(path, memory.getbuffer())


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8."""
    write_file(path, text.encode("utf-8"))


def csv_text(rows: Sequence[Mapping[str, object]], *, spreadsheet_safe: bool = False) -> str:
    """Give mappings of the same keys as a table with a line for each; see `no_formula`."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(no_formulas, rows) if spreadsheet_safe else rows)
    return text.getvalue()


def no_formula(cell: object) -> object:
    """Return the value of a cell, with ``'`` before text that a spreadsheet would compute as a formula.

    A formula may run programs. The text may be a label, the name of a file, or that of a layer in an imported
    file.
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_MARKS) else cell


def no_formulas(row: Mapping[str, object]) -> dict[str, object]:
    """Return a row of a table with `no_formula` applied to each cell."""
    return {name: no_formula(cell) for name, cell in row.items()}


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    sync_opened_folder(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def sync_opened_folder(descriptor: int) -> None:
    """Make the names in a folder durable, and close the folder."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no fsync for folders; their link is synchronous.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def check_writable(path: Path, *, option: str) -> None:
    """Refuse a file or folder that could not be made, or a folder that is not to be written to.

    Work may take hours. What its result could not be written to is refused before the work begins.

    Parameters
    ----------
    path : Path
        What is to be made; it and folders above it may be missing.
    option : str
        The option that names the path, such as ``out``.

    Raises
    ------
    InputError
        If the folder, or the nearest folder above that is there, is none that may be written to.
    StoreError
        If the system does not let that be found out.
    """
    with explained_writing(path, elsewhere=f"give another --{option}", kept="nothing was written"):
        there = next(each for each in (path, *path.parents) if each.exists())
    said = (
        f"{path} cannot be made: {there} is" if there != path else f"nothing can be made in {path}, which is"
    )
    if not is_writable_folder(there):
        raise InputError(f"{option}: {said} not a folder that you may write to", option=option)


def is_writable_folder(path: Path) -> bool:
    """Whether a path is a folder in which this user may make files."""
    # Files are made with the rights of the effective user, which `access` asks for only where told to.
    is_effective = os.access in os.supports_effective_ids
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK, effective_ids=is_effective)


@contextlib.contextmanager
def new_target(target: Path, *, option: str) -> Iterator[Path]:
    """Yield a temporary sibling, which takes the name of the target on success and vanishes otherwise.

    Parameters
    ----------
    target : Path
        File, or folder that may be there if it is empty.
    option : str
        The option that names the target, for messages, such as ``--out``.

    Raises
    ------
    InputError
        If the target has come into being meanwhile.
    StoreError
        If the system refuses to write, for instance because the disk is full.
    """
    # The temporary lies beside the target, because a rename between two file systems is not possible in one
    # step.
    temporary = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        with explained_writing(target, elsewhere=f"give another {option}", kept="nothing was left behind"):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if not _has_taken_name(temporary, target):
                raise InputError(f"{target} exists by now; nothing is overwritten: give another {option}")
            sync_folder(target.parent)
    finally:
        # An interruption by the user leaves nothing behind either.
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _has_taken_name(temporary: Path, target: Path) -> bool:
    """Rename without replacing what another process has put there; return whether that succeeded."""
    try:
        if temporary.is_dir():
            sync_folder(temporary)
            # The rename fails if the target is a file, or a folder that holds files by now.
            temporary.rename(target)
            return True
        # A link, unlike a rename, fails if somebody has made the file meanwhile.
        os.link(temporary, target)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno not in _NO_LINKS or os.path.lexists(target):
            raise
        temporary.rename(target)  # Some file systems, such as exFAT, have no hard links.
    return True
