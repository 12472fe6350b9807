"""Features made elsewhere become a data set and a cache like any other."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from toptune.store.collection import IMPORTED
from toptune.store.errors import InputError
from toptune.store.feature_cache import FeatureCache
from toptune.store.feature_store import FeatureStore
from toptune.store.manifest import Manifest
from toptune.store.matrix_files import Matrix
from toptune.store.recipe import Recipe
from toptune.store.units import choose_unit_rows

_STEP_BYTES = 8 * 2**20

Report = Callable[[int, int], None]


def import_features(
    store: FeatureStore,
    matrices: Mapping[str, Matrix],
    *,
    dataset: str,
    model: str,
    ids: Sequence[str] | None = None,
    labels: Sequence[str | None] | None = None,
    splits: Sequence[str | None] | None = None,
    format: str = "zarr",  # noqa: A002
    allow_failed: bool = False,
    progress: Report | None = None,
) -> FeatureCache:
    """Store matrices of features as arrays ``<name>.imported``; the same again finds it done.

    Identity is content: the digest of the matrices' values stands where that of the weights does. Values are
    kept as float16 or float32; float64 is narrowed to float32. Interrupted and called again, it goes on
    where it stopped.

    Parameters
    ----------
    store : FeatureStore
    matrices : mapping of str to array-like (n, dim)
        By layer; read in slices of rows, so that memory-mapped ones stay on disk.
    dataset, model : str
        Names under which they are found.
    ids : sequence of str (n,), optional
        By default the row numbers, as ``000042``.
    labels, splits : sequence of str or None (n,), optional
    format : {"zarr", "hdf5"}
        Of a new cache.
    allow_failed : bool
        Store rows with NaN or infinity as failed, instead of refusing them.
    progress : callable, optional
        Called with ``(rows_done, rows)``, twice over all rows: the digest, then the values.

    Raises
    ------
    InputError
        If shapes, types or lengths do not fit, or a row is not finite; names the first ones.
    ConflictError
        If the store holds other rows under that data set's name.
    """
    n_rows = _check(matrices)
    if ids is not None and len(ids) != n_rows:
        raise InputError(f"{len(ids)} ids for {n_rows} rows of features")
    manifest = Manifest.from_columns(
        ids=[f"{row:06d}" for row in range(n_rows)] if ids is None else ids,
        labels=labels,
        splits=splits,
        sizes=np.zeros(n_rows, np.int64),
    )
    dims = {name: int(matrix.shape[1]) for name, matrix in matrices.items()}
    row_bytes = sum(_stored_type(matrix).itemsize * dims[name] for name, matrix in matrices.items())
    job = _Progress(progress, 2 * n_rows)
    digest, failed = _digest(matrices, manifest, job, allow_failed=allow_failed)
    recipe = Recipe(
        architecture=IMPORTED,
        model_kwargs={"layers": sorted(matrices)},
        weights=digest,
        transform={},
        decode="none",
        precision="fp32",
    )
    store.register(dataset, manifest)
    cache = store.create_cache(
        model,
        dataset,
        recipe,
        unit_rows=choose_unit_rows(n_rows, row_bytes, 1),
        batch_size=1,
        backbone={"name": model, "source": IMPORTED},
        format=format,
    )
    names = {name: f"{name}.{IMPORTED}" for name in matrices}
    for name, matrix in matrices.items():
        cache.ensure_array(names[name], dim=dims[name], dtype=_stored_type(matrix).name)
    missing = sorted({unit for name in names.values() for unit in cache.missing_units(name)})
    for unit in missing:
        rows = cache.unit_slice(unit)
        values = {names[name]: _block(matrix, rows) for name, matrix in matrices.items()}
        here = {row: reason for row, reason in failed.items() if rows.start <= row < rows.stop}
        cache.commit_unit(unit, values, failed=here)
        job.add(rows.stop - rows.start)
    cache.pack_ledgers(list(names.values()))
    return cache


class _Progress:
    def __init__(self, report: Report | None, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def add(self, rows: int) -> None:
        self._done += rows
        if self._report is not None:
            self._report(min(self._done, self._total), self._total)


def _check(matrices: Mapping[str, Matrix]) -> int:
    if not matrices:
        raise InputError("nothing to import; give at least one matrix of features")
    lengths = {}
    for name, matrix in matrices.items():
        if len(matrix.shape) != 2 or 0 in matrix.shape:
            raise InputError(f"{name!r} has shape {tuple(matrix.shape)}; rows x features are needed")
        if np.dtype(matrix.dtype).kind not in "fiu":
            raise InputError(f"{name!r} holds {matrix.dtype}; numbers are needed")
        lengths[name] = int(matrix.shape[0])
    if len(set(lengths.values())) > 1:
        raise InputError(f"the matrices have different numbers of rows: {lengths}")
    return next(iter(lengths.values()))


def _stored_type(matrix: Matrix) -> np.dtype[Any]:
    return np.dtype(np.float16 if np.dtype(matrix.dtype) == np.float16 else np.float32)


def _block(matrix: Matrix, rows: slice) -> Any:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(matrix[rows]).astype(_stored_type(matrix), copy=False)


def _digest(
    matrices: Mapping[str, Matrix], manifest: Manifest, job: _Progress, *, allow_failed: bool
) -> tuple[str, dict[int, str]]:
    """Return the SHA-256 of all values as stored, and the rows that are not finite."""
    digest = hashlib.sha256(b"toptune imported 1\n")
    failed: dict[int, str] = {}
    for name in sorted(matrices):
        matrix = matrices[name]
        n, dim = (int(size) for size in matrix.shape)
        digest.update(f"{name}\0{n}\0{dim}\0{_stored_type(matrix)}\n".encode())
        step = max(1, _STEP_BYTES // (dim * _stored_type(matrix).itemsize))
        for start in range(0, n, step):
            block = _block(matrix, slice(start, min(start + step, n)))
            digest.update(block.data)
            for place in np.flatnonzero(~np.isfinite(block).all(axis=1)).tolist():
                failed.setdefault(start + place, f"NaN or infinity in imported {name}")
    job.add(manifest.n_rows)
    if failed and not allow_failed:
        shown = ", ".join(f"{row} ({manifest.picture_id(row)!r})" for row in sorted(failed)[:5])
        raise InputError(
            f"{len(failed)} rows hold NaN or infinity (or a value too large for float32): {shown}"
            f"{', ...' if len(failed) > 5 else ''}; repair them, or store them as failed "
            "with --skip-failed"
        )
    return digest.hexdigest(), failed
