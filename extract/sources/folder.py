"""Images lie in folders, one folder a class, perhaps within one folder a split."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from toptune.errors import InputError
from toptune.extract.images.folder_listing import (
    ARRAY_SUFFIX,
    FOLDER,
    IMAGE_SUFFIXES,
    OTHER,
    TABLE_SUFFIXES,
    is_hidden,
    kind_of,
)
from toptune.extract.images.formats import is_image
from toptune.extract.images.labels import check_class_folders
from toptune.extract.images.layout import (
    ADVICE_ON_TABLE,
    EXPECTED,
    Tree,
    arrange,
    made_by_toptune,
    refuse_own,
    without_own,
)
from toptune.extract.images.open_files import open_regular
from toptune.extract.images.remarks import SPECIAL, Remarks
from toptune.extract.images.source import FileRow, FileSource, default_name

# Files that are opened where no name says image: enough to tell a folder of other files, without reading it
# whole.
_LOOKED_AT = 20


def open_folder(folder: Path) -> FileSource:
    """Open a folder of images; rows are sorted by id, the path within the folder.

    The layout is that of `arrange`. Class folders may hold further folders and links to folders; every file
    in them is a row unless its name is hidden or says that it is no image. A row may turn out to be no image
    when it is decoded, which is recorded as failed. The source has remarks on everything that is no row.

    Raises
    ------
    InputError
        If there are no files, if none of the files that were looked at is an image, if the folder is a store
        or RUN folder, or if two names differ only in their Unicode form.
    """
    remarks = Remarks()
    tree = _tree(folder, "", (), remarks)
    refuse_own(tree, folder)
    rows = sorted(
        (_file_row(entry, name, label, split) for name, label, split, entry in arrange(tree, remarks)),
        key=lambda row: row.id,
    )
    if not rows:
        left_out = "".join(f"; {remark.sentence}" for remark in remarks if not remark.is_litter)
        raise InputError(f"{folder} holds no images; {EXPECTED}{left_out}")
    _refuse_other_files(folder, rows)
    check_class_folders([row.label for row in rows], str(folder), remarks)
    if all(row.label is None for row in rows):
        _remark_on_table(folder, remarks)
    # Some file systems decompose letters with accents in names. Ids are composed (NFC), so that a folder has
    # the same ids wherever it is copied.
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise InputError(
            f"{len(twice)} names in {folder} occur twice once their Unicode form is unified, the first is "
            f"{twice[0]!r}; rename one of each"
        )
    return FileSource(default_name(folder), rows, remarks=tuple(remarks))


def walk_files(folder: Path, remarks: Remarks | None = None) -> Iterator[Path]:
    """Yield every file below a folder, without hidden ones, stores and RUN folders; links are followed once.

    Parameters
    ----------
    folder : path
    remarks : Remarks, optional
        Takes what is left out.

    Raises
    ------
    InputError
        If a folder cannot be listed, or is a store or RUN folder itself.
    """
    remarks = Remarks() if remarks is None else remarks
    tree = _tree(folder, "", (), remarks)
    refuse_own(tree, folder)
    yield from (Path(entry.path) for _, entry in without_own(tree, remarks).walk())


def _tree(
    root: Path, inner: str, above: tuple[tuple[int, int], ...], remarks: Remarks
) -> Tree["os.DirEntry[str]"]:
    """List a folder and all folders below; of a folder that toptune made, only its own files."""
    folder = root / inner
    folders, files = _list(folder, inner, remarks)
    tree = Tree({entry.name: entry for entry in files})
    # A store may hold millions of files, none of which is asked for.
    if above and made_by_toptune(tree.files) is not None:
        return tree
    above = (*above, _identity(folder))
    for entry in folders:
        name = f"{inner}{entry.name}/"
        if _identity(root / name) in above:
            remarks.add("link", "back to a folder above, not followed", name, code="TT002")
        else:
            tree.folders[entry.name] = _tree(root, name, above, remarks)
    return tree


def _refuse_other_files(folder: Path, rows: Sequence[FileRow]) -> None:
    """Raise an `InputError` if no name of a file says image and none of a few files begins like an image."""
    if any(Path(row.id).suffix.lower() in (*IMAGE_SUFFIXES, ARRAY_SUFFIX) for row in rows):
        return
    looked_at = rows[:: -(-len(rows) // _LOOKED_AT)]
    if not any(_is_image(row.path) for row in looked_at):
        raise InputError(
            f"{folder} holds folders, but none of the {len(looked_at)} files looked at is an image, of "
            f"{len(rows)} in all: the first is {rows[0].id}; {EXPECTED}. Where arrays, shards or tables lie "
            "deeper, give their folder"
        )


def _is_image(path: str) -> bool:
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            return is_image(file)
    except (OSError, InputError):
        return False


def _remark_on_table(folder: Path, remarks: Remarks) -> None:
    """Name a table that is called like a folder of images without labels and lies beside the folder."""
    folder = folder.absolute()
    for suffix in TABLE_SUFFIXES:
        table = folder.parent / f"{folder.name}{suffix}"
        if table.is_file():
            remarks.add(
                "table", "beside the folder, not read", str(table), code="TT008", advice=ADVICE_ON_TABLE
            )


def _list(
    folder: Path, inner: str, remarks: Remarks
) -> tuple[list["os.DirEntry[str]"], list["os.DirEntry[str]"]]:
    """Return the folders and the files in a folder, links followed, without hidden ones."""
    folders: list[os.DirEntry[str]] = []
    files: list[os.DirEntry[str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                kind = kind_of(entry)
                if is_hidden(entry.name):
                    remarks.add_hidden(f"{inner}{entry.name}")
                elif kind == OTHER:
                    remarks.add("file", SPECIAL, f"{inner}{entry.name}", code="TT002")
                else:
                    (folders if kind == FOLDER else files).append(entry)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be listed: {error.strerror}") from error
    return folders, files


def _file_row(entry: "os.DirEntry[str]", identifier: str, label: str | None, split: str | None) -> FileRow:
    try:
        found = entry.stat()
        n_bytes, modified_ns = (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (0, 0)
    except OSError:
        n_bytes, modified_ns = 0, 0
    return FileRow(identifier, entry.path, label, split, n_bytes, modified_ns)


def _identity(folder: Path) -> tuple[int, int]:
    # Links make several paths of one folder: device and inode tell a cycle, paths do not.
    found = folder.stat()
    return found.st_dev, found.st_ino
