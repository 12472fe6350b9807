"""A CSV or Parquet file lists images by their paths."""

import csv
import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from toptune.errors import InputError
from toptune.extract.images.labels import join_labels, split_labels
from toptune.extract.images.source import SPLITS, FileRow, FileSource, default_name, printable
from toptune.store.datasets.manifest import LABELS_COLUMN

MANIFEST_SUFFIXES = (".csv", ".parquet")
SHOWN = 5
OWN_COLUMNS = ("path", "label", "split", "id")
# Columns of the store's manifest that a user's column of the same name must not shadow.
RESERVED = ("bytes", "modified_ns")


def open_manifest(file: Path) -> FileSource:
    """Open a manifest file; the rows stay in the order of the file.

    Columns: ``path`` (absolute, or relative to the manifest's folder), and where present ``label``,
    ``split`` (``train``, ``val`` or ``test``) and ``id`` (the path as it is written, by default). Empty
    fields mean that nothing is known. ``labels`` holds several labels, as text with ``|`` or ``;`` between
    them, or as a list; a single one becomes the label. Other columns of text are kept beside the images.

    Raises
    ------
    InputError
        If the file cannot be read, or the column ``path`` or listed images are missing.
    """
    table = _read(file)
    if "path" not in table.column_names:
        raise InputError(
            f"manifest {file} has no column 'path'; its columns are {', '.join(table.column_names) or 'none'}"
        )
    if table.num_rows == 0:
        raise InputError(f"manifest {file} lists no images; it needs one row an image")
    columns = {name: _text_column(table, name, file) for name in table.column_names if _is_kept(table, name)}
    paths = columns["path"]
    empty = [row for row, path in enumerate(paths) if not path]
    if empty:
        raise InputError(f"manifest {file}: row {empty[0]} (from 0) has no path, and {len(empty) - 1} others")
    ids = columns.get("id") or [Path(str(path)).as_posix() for path in paths]
    extra = {name: values for name, values in columns.items() if name not in OWN_COLUMNS}
    labels = columns.get("label") or [None] * len(paths)
    if LABELS_COLUMN in table.column_names:
        only, extra[LABELS_COLUMN] = join_labels(_several(table, file), f"manifest {file}, column 'labels'")
        labels = [label or one for label, one in zip(labels, only, strict=True)]
    rows = _file_rows(
        file,
        ids=[unicodedata.normalize("NFC", printable(identifier or "")) for identifier in ids],
        paths=[str(path) for path in paths],
        labels=labels,
        splits=_splits(columns.get("split") or [None] * len(paths), file),
    )
    generic = file.stem.lower() in ("manifest", "metadata", "labels", "index", "images", "train", "data")
    return FileSource(default_name(file.parent if generic else file.with_suffix("")), rows, extra=extra)


def _read(file: Path) -> pa.Table:
    try:
        if file.suffix.lower() == ".parquet":
            with pa.parquet.ParquetFile(file) as parquet:
                return parquet.read(use_threads=False)
        with file.open(encoding="utf-8-sig", newline="") as lines:
            header = next(csv.reader(lines), [])
        # All columns are read as text: a label "01" must not become the number 1.
        options = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        )
        return pa.csv.read_csv(
            file, convert_options=options, read_options=pa.csv.ReadOptions(use_threads=False)
        )
    except (pa.ArrowException, OSError, ValueError, csv.Error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"manifest {file} cannot be read: {reason}") from error


def _is_kept(table: pa.Table, name: str) -> bool:
    if name in OWN_COLUMNS:
        return True
    if name == LABELS_COLUMN:
        return False  # `_several` reads this column
    kind = table.schema.field(name).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return name not in RESERVED and (pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _several(table: pa.Table, file: Path) -> list[list[str] | None]:
    kind = table.schema.field(LABELS_COLUMN).type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lists = table.column(LABELS_COLUMN).to_pylist()
        return [None if names is None else [str(name) for name in names] for names in lists]
    return [split_labels(text) for text in _text_column(table, LABELS_COLUMN, file)]


def _text_column(table: pa.Table, name: str, file: Path) -> list[str | None]:
    try:
        return list(table.column(name).cast(pa.string()).to_pylist())
    except (pa.ArrowException, KeyError) as error:
        raise InputError(
            f"manifest {file}: column {name!r} is not text, or there are two: {error}"
        ) from error


def _splits(splits: list[str | None], file: Path) -> list[str | None]:
    unknown = sorted({split for split in splits if split and split.lower() not in SPLITS})
    if unknown:
        raise InputError(
            f"manifest {file}: split {unknown[0]!r} is none of train, val, test ({len(unknown)} such names); "
            "rename it, or leave the field empty"
        )
    return [SPLITS[split.lower()] if split else None for split in splits]


def _file_rows(
    file: Path,
    *,
    ids: list[str],
    paths: list[str],
    labels: list[str | None],
    splits: list[str | None],
) -> list[FileRow]:
    # All missing files are collected before the error, so that a list of paths is repaired in one step.
    rows, missing = [], []
    for identifier, path, label, split in zip(ids, paths, labels, splits, strict=True):
        place = os.path.join(file.parent, path)  # noqa: PTH118  (also for millions of rows)
        try:
            found = os.stat(place)  # noqa: PTH116
        except (OSError, ValueError):
            missing.append(path)
            continue
        rows.append(FileRow(identifier, place, label, split, found.st_size, found.st_mtime_ns))
    if missing:
        shown = ", ".join(repr(path) for path in missing[:SHOWN])
        raise InputError(
            f"manifest {file}: {len(missing)} of {len(paths)} files are missing: {shown}"
            f"{', ...' if len(missing) > SHOWN else ''}; paths are relative to {file.parent}"
        )
    return rows
