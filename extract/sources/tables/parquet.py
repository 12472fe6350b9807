"""Data sets of Hugging Face's hub are read from their Parquet files, which hold the images."""

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from toptune.errors import InputError, UnreadableImageError
from toptune.extract.images.folder_listing import FolderListing
from toptune.extract.images.open_files import look_at
from toptune.extract.images.remarks import Remark
from toptune.extract.images.source import SPLITS, default_name
from toptune.extract.sources.tables.arrow import image_bytes, paths_only
from toptune.extract.sources.tables.columns import choose_columns, has_images, schema_features
from toptune.extract.sources.tables.table_manifest import TablePart, table_manifest, table_remarks
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.parquet_tables import read_parquet
from toptune.store.files.system_errors import refusal

# Images are read in order, by several threads: the first images of a group are asked for while others of the
# group before are still being read.
GROUPS_IN_MEMORY = 2
MAX_GROUP_BYTES = 2 * 2**30
_SPLIT = re.compile(r"(.+?)-\d+(-of-\d+(-[0-9a-f]+)?)?$")


class ParquetSource:
    """Images in Parquet files, read a row group at a time; two groups are held.

    A Parquet file does not say how long an image is, so that sizes are 0. Changed images are told by the
    modification time of the file, and then by the bytes.

    Parameters
    ----------
    name : str
        Name of the data set.
    manifest : Manifest
        Ids, labels and splits of the images.
    groups : sequence of (path, int, str, int)
        File, number of the group in it, column of the images' bytes, number of rows.
    remarks : sequence of Remark
        What of the files is not used.
    """

    def __init__(
        self,
        name: str,
        manifest: Manifest,
        groups: Sequence[tuple[Path, int, str, int]],
        *,
        remarks: Sequence[Remark] = (),
    ) -> None:
        self.name = name
        self.remarks = tuple(remarks)
        self._manifest = manifest
        self._groups = list(groups)
        self._starts = np.cumsum([0, *(group[3] for group in groups)])
        self._loaded: OrderedDict[int, pa.Array] = OrderedDict()
        self._lock = threading.Lock()

    def manifest(self) -> Manifest:
        return self._manifest

    def read(self, row: int) -> bytes:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        # Threads that want the same group wait for the thread that reads it, instead of reading it as well.
        with self._lock:
            images = self._loaded.pop(number, None)
            if images is None:
                images = self._load(number)
            self._loaded[number] = images
            if len(self._loaded) > GROUPS_IN_MEMORY:
                self._loaded.popitem(last=False)
        if isinstance(images, str):
            raise UnreadableImageError(images)
        return image_bytes(images[row - int(self._starts[number])])

    def _load(self, number: int) -> pa.Array:
        """Return the images of a group, or a text that says why they cannot be read."""
        file, group, column, _ = self._groups[number]
        try:
            with pq.ParquetFile(pa.memory_map(os.fsencode(file))) as parquet:
                images = parquet.read_row_group(group, columns=[column], use_threads=False).column(0)
        except (pa.ArrowException, OSError) as error:
            if why := refusal(error):
                return f"{file.name} cannot be read: {why}"
            return f"row group {group} of {file.name} is damaged: {str(error).splitlines()[0]}"
        if not pa.types.is_struct(images.type):
            return images
        return pa.chunked_array([pc.struct_field(chunk, "bytes") for chunk in images.chunks])


def find_parquet(listing: FolderListing) -> list[Path]:
    """Return the Parquet files with images in a folder, in its ``data``, or in folders of splits."""
    splits = [listing.inner(name) for name in listing.folders if name.lower() in SPLITS]
    for places in ([listing], [listing.inner("data")], splits):
        files = [file for place in places for file in place.with_suffix(".parquet")]
        kinds = [is_parquet_of_images(file) for file in files]
        # A file that cannot be read is an error: without it rows would be missing, and nobody would be told.
        if any(kinds) or (files and places != [listing] and None in kinds):
            return [file for file, kind in zip(files, kinds, strict=True) if kind is not False]
    return []


def is_parquet_of_images(file: Path) -> bool | None:
    """Return whether a Parquet file has a column of images; None if the file cannot be read."""
    try:
        return has_images(pq.read_schema(pa.memory_map(os.fsencode(file))))
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return None


def open_parquet(files: Sequence[Path], *, whole: Path, label_column: str | None = None) -> ParquetSource:
    """Open Parquet files of one data set; splits are told by file (``train-00000-of-00002``) or folder.

    Parameters
    ----------
    files : sequence of path
        The files.
    whole : path
        The folder or file that was given.
    label_column : str, optional
        Column of the labels; by default told by its name and type.

    Raises
    ------
    InputError
        If a file is cut off, damaged, has no images, or row groups too large to be held.
    """
    parts, groups = [], []
    for file in files:
        known = look_at(file)
        try:
            with pq.ParquetFile(pa.memory_map(os.fsencode(file))) as parquet:
                schema, metadata = parquet.schema_arrow, parquet.metadata
            columns = choose_columns(schema, schema_features(schema), file, label_column=label_column)
            beside = read_parquet(file, columns=columns.beside)
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            if why := refusal(error):
                raise InputError(f"{file} cannot be read: {why}") from error
            raise InputError(
                f"{file} is cut off, damaged or no Parquet file: {str(error).splitlines()[0]}; copy it again"
            ) from error
        is_struct = pa.types.is_struct(schema.field(columns.image).type)
        leaf = f"{columns.image}.bytes" if is_struct else columns.image
        for number in range(metadata.num_row_groups):
            _check_group(metadata.row_group(number), leaf, file)
            if is_struct:
                _refuse_paths_only(metadata.row_group(number), columns.image, file)
            groups.append((file, number, leaf, metadata.row_group(number).num_rows))
        sizes = np.zeros(metadata.num_rows, dtype=np.int64)
        parts.append(
            TablePart(file, _split_of(file), columns, schema.names, beside, sizes, known.modified_ns)
        )
    name = whole.with_suffix("") if whole.is_file() else whole
    return ParquetSource(default_name(name), table_manifest(parts), groups, remarks=table_remarks(parts))


def _split_of(file: Path) -> str | None:
    found = _SPLIT.match(file.stem)
    for name in (found[1] if found else file.stem, file.parent.name):
        if name.lower() in SPLITS:
            return name
    return found[1] if found else None


def _refuse_paths_only(group: pq.RowGroupMetaData, image: str, file: Path) -> None:
    """Raise an `InputError` where more rows have a path than bytes, as far as the file's statistics tell."""
    empty = {}
    for number in range(group.num_columns):
        column = group.column(number)
        if column.statistics is not None and column.statistics.has_null_count:
            empty[column.path_in_schema] = column.statistics.null_count
    n = empty.get(f"{image}.bytes", 0) - empty.get(f"{image}.path", 0)
    if f"{image}.path" in empty and n > 0:
        raise InputError(paths_only(n, image, file))


def _check_group(group: pq.RowGroupMetaData, leaf: str, file: Path) -> None:
    columns = [group.column(number) for number in range(group.num_columns)]
    n_bytes = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == leaf)
    if n_bytes > MAX_GROUP_BYTES:
        raise InputError(
            f"{file} has a row group with {n_bytes} bytes of images, more than the {MAX_GROUP_BYTES} "
            "that are read "
            "at once; write it again with smaller ones (pyarrow: write_table(..., row_group_size=100))"
        )
