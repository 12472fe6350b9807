"""Records of a cache's arrays: ``ledger/<name>/array.json``, which covers the array's ``zarr.json``."""

import hashlib
import json
from pathlib import Path

from toptune.store import commit, zarr_arrays
from toptune.store.errors import CorruptError, InputError, StoreError
from toptune.store.names import check_inside
from toptune.store.publish import publish
from toptune.store.reading import read_file
from toptune.store.sealed import seal, unseal
from toptune.store.units import choose_chunk_rows
from toptune.store.zarr_arrays import ArraySpec

ARRAY_KIND = "toptune-array"


def record_path(cache: Path, name: str) -> Path:
    """Return the file of an array's record."""
    return cache / "ledger" / name / "array.json"


def recorded_names(cache: Path) -> list[str]:
    """List the arrays that have a record, sorted."""
    ledger = cache / "ledger"
    if not ledger.is_dir():
        return []
    return sorted(
        folder.name
        for folder in ledger.iterdir()
        if not commit.is_temporary(folder.name) and (folder / "array.json").exists()
    )


def make_array(root: Path, cache: Path, spec: ArraySpec) -> None:
    """Write an array's ``zarr.json`` and then its record, unless they are there."""
    metadata = check_inside(root, cache / spec.name / "zarr.json")
    ours = zarr_arrays.array_metadata(spec)
    data = publish(metadata, ours, lambda found: zarr_arrays.is_same_array(found, spec))
    commit.put_if_absent(check_inside(root, record_path(cache, spec.name)), _render(spec, data))


def read_array(cache: Path, name: str) -> ArraySpec:
    """Read an array's record and check its ``zarr.json``.

    Raises
    ------
    FileNotFoundError
        If there is no record.
    CorruptError
        If record or metadata are damaged; names the file.
    """
    path = record_path(cache, name)
    values = unseal(ARRAY_KIND, read_file(path), path)
    try:
        spec, digest = ArraySpec(**values["spec"]), values["zarr_sha256"]
    except (KeyError, TypeError, InputError) as error:
        raise CorruptError(f"{path} does not describe an array: {error}") from error
    if spec.name != name:
        raise CorruptError(f"{path} describes array {spec.name!r}; was it moved?")
    metadata = cache / name / "zarr.json"
    try:
        data = read_file(metadata)
    except FileNotFoundError as error:
        raise CorruptError(f"{metadata} is gone; restore it from a copy") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise CorruptError(f"{metadata} differs from what was written; restore it from a copy")
    return spec


def restore_array(cache: Path, name: str, *, n_rows: int, unit_rows: int) -> list[Path]:
    """Write an array's damaged record, or its damaged ``zarr.json``, again from what the other says.

    Parameters
    ----------
    cache : Path
        The cache's folder.
    name : str
        The array.
    n_rows, unit_rows : int
        Of the cache: what a ``zarr.json`` must say to be believed.

    Returns
    -------
    list of Path
        The files written; none if neither tells what the array is.
    """
    record, metadata = record_path(cache, name), cache / name / "zarr.json"
    try:
        spec = ArraySpec(**unseal(ARRAY_KIND, read_file(record), record)["spec"])
    except (StoreError, FileNotFoundError, KeyError, TypeError, InputError):
        return _restore_record(cache, name, n_rows=n_rows, unit_rows=unit_rows)
    if spec.name != name:
        return []
    data = zarr_arrays.array_metadata(spec)
    commit.replace(metadata, data)
    # Another version of zarr may have written other bytes for the same array.
    commit.replace(record, _render(spec, data))
    return [metadata]


def _restore_record(cache: Path, name: str, *, n_rows: int, unit_rows: int) -> list[Path]:
    """Write ``array.json`` again if ``zarr.json`` describes an array that this cache could have made."""
    record, metadata = record_path(cache, name), cache / name / "zarr.json"
    try:
        data = read_file(metadata)
        found = json.loads(data)
        spec = ArraySpec(
            name=name,
            dim=found["shape"][1],
            dtype=found["data_type"],
            unit_rows=unit_rows,
            chunk_rows=choose_chunk_rows(unit_rows),
            n_rows=n_rows,
        )
    except (StoreError, FileNotFoundError, ValueError, KeyError, TypeError, IndexError):
        return []
    if not zarr_arrays.is_same_array(data, spec):
        return []
    commit.replace(record, _render(spec, data))
    return [record]


def _render(spec: ArraySpec, metadata: bytes) -> bytes:
    return seal(ARRAY_KIND, {"spec": spec.to_dict(), "zarr_sha256": hashlib.sha256(metadata).hexdigest()})
