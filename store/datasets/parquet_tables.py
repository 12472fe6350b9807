"""Tables in Parquet files that somebody else may have written: their size is asked before they are read."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from toptune.store.files.reading import check_unpacked

# One long text may stand once in such a file and in each of a million rows. Only the values tell; in a
# larger file the texts of a dictionary say little against the file's own size.
_MOST_COUNTED_BYTES = 16 << 20
_WIDTHS = {"BOOLEAN": 0.125, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12, "BYTE_ARRAY": 4}


def read_parquet(source: bytes | Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns.

    Parameters
    ----------
    source : bytes or Path
        Content of the file, or its place.
    columns : sequence of str, optional
        Names of the columns; a name that is not there is left out.

    Raises
    ------
    OSError
        If the system refuses to read the file.
    ValueError
        If the file is damaged, or unpacks to far more than its size suggests.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    texts: list[str] = []
    try:
        with closing(_opened(source)) as raw, pq.ParquetFile(raw) as file:
            check_unpacked(unpacked_bytes(file.metadata, columns), size)
            schema = file.schema_arrow
            if size > _MOST_COUNTED_BYTES or len(set(schema.names)) < len(schema.names):
                # pq.read_table would release `source` in a thread of its scanner, and the process aborts
                # when that happens while the interpreter shuts down.
                return file.read(columns=_listed(columns), use_threads=False)
            texts = [field.name for field in schema if _is_text(field.type)]
        with closing(_opened(source)) as raw, pq.ParquetFile(raw, read_dictionary=texts) as file:
            table = file.read(columns=_listed(columns), use_threads=False)
        check_unpacked(sum(map(_text_bytes, table.columns)), size)
        for place, name in enumerate(table.column_names):
            if table.column(place).type != schema.field(name).type:
                table = table.set_column(
                    place, schema.field(name), table.column(place).cast(schema.field(name).type)
                )
    except pa.ArrowException as error:
        raise ValueError(_first_line(error)) from error
    except OSError as error:
        # Arrow reports damage by this class too, and only the system's refusals have a number.
        if error.errno is not None:
            raise
        raise ValueError(_first_line(error)) from error
    return table


def unpacked_bytes(metadata: pq.FileMetaData, columns: Sequence[str] | None = None) -> int:
    """Return the bytes that the columns of a file take in memory at least, by the file's own account."""
    total = 0.0
    for group in range(metadata.num_row_groups):
        for place in range(metadata.num_columns):
            column = metadata.row_group(group).column(place)
            if columns is None or column.path_in_schema.partition(".")[0] in columns:
                # A value that is repeated a billion times takes a few bytes in the file.
                width = _WIDTHS.get(column.physical_type, 1)
                total += max(column.total_uncompressed_size, column.num_values * width)
    return int(total)


def _opened(source: bytes | Path) -> Any:
    # Arrow itself opens no name that is no UTF-8.
    return pa.BufferReader(source) if isinstance(source, bytes) else source.open("rb")


def _listed(columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Return the bytes of the values of a column of texts that is held as a dictionary."""
    kind = column.type
    if not pa.types.is_dictionary(kind) or not (_is_text(kind.value_type) or _is_large(kind.value_type)):
        return 0
    lengths = (pc.binary_length(chunk.dictionary).take(chunk.indices) for chunk in column.chunks)
    return sum(pc.sum(each).as_py() or 0 for each in lengths)


def _is_large(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(kind) or pa.types.is_large_binary(kind))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
