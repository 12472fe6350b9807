"""Import features made elsewhere, as a data set and a cache like any other."""

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from toptune.errors import ConflictError, InputError, StoreNotFoundError
from toptune.store.arrays.units import MAX_UNIT_BYTES, choose_unit_rows
from toptune.store.datasets.manifest import Manifest
from toptune.store.exchange.matrix_files import Matrix
from toptune.store.features.cache_records import open_cache
from toptune.store.features.feature_cache import FeatureCache
from toptune.store.features.feature_store import FeatureStore
from toptune.store.features.recipe import IMPORTED, Recipe
from toptune.store.files.names import check_name, plain_model_name
from toptune.store.files.place import place_at
from toptune.store.files.system_errors import refusal
from toptune.store.files.writing import check_writable
from toptune.text import counted

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
    """Store matrices of features as arrays ``<name>.imported``; a second call with equal values does nothing.

    The recipe identifies the features by their content: the digest of the values takes the place of the
    digest of weights. Values are kept as float16 or float32; float64 is narrowed to float32. After an
    interruption the same call goes on where the first stopped. One unit of every matrix is held at a time, at
    most 256 MiB together.

    The rows of a new data set have no files: their sizes are recorded as 0, so that features of several
    models can be imported over the same rows. Features of images that the store knows already join the data
    set of these images, if they have the same ids in the same order, and the same labels and splits where
    such are given.

    Parameters
    ----------
    store : FeatureStore
    matrices : mapping of str to array-like (n, dim)
        By layer; read in slices of rows and twice, so that memory-mapped ones stay on disk.
    dataset, model : str
        Names under which the store finds the features.
    ids : sequence of str (n,), optional
        By default the row numbers, as ``000042``.
    labels, splits : sequence of str or None (n,), optional
    format : {"zarr", "hdf5"}
        Format of a new cache.
    allow_failed : bool
        Store rows with NaN or infinity as failed, instead of refusing them.
    progress : callable, optional
        Called with ``(rows_done, rows)`` of all matrices, twice over: the digest, then the values.

    Raises
    ------
    InputError
        If names, shapes, types or lengths do not fit, a row is not finite (names the first ones), or
        the values change while they are read.
    ConflictError
        If the store holds other rows under that data set's name, or other features of it under that
        model's; the message says what differs.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from toptune.store import FeatureStore, import_features
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = FeatureStore.create(folder)
    ...     cache = import_features(store, {"last": np.eye(3)}, dataset="pets", model="mine", ids=list("abc"))
    ...     blocks = cache.blocks(["last.imported"])
    ...     print(blocks.shape, blocks.dtype, cache.recipe.is_imported)
    (3, 3) float32 True
    """
    n_rows = _check(matrices)
    names = _array_names(matrices)
    check_name(dataset, what="data set")
    plain_model_name(model)
    if ids is not None and len(ids) != n_rows:
        raise InputError(f"{len(ids)} ids for {n_rows} rows of features")
    manifest = Manifest.from_columns(
        ids=[f"{row:06d}" for row in range(n_rows)] if ids is None else ids,
        labels=labels,
        splits=splits,
        sizes=np.zeros(n_rows, np.int64),
    )
    manifest = _of_known_images(store, dataset, manifest, has_labels=labels is not None) or manifest
    dims = {name: int(matrix.shape[1]) for name, matrix in matrices.items()}
    row_bytes = sum(_stored_type(matrix).itemsize * dims[name] for name, matrix in matrices.items())
    if row_bytes > MAX_UNIT_BYTES:
        raise InputError(f"a row has {row_bytes} bytes; {MAX_UNIT_BYTES} at most can be stored")
    unit_rows = choose_unit_rows(n_rows, row_bytes, 1)
    # All values are read before the first is written.
    if place_at(store.root).has_whole_folders:
        check_writable(store.root, option="store")
    job = _Progress(progress, 2 * n_rows * len(matrices))
    # The values are read twice. The digest of all values names the cache and must be known before the first
    # unit is committed, and memory holds one unit only.
    content = _read_through(matrices, n_rows, unit_rows, job)
    _refuse_failed(content.failed, manifest, allow_failed=allow_failed)
    recipe = Recipe(
        architecture=IMPORTED,
        model_kwargs={"layers": sorted(matrices)},
        weights=content.digest,
        transform={},
        decode="none",
        precision="fp32",
    )
    _refuse_other_content(store, model, dataset, recipe)
    store.register(dataset, manifest)
    cache = store.create_cache(
        model,
        dataset,
        recipe,
        unit_rows=unit_rows,
        batch_size=1,
        backbone={"name": model, "source": IMPORTED},
        format=format,
    )
    for name, matrix in matrices.items():
        cache.ensure_array(names[name], dim=dims[name], dtype=_stored_type(matrix).name)
    missing = {unit for name in names.values() for unit in cache.missing_units(name)}
    for unit in range(cache.n_units):
        rows = cache.unit_slice(unit)
        if unit in missing:
            values = {name: _block(matrix, name, rows) for name, matrix in matrices.items()}
            # A file that changes between the two readings would be stored under the digest of other values.
            # An adopted cache may have units of another size, for which there are no checksums.
            if cache.unit_rows == unit_rows:
                content.require_same(unit, values)
            here = {row: why for row, why in content.failed.items() if rows.start <= row < rows.stop}
            cache.commit_unit(unit, {names[name]: block for name, block in values.items()}, failed=here)
        job.add((rows.stop - rows.start) * len(matrices))
    cache.pack_ledgers(list(names.values()))
    return cache


@dataclass
class _Content:
    """Result of the first reading: digest of all values, a checksum per unit, rows that are not finite."""

    digest: str = ""
    checksums: dict[tuple[int, str], int] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)

    def require_same(self, unit: int, values: Mapping[str, npt.NDArray[np.number]]) -> None:
        """Refuse values that changed since their digest was computed."""
        for name, block in values.items():
            if zlib.crc32(block.data) != self.checksums[unit, name]:
                raise InputError(
                    f"{name!r} changed while it was imported; make sure that nobody writes to the file and "
                    "import it under another model name (store rm takes the half import away)"
                )


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


def _array_names(matrices: Mapping[str, Matrix]) -> dict[str, str]:
    names = {name: check_name(f"{name}.{IMPORTED}", what="layer") for name in matrices}
    for name in matrices:
        if not name or name.partition(".")[0] == "content":
            raise InputError(f"layer name {name!r} is taken by the store itself; choose another name")
    if len(set(names.values())) < len(names):
        raise InputError(f"two layers have the same name in Unicode form NFC: {', '.join(names)}; rename one")
    return names


def _stored_type(matrix: Matrix) -> np.dtype[np.generic]:
    return np.dtype(np.float16 if np.dtype(matrix.dtype) == np.float16 else np.float32)


def _block(matrix: Matrix, name: str, rows: slice) -> npt.NDArray[np.number]:
    """Read rows in the type that is stored."""
    try:
        found = np.ascontiguousarray(matrix[rows])
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # Each library raises errors of its own.
        why = refusal(error) or f"{error}"
        raise InputError(f"{name!r} cannot be read in rows {rows.start} to {rows.stop}: {why}") from error
    with np.errstate(over="ignore", invalid="ignore"):
        block = np.asarray(found.astype(_stored_type(matrix), copy=False))
    # Whole numbers above 2**24 would be rounded silently.
    if found.dtype.kind in "iu" and (block.astype(np.float64) != found).any():
        raise InputError(f"{name!r} has whole numbers that float32 does not hold, above 2**24; scale them")
    return block


def _read_through(matrices: Mapping[str, Matrix], n_rows: int, unit_rows: int, job: _Progress) -> _Content:
    """Read all values once, unit by unit; the digest does not depend on the size of a unit."""
    content = _Content()
    digest = hashlib.sha256(b"toptune imported 1\n")
    # Sorted names make the digest independent of the order of the arguments.
    for name in sorted(matrices):
        matrix = matrices[name]
        digest.update(f"{name}\0{n_rows}\0{int(matrix.shape[1])}\0{_stored_type(matrix)}\n".encode())
        for unit, start in enumerate(range(0, n_rows, unit_rows)):
            block = _block(matrix, name, slice(start, min(start + unit_rows, n_rows)))
            digest.update(block.data)
            content.checksums[unit, name] = zlib.crc32(block.data)
            for place in np.flatnonzero(~np.isfinite(block).all(axis=1)).tolist():
                content.failed.setdefault(start + place, f"NaN or infinity in imported {name}")
            job.add(len(block))
    content.digest = digest.hexdigest()
    return content


def _refuse_failed(failed: Mapping[int, str], manifest: Manifest, *, allow_failed: bool) -> None:
    if failed and not allow_failed:
        shown = ", ".join(f"{row} ({manifest.image_id(row)!r})" for row in sorted(failed)[:5])
        raise InputError(
            f"NaN or infinity (or a value too large for float32) in {counted(len(failed), 'row')}: {shown}"
            f"{', ...' if len(failed) > 5 else ''}; repair them, or store them as failed "
            "with --skip-failed"
        )


def _of_known_images(
    store: FeatureStore, dataset: str, manifest: Manifest, *, has_labels: bool
) -> Manifest | None:
    """Return the manifest of images that were extracted, if the imported rows are these images."""
    try:
        known = store.manifest(dataset)
    except StoreNotFoundError:
        return None
    has_files = any(known.table["bytes"].to_pylist())
    is_same = known.ids == manifest.ids and (not has_labels or known.labels == manifest.labels)
    has_splits = any(split is not None for split in manifest.splits)
    is_same &= not has_splits or known.splits == manifest.splits
    return known if has_files and is_same else None


def _refuse_other_content(store: FeatureStore, model: str, dataset: str, recipe: Recipe) -> None:
    """Refuse a name that stands for other features, because one name must not mean two caches."""
    for folder in store.find_folders(model, dataset):
        there = open_cache(store.root, folder)
        if there.digest != recipe.digest:
            raise ConflictError(
                f"{there.name} over {dataset!r} holds other features (there against now): "
                f"{'; '.join(there.recipe.differences(recipe))}; import these under another --model, or "
                "remove those first with store rm"
            )
