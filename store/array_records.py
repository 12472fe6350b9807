"""Records of a cache's arrays: ``ledger/<name>/array.json``, which covers the array's ``zarr.json``."""

import hashlib
from pathlib import Path

from toptune.store import commit, zarr_arrays
from toptune.store.errors import CorruptError, InputError
from toptune.store.names import check_inside
from toptune.store.publish import publish
from toptune.store.reading import read_file
from toptune.store.sealed import seal, unseal
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
    return sorted(folder.name for folder in ledger.iterdir() if (folder / "array.json").exists())


def make_array(root: Path, cache: Path, spec: ArraySpec) -> None:
    """Write an array's ``zarr.json`` and then its record, unless they are there."""
    metadata = check_inside(root, cache / spec.name / "zarr.json")
    ours = zarr_arrays.array_metadata(spec)
    data = publish(metadata, ours, lambda found: zarr_arrays.is_same_array(found, spec))
    record = {"spec": spec.to_dict(), "zarr_sha256": hashlib.sha256(data).hexdigest()}
    commit.put_if_absent(check_inside(root, record_path(cache, spec.name)), seal(ARRAY_KIND, record))


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
