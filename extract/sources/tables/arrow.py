"""Data sets that Hugging Face's `save_to_disk` wrote are mapped and read without the `datasets` library."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from toptune.errors import InputError, UnreadableImageError
from toptune.extract.images.folder_listing import FolderListing
from toptune.extract.images.open_files import look_at
from toptune.extract.images.remarks import Remark
from toptune.extract.images.source import MAX_FILE_BYTES, default_name
from toptune.extract.sources.tables.columns import TableColumns, choose_columns, schema_features
from toptune.extract.sources.tables.table_manifest import TablePart, table_manifest, table_remarks
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.outside_text import outside_text
from toptune.store.files.json_values import load_json
from toptune.store.files.system_errors import refusal

# Arrow's file format begins with these bytes; Arrow's stream format has no magic bytes.
_FILE_MAGIC = b"ARROW1"
_HEAD_BYTES = 8
_STATE, _SPLITS, _INFO = "state.json", "dataset_dict.json", "dataset_info.json"


class ArrowSource:
    """Images in Arrow tables that are mapped from files.

    Parameters
    ----------
    name : str
        Name of the data set.
    manifest : Manifest
        Ids, labels, splits and sizes of the images.
    chunks : sequence of pyarrow.Array
        Bytes of the images, in the order of the rows.
    remarks : sequence of Remark
        What of the tables is not used.
    """

    def __init__(
        self, name: str, manifest: Manifest, chunks: Sequence[pa.Array], *, remarks: Sequence[Remark] = ()
    ) -> None:
        self.name = name
        self.remarks = tuple(remarks)
        self._manifest = manifest
        self._chunks = list(chunks)
        self._starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])

    def manifest(self) -> Manifest:
        return self._manifest

    def read(self, row: int) -> bytes:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return image_bytes(self._chunks[number][row - int(self._starts[number])])


def image_bytes(value: pa.Scalar) -> bytes:
    """Return the bytes in an Arrow scalar, or raise an `UnreadableImageError` where it holds no bytes."""
    if not value.is_valid:
        raise UnreadableImageError("the row has no image")
    data = value.as_buffer()
    if data.size > MAX_FILE_BYTES:
        raise UnreadableImageError(f"the image is larger than {MAX_FILE_BYTES} bytes; is it one?")
    return bytes(data.to_pybytes())


def find_saved(listing: FolderListing) -> list[Path]:
    """Return the folders of Arrow files that `save_to_disk` wrote: one folder, or one a split."""
    folder = listing.folder
    if _SPLITS in listing.file_names:
        try:
            names = load_json(folder / _SPLITS)["splits"]
            return [folder / str(name) for name in names]
        except (OSError, ValueError, KeyError, TypeError) as error:
            if why := refusal(error):
                raise InputError(f"{folder / _SPLITS} cannot be read: {why}") from error
            raise InputError(f"{folder / _SPLITS} does not name its splits: {error}") from error
    is_info = _INFO in listing.file_names and listing.with_suffix(".arrow")
    return [folder] if _STATE in listing.file_names or is_info else []


def open_saved(folders: Sequence[Path], *, whole: Path, label_column: str | None = None) -> ArrowSource:
    """Open a data set that `save_to_disk` wrote; rows are in the order of the files, split by split.

    Parameters
    ----------
    folders : sequence of path
        Folders that `find_saved` found.
    whole : path
        The folder that was given.
    label_column : str, optional
        Column of the labels; by default told by its name and type.

    Raises
    ------
    InputError
        If a file is missing, cut off or damaged, or has no images.
    """
    files = []
    for folder in folders:
        state = _read_json(folder / _STATE)
        # Such files hold all rows, and the selection lies in a second table: rows that were dropped would
        # come back.
        if state.get("_indices_data_files"):
            raise InputError(
                f"{folder} is a selection of rows by an index; save it again with flatten_indices()"
            )
        split = folder.name if folder != whole else outside_text(state.get("_split"))
        features = _read_json(folder / _INFO).get("features") or {}
        try:
            # The library writes plain names, and another could lead to any file of the machine.
            listed = [folder / Path(str(each["filename"])).name for each in state.get("_data_files") or []]
            if any("\0" in file.name for file in listed):
                raise ValueError("a file's name holds a zero byte")
            features = dict(features)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{folder / _STATE} or {_INFO} beside it is damaged: {error!r}; copy them again"
            ) from error
        there = listed or sorted(folder.glob("*.arrow"))
        if not there:
            raise InputError(f"{folder} has no data-*.arrow files; copy them too")
        files += [(file, split, features) for file in there]
    return _open_files(files, default_name(whole), label_column)


def open_arrow(file: Path, *, label_column: str | None = None) -> ArrowSource:
    """Open a single Arrow file of a Hugging Face data set; `label_column` holds the labels, if it is given.

    Raises
    ------
    InputError
        If the file is cut off or damaged, or has no images.
    """
    return _open_files([(file, None, {})], default_name(file.with_suffix("")), label_column)


def _open_files(
    files: Sequence[tuple[Path, str | None, dict[str, Any]]], name: str, label_column: str | None
) -> ArrowSource:
    parts, chunks = [], []
    for file, split, features in files:
        known = look_at(file)
        try:
            table = _map(file)
            columns = choose_columns(
                table.schema, features or schema_features(table.schema), file, label_column=label_column
            )
            beside = table.select(columns.beside)
            # Arrow would follow damaged offsets into other memory. The check reads offsets and no images.
            table.select([columns.image]).validate(full=True)
            beside.validate(full=True)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if why := refusal(error):
                raise InputError(f"{file} cannot be read: {why}") from error
            raise InputError(
                f"{file} is cut off, damaged or no Arrow file: {str(error).splitlines()[0]}; copy or "
                "save it again"
            ) from error
        images = _images(table, columns, file)
        chunks += images
        parts.append(
            TablePart(file, split, columns, table.schema.names, beside, _sizes(images), known.modified_ns)
        )
    return ArrowSource(name, table_manifest(parts), chunks, remarks=table_remarks(parts))


def _map(file: Path) -> pa.Table:
    """Map a table from a file; only the metadata is read."""
    source = pa.memory_map(os.fsencode(file))
    try:
        return pa.ipc.open_stream(source).read_all()
    except pa.ArrowInvalid:
        if source.size() < _HEAD_BYTES or source.read_at(len(_FILE_MAGIC), 0) != _FILE_MAGIC:
            raise
        return pa.ipc.open_file(source).read_all()


def _images(table: pa.Table, columns: TableColumns, file: Path) -> list[pa.Array]:
    chunks = table.column(columns.image).chunks
    if not pa.types.is_struct(table.schema.field(columns.image).type):
        return list(chunks)
    for chunk in chunks:
        refuse_paths_only(chunk, columns.image, file)
    return [pc.struct_field(chunk, "bytes") for chunk in chunks]


def refuse_paths_only(chunk: pa.StructArray, column: str, file: Path) -> None:
    """Raise an `InputError` where rows of a struct of bytes and path have a path alone."""
    data = pc.struct_field(chunk, "bytes")
    if not data.null_count or "path" not in [field.name for field in chunk.type]:
        return
    paths = pc.struct_field(chunk, "path").filter(data.is_null()).drop_null()
    if len(paths):
        raise InputError(f"{paths_only(len(paths), column, file)}; the first names {paths[0].as_py()!r}")


def paths_only(n: int, column: str, file: Path) -> str:
    """Return the message that images are not in the file, with the next step."""
    return (
        f"{n} rows of column {column!r} of {file} name files and do not hold their bytes; embed them "
        "(datasets: save_to_disk does, to_parquet does not), or give a manifest of the files"
    )


def _sizes(chunks: Sequence[pa.Array]) -> npt.NDArray[np.int64]:
    """Return the length of each image; only offsets are read."""
    lengths = [pc.fill_null(pc.binary_length(chunk), 0).to_numpy(zero_copy_only=False) for chunk in chunks]
    return np.concatenate([np.zeros(0, dtype=np.int64), *lengths]).astype(np.int64)


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = load_json(file)
    except (OSError, ValueError) as error:
        why = refusal(error) or f"{error}; copy it again"
        raise InputError(f"{file} cannot be read: {why}") from error
    return content if isinstance(content, dict) else {}
