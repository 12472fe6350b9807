"""Write a cache's features as files that other programs read: npy, Parquet, safetensors."""

import contextlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from toptune.store.array_spec import ArraySpec
from toptune.store.errors import InputError, StoreError, ToptuneError
from toptune.store.feature_view import StoredFeatures

EXPORT_FORMATS = ("npy", "parquet", "safetensors")
# Safetensors are made in memory by their library: this is the most that is tried.
MAX_SAFETENSORS_BYTES = 2 * 2**30

Report = Callable[[int, int], None]


def export_features(
    cache: StoredFeatures,
    out: str | Path,
    *,
    format: str,  # noqa: A002
    names: Sequence[str] | None = None,
    split: str | None = None,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Write features with ids, labels and splits; block after block, so that memory stays small.

    Parameters
    ----------
    cache : FeatureCache or FeatureView
    out : path
        Made new: a folder with one ``<tap>.<pooling>.npy`` an array and ``rows.parquet`` (format
        ``npy``), or one file (``parquet``: columns id, label, split, and a fixed-size list an array;
        ``safetensors``: the arrays, with ids, labels and splits as JSON in the metadata).
    format : {"npy", "parquet", "safetensors"}
    names : sequence of str, optional
        Arrays; by default all of features.
    split : str, optional
        Only rows of this split.
    progress : callable, optional
        Called with ``(rows_done, rows)`` of all arrays together.

    Returns
    -------
    dict
        ``out``, ``rows``, ``arrays`` and ``failed`` (id to reason; their rows are NaN), as JSON values.

    Raises
    ------
    InputError
        If `out` exists, the format is unknown, nothing matches, or safetensors would take more memory
        than 2 GiB.
    StoreError
        If units are missing or damaged, or `out` cannot be written.
    """
    target = Path(out).absolute()
    if format not in EXPORT_FORMATS:
        raise InputError(f"format {format!r} is none of {', '.join(EXPORT_FORMATS)}")
    if target.exists():
        raise InputError(f"{target} exists; nothing is overwritten: give another -o")
    specs = [cache.array(name) for name in names] if names is not None else cache.arrays()
    if not specs:
        raise InputError(f"{cache.name} over {cache.dataset} has no features to export")
    rows = _rows(cache, split)
    for spec in specs:
        cache.blocks([spec.name], rows)  # refuses missing units before anything is written
    job = _Export(cache, specs, rows, progress)
    with _new(target) as temporary:
        {"npy": job.npy, "parquet": job.parquet, "safetensors": job.safetensors}[format](temporary)
    failed = cache.failed_rows([spec.name for spec in specs])
    ids = cache.manifest.ids
    return {
        "out": str(target),
        "rows": len(rows),
        "arrays": [spec.name for spec in specs],
        "failed": {ids[row]: failed[row] for row in rows.tolist() if row in failed},
    }


def _rows(cache: StoredFeatures, split: str | None) -> npt.NDArray[np.intp]:
    if split is None:
        return np.arange(cache.n_rows, dtype=np.intp)
    rows = np.flatnonzero(np.array([name == split for name in cache.manifest.splits]))
    if not len(rows):
        there = sorted({name for name in cache.manifest.splits if name is not None})
        raise InputError(f"no row belongs to split {split!r}; there are: {', '.join(there) or 'none'}")
    return rows


class _Export:
    def __init__(
        self,
        cache: StoredFeatures,
        specs: Sequence[ArraySpec],
        rows: npt.NDArray[np.intp],
        progress: Report | None,
    ) -> None:
        self.cache, self.specs, self.rows, self.progress = cache, specs, rows, progress
        self.done = 0

    def blocks(self, spec: ArraySpec) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        for where, values in self.cache.blocks([spec.name], self.rows).iterate():
            yield where, values
            self.done += len(values)
            if self.progress is not None:
                self.progress(self.done, len(self.specs) * len(self.rows))

    def table(self) -> dict[str, list[str | None]]:
        manifest = self.cache.manifest
        columns: dict[str, Sequence[str | None]] = {
            "id": manifest.ids,
            "label": manifest.labels,
            "split": manifest.splits,
        }
        return {name: [values[row] for row in self.rows.tolist()] for name, values in columns.items()}

    def npy(self, folder: Path) -> None:
        folder.mkdir()
        for spec in self.specs:
            shape = (len(self.rows), spec.dim)
            path = folder / f"{spec.name}.npy"
            mapped = np.lib.format.open_memmap(path, mode="w+", dtype=spec.dtype, shape=shape)
            for where, values in self.blocks(spec):
                mapped[where] = values
            mapped.flush()
            del mapped
        failed = self.cache.failed_rows([spec.name for spec in self.specs])
        columns = {name: pa.array(values, pa.string()) for name, values in self.table().items()}
        columns["failed"] = pa.array([failed.get(row) for row in self.rows.tolist()], pa.string())
        pq.write_table(pa.table({"row": pa.array(self.rows), **columns}), folder / "rows.parquet")

    def parquet(self, path: Path) -> None:
        table = self.table()
        fields = [pa.field(name, pa.string()) for name in table]
        fields += [
            pa.field(spec.name, pa.list_(pa.from_numpy_dtype(np.dtype(spec.dtype)), spec.dim))
            for spec in self.specs
        ]
        names = [spec.name for spec in self.specs]
        block_rows = max(1, 8 * 2**20 // sum(spec.row_bytes for spec in self.specs))
        with pq.ParquetWriter(path, pa.schema(fields), compression="zstd") as writer:
            readers = [self.cache.blocks([name], self.rows).iterate(block_rows) for name in names]
            for parts in zip(*readers, strict=True):
                where = parts[0][0]
                columns = [pa.array(values[where], pa.string()) for values in table.values()]
                columns += [
                    pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), spec.dim)
                    for (_, block), spec in zip(parts, self.specs, strict=True)
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=pa.schema(fields)))
                if self.progress is not None:
                    self.progress(where.stop * len(names), len(self.rows) * len(names))

    def safetensors(self, path: Path) -> None:
        from safetensors.numpy import save_file

        n_bytes = len(self.rows) * sum(spec.row_bytes for spec in self.specs)
        if n_bytes > MAX_SAFETENSORS_BYTES:
            raise InputError(
                f"safetensors are made in memory: {n_bytes} bytes of features are above the limit of "
                f"{MAX_SAFETENSORS_BYTES}; export fewer --layers, or --format npy"
            )
        tensors = {}
        for spec in self.specs:
            values = np.empty((len(self.rows), spec.dim), dtype=spec.dtype)
            for where, block in self.blocks(spec):
                values[where] = block
            tensors[spec.name] = values
        metadata = {name: json.dumps(values, ensure_ascii=False) for name, values in self.table().items()}
        save_file(tensors, path, metadata=metadata)


@contextlib.contextmanager
def _new(target: Path) -> Iterator[Path]:
    """Give a temporary sibling, which takes its name on success and vanishes otherwise."""
    temporary = target.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if target.exists():
            raise InputError(f"{target} exists by now; give another -o")
        temporary.rename(target)
    except ToptuneError:
        raise
    except OSError as error:
        raise StoreError(
            f"cannot write {target}: {error.strerror or error}; free some space or give another -o; nothing "
            "was left behind"
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
