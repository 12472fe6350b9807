"""Write features block after block as npy, Parquet and safetensors."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from toptune.errors import InputError
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.tensor_files import tensors_header
from toptune.store.features.blocks import BLOCK_BYTES
from toptune.store.features.feature_view import StoredFeatures
from toptune.store.files.writing import new_file

ROW_GROUP_BYTES = 8 * 2**20
# The most that the safetensors library reads of a header.
MAX_HEADER_BYTES = 100_000_000

Report = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Export:
    """The rows and arrays that an export writes.

    Attributes
    ----------
    cache : StoredFeatures
        Features to export.
    specs : sequence of ArraySpec
        Arrays to write, in their order.
    rows : array of int (n,), optional
        Rows of the data set, all of them by default.
    failed_rows : dict of int to str
        Row of the data set to reason of images whose rows are NaN, in order.
    progress : callable
        Called with ``(rows_done, rows)`` of all arrays together.
    """

    cache: StoredFeatures
    specs: Sequence[ArraySpec]
    rows: npt.NDArray[np.intp] | None
    failed_rows: dict[int, str]
    progress: Report

    @property
    def n_rows(self) -> int:
        """Number of rows written."""
        return self.cache.n_rows if self.rows is None else len(self.rows)

    @property
    def failed(self) -> dict[str, str]:
        """Id to reason of images whose rows are NaN."""
        return {self.cache.manifest.image_id(row): reason for row, reason in self.failed_rows.items()}

    @property
    def table(self) -> pa.Table:
        """Arrow table of the rows' ``id``, ``label`` and ``split``."""
        table = self.cache.manifest.table.select(["id", "label", "split"])
        return table if self.rows is None else table.take(pa.array(self.rows))

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of a file, as JSON: where the features come from, and which images failed."""
        source = {"dataset": self.cache.dataset, "cache": self.cache.name, "recipe": self.cache.digest}
        return {"toptune": _json(source), "failed": _json(self.failed)}

    def blocks(self, spec: ArraySpec, block_rows: int | None = None) -> Iterator[npt.NDArray[np.number]]:
        """Yield the values of one array, in the type on disk."""
        for _, values in self.cache.blocks([spec.name], self.rows).iterate(block_rows):
            yield values


def write_npy(export: Export, folder: Path) -> None:
    """Write ``<tap>.<pooling>.npy`` for each array, and ``rows.parquet``."""
    folder.mkdir()
    done = 0
    for spec in export.specs:
        # The file is written and not memory-mapped, because a full disk would end a process that writes to a
        # mapping by SIGBUS instead of an error.
        with new_file(folder / f"{spec.name}.npy") as file:
            shape = {"descr": np.dtype(spec.dtype).str, "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, {**shape, "shape": (export.n_rows, spec.dim)})
            done = _write_values(export, spec, file, done)
    rows = np.arange(export.n_rows) if export.rows is None else export.rows
    failed = pc.replace_with_mask(
        pa.nulls(len(rows), pa.string()),
        pa.array(np.isin(rows, list(export.failed_rows))),
        pa.array(export.failed_rows.values(), pa.string()),
    )
    table = export.table.add_column(0, "row", pa.array(rows)).append_column("failed", failed)
    with new_file(folder / "rows.parquet") as file:
        pq.write_table(table, file)


def write_parquet(export: Export, path: Path) -> None:
    """Write one file with id, label, split and a list for each array, in row groups of 8 MiB."""
    table = export.table
    lists = [
        pa.field(spec.name, pa.list_(pa.from_numpy_dtype(np.dtype(spec.dtype)), spec.dim))
        for spec in export.specs
    ]
    schema = pa.schema([*table.schema, *lists], metadata=export.metadata)
    block_rows = row_group_rows(export.specs)
    with new_file(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        readers = [export.blocks(spec, block_rows) for spec in export.specs]
        start = 0
        for parts in zip(*readers, strict=True):
            n = len(parts[0])
            columns = table.slice(start, n).combine_chunks().columns
            columns += [
                pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), spec.dim)
                for block, spec in zip(parts, export.specs, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=n)
            start += n
            export.progress(start * len(lists), export.n_rows * len(lists))


def write_safetensors(export: Export, path: Path) -> None:
    """Write one file: the arrays, with ids, labels and splits as JSON in its header.

    Raises
    ------
    InputError
        If the header would be longer than readers accept.
    """
    table = export.table
    metadata = export.metadata | {name: _json(table[name].to_pylist()) for name in table.column_names}
    # The widest type comes first, as the library orders them, so that every array is aligned.
    specs = sorted(export.specs, key=lambda spec: (-np.dtype(spec.dtype).itemsize, spec.name))
    text = tensors_header({spec.name: (spec.dtype, (export.n_rows, spec.dim)) for spec in specs}, metadata)
    if len(text) > MAX_HEADER_BYTES:
        raise InputError(
            f"ids, labels and splits take {len(text)} bytes of header, {MAX_HEADER_BYTES} is what readers of "
            "safetensors accept; export a --split, or --format npy or parquet"
        )
    with new_file(path) as file:
        file.write(text)
        done = 0
        for spec in specs:
            done = _write_values(export, spec, file, done)


WRITERS: dict[str, Callable[[Export, Path], None]] = {
    "npy": write_npy,
    "parquet": write_parquet,
    "safetensors": write_safetensors,
}


def row_group_rows(specs: Sequence[ArraySpec]) -> int:
    """Return the rows that make up 8 MiB of all arrays."""
    return max(1, ROW_GROUP_BYTES // sum(spec.row_bytes for spec in specs))


def peak_bytes(export: Export, name: str) -> int:
    """Return the most bytes that buffers hold while a format is written; ids and labels are extra.

    These are a unit of an array, as a file and decoded, and a block of rows; Parquet needs them for every
    array at once.
    """
    units = [spec.unit_rows * spec.row_bytes for spec in export.specs]
    if name == "parquet":
        # The block counts three times, because Arrow's copy and the encoded bytes are held beside the
        # values read.
        return 2 * sum(units) + 3 * max(ROW_GROUP_BYTES, max(spec.row_bytes for spec in export.specs))
    blocks = [min(export.n_rows * spec.row_bytes, BLOCK_BYTES) for spec in export.specs]
    return max(2 * unit + block for unit, block in zip(units, blocks, strict=True))


def _write_values(export: Export, spec: ArraySpec, file: IO[bytes], done: int) -> int:
    for values in export.blocks(spec):
        file.write(np.ascontiguousarray(values).data)
        done += len(values)
        export.progress(done, export.n_rows * len(export.specs))
    return done


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
