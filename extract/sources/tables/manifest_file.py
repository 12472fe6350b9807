"""A table lists images by their paths."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from toptune.errors import InputError
from toptune.extract.images.kinds.boxes import Box
from toptune.extract.images.labels import join_labels, split_labels
from toptune.extract.images.remarks import UNLABELED, Remarks
from toptune.extract.images.source import FileRow, FileSource, default_name, split_names
from toptune.extract.sources.tables.box_columns import read_boxes
from toptune.extract.sources.tables.listed_files import find_files, remark_on_unlisted
from toptune.extract.sources.tables.manifest_columns import ManifestColumns, choose_manifest_columns
from toptune.store.datasets.manifest import LABELS_COLUMN
from toptune.store.datasets.outside_tables import OutsideTable, read_outside_table
from toptune.store.datasets.outside_text import outside_column, outside_text

MANIFEST_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
# Columns of the store's manifest that a user's column of the same name must not shadow.
RESERVED = ("id", "label", "split", "bytes", "modified_ns", LABELS_COLUMN)
_GENERIC = ("manifest", "metadata", "labels", "index", "images", "train", "data")


def open_manifest(
    file: Path, *, path_column: str | None = None, label_column: str | None = None
) -> FileSource:
    """Open a manifest file; the rows stay in the order of the file.

    Columns: ``path`` (absolute, or relative to the manifest's folder), and where present ``label``,
    ``split`` (``train``, ``val`` or ``test``) and ``id`` (the path as it is written, by default). Empty
    fields mean that nothing is known. ``labels`` holds several labels, as text with ``|`` or ``;`` between
    them, or as a list; a single one becomes the label, and an empty field says that no label applies. Other
    columns of text and of numbers are kept beside the images. ``x0``, ``y0``, ``x1`` and ``y1`` make a
    row of a part of its image, see `read_boxes`; the id is then the path with the box, by default.

    Parameters
    ----------
    file : path
        CSV with commas, semicolons or tabs, Parquet, or JSON lines.
    path_column, label_column : str, optional
        Columns of the paths and of the labels; by default told by their names, see `choose_manifest_columns`.

    Raises
    ------
    InputError
        If the file cannot be read, two columns have one name, or the paths or listed images are missing.
    """
    is_generic = file.stem.lower() in _GENERIC
    return source_of_table(
        read_outside_table(file, "manifest"),
        f"manifest {file}",
        file,
        name=default_name(file.parent if is_generic else file.with_suffix("")),
        path_column=path_column,
        label_column=label_column,
    )


def source_of_table(
    table: OutsideTable,
    where: str,
    file: Path,
    *,
    name: str | None,
    path_column: str | None,
    label_column: str | None,
) -> FileSource:
    """Make the source of the images that a table lists; see `open_manifest`.

    Parameters
    ----------
    table : OutsideTable
        The table.
    where : str
        What the table is called in messages.
    file : path
        The file of the table, in whose folder relative paths begin.
    name : str, optional
        Name of the data set; by default that of the folder in which all images lie.
    path_column, label_column : str, optional
        Columns of the paths and of the labels.
    """
    remarks = Remarks()
    columns = choose_manifest_columns(
        table.names, where, remarks, path_column=path_column, label_column=label_column
    )
    if table.n_rows == 0:
        raise InputError(f"{where} lists no images; it needs one row an image")
    _refuse_nested(table, columns, where)
    paths = _paths(table, columns, where)
    labels, several = _labels(table, columns, where, is_named=label_column is not None)
    boxes = read_boxes(table, columns.box, where, remarks, paths=paths, has_ids=columns.identity is not None)
    extra = several | {name: table.values(name) for name in _kept(table, columns, remarks)}
    others = [name for name in table.names if name not in (*columns.taken, *columns.box)]
    if others and not several and all(label is None for label in labels):
        remarks.add(
            "image",
            UNLABELED,
            None,
            code="TT012",
            count=table.n_rows,
            advice=f"--label-column says which column is the label: {', '.join(others)}",
            is_left_out=False,
        )
    splits = [None] * len(paths) if columns.split is None else table.values(columns.split)
    listed = find_files(file, paths, where)
    remark_on_unlisted(listed, remarks)
    rows = [
        FileRow(identifier, found.path, label, split, found.bytes, found.modified_ns, box)
        for identifier, found, label, split, box in zip(
            _ids(table, columns, paths, boxes, where),
            listed,
            labels,
            split_names(splits, where),
            boxes,
            strict=True,
        )
    ]
    if name is None:
        folders = {os.path.dirname(each.path) for each in listed}  # noqa: PTH120  (also for millions of rows)
        name = default_name(Path(os.path.commonpath(folders)))
    return FileSource(name, rows, extra=extra, remarks=tuple(remarks))


def _paths(table: OutsideTable, columns: ManifestColumns, where: str) -> list[str]:
    # A path is the name of a file, letter by letter: it is no text to be unified.
    paths = [
        value if isinstance(value, str) else outside_text(value, keeps_blanks=True) or ""
        for value in table.values(columns.path)
    ]
    empty = [row for row, path in enumerate(paths) if not path]
    if empty:
        others = f", and so have {len(empty) - 1} others" if len(empty) > 1 else ""
        raise InputError(
            f"{where}: row {empty[0]} (from 0) has no path{others}; write the paths into column "
            f"{columns.path!r}, or take these rows out"
        )
    return paths


def _refuse_nested(table: OutsideTable, columns: ManifestColumns, where: str) -> None:
    """Refuse lists and objects in columns that need one text a row."""
    for name in columns.taken:
        if not table.is_nested(name, may_be_list=name == columns.several):
            continue
        advice = "write plain values"
        if name in (columns.path, columns.label):
            advice += f", or name another column with --{'path' if name == columns.path else 'label'}-column"
        if name == columns.label:
            advice += f"; several labels of an image are a list in a column {LABELS_COLUMN!r}"
        raise InputError(
            f"{where}: column {name!r} holds lists or objects where a text or a number is needed; {advice}"
        )


def _ids(
    table: OutsideTable,
    columns: ManifestColumns,
    paths: Sequence[str],
    boxes: Sequence[Box | None],
    where: str,
) -> list[str]:
    """Return the ids as they are written; the manifest unifies them, and names those that become one."""
    given: list[object] = (
        [
            Path(path).as_posix() + ("" if box is None else f"[{box}]")
            for path, box in zip(paths, boxes, strict=True)
        ]
        if columns.identity is None
        else list(table.values(columns.identity))
    )
    if twice := [name for name, count in Counter(given).items() if count > 1]:
        first = given.index(twice[0])
        column = columns.identity or columns.path
        raise InputError(
            f"{where}: column {column!r} has {str(twice[0])!r} twice, in rows {first} and "
            f"{given.index(twice[0], first + 1)} (from 0)"
            + (f", and {len(twice) - 1} others" if len(twice) > 1 else "")
            + "; list each image once, several labels of it in a column 'labels', or give each row a name in "
            "a column 'id'"
        )
    return [each if isinstance(each, str) else outside_text(each) or "" for each in given]


def _labels(
    table: OutsideTable, columns: ManifestColumns, where: str, *, is_named: bool
) -> tuple[list[str | None], dict[str, list[str | None]]]:
    """Return the label of each row, and the column of several labels where the manifest has it."""
    nothing: list[str | None] = [None] * table.n_rows
    labels = nothing if columns.label is None else outside_column(table.values(columns.label))
    if columns.several is None:
        return labels, {}
    values = table.values(columns.several)
    names = [
        None if value is None else value if isinstance(value, list) else split_labels(outside_text(value))
        for value in values
    ]
    only, joined = join_labels(names, f"{where}, column {columns.several!r}")
    if not is_named:
        labels = [one if label is None else label for label, one in zip(labels, only, strict=True)]
    return labels, {LABELS_COLUMN: joined}


def _kept(table: OutsideTable, columns: ManifestColumns, remarks: Remarks) -> list[str]:
    """Return the further columns that are kept beside the images, and remark on those that are not."""
    # A label of another name stays a column too: `train --label-column` may choose among all of them.
    others = [name for name in table.names if name not in columns.taken or name == columns.label]
    others = [name for name in others if name != "label" or columns.label != "label"]
    kept = [name for name in others if name not in RESERVED and (table.is_kept(name) or name in columns.box)]
    for name in others:
        if name in RESERVED:
            remarks.add("column", "with a name of toptune's own", name, code="TT011", advice="rename it")
        elif name not in kept:
            remarks.add("column", "of neither text nor numbers, not kept", name, code="TT011")
    if table.n_unnamed:
        remarks.add("column", "without a name", None, code="TT011", count=table.n_unnamed)
    if table.separator is not None:
        remarks.add(
            "table", f"with {table.separator} between its columns", None, code="TT014", is_left_out=False
        )
    return kept
