"""Records of a cache's arrays: ``ledger/<name>/array.json``, which covers the array's metadata file."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toptune.errors import CorruptError, InputError, StoreError
from toptune.store.arrays.formats import format_of
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.units import choose_chunk_rows
from toptune.store.files.names import is_temporary
from toptune.store.files.place import check_inside, place_at
from toptune.store.files.publish import publish
from toptune.store.files.reading import list_folder, read_file
from toptune.store.files.sealed import seal, unseal

ARRAY_KIND = "toptune-array"


def record_path(cache: Path, name: str) -> Path:
    """Return the file of an array's record."""
    return cache / "ledger" / name / "array.json"


def metadata_path(cache: Path, spec: ArraySpec) -> Path:
    """Return an array's metadata file: ``zarr.json`` or ``all.h5``."""
    return cache / spec.name / format_of(spec.format).METADATA


def recorded_names(cache: Path) -> list[str]:
    """List the arrays that have a record, sorted."""
    return [
        folder.name
        for folder in list_folder(cache / "ledger")
        if not is_temporary(folder.name) and (folder / "array.json").exists()
    ]


def make_array(root: Path, cache: Path, spec: ArraySpec, measured: Mapping[str, float] | None = None) -> None:
    """Write an array's metadata file and then its record, with what was measured, unless they are there."""
    made = format_of(spec.format)
    metadata = check_inside(root, metadata_path(cache, spec))
    data = publish(metadata, made.metadata(spec), lambda found: made.is_same_array(found, spec))
    place_at(check_inside(root, record_path(cache, spec.name))).put_if_absent(_render(spec, data, measured))


def read_measured(cache: Path, name: str) -> dict[str, float]:
    """Read what was measured of an array when it was made; nothing if its record does not say."""
    path = record_path(cache, name)
    values = unseal(ARRAY_KIND, read_file(path), path)
    return dict(values.get("measured", {}))


def read_array(cache: Path, name: str) -> ArraySpec:
    """Read an array's record and check its metadata file.

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
        spec, digest = ArraySpec(**values["spec"]), _digest(values)
    except (KeyError, TypeError, InputError) as error:
        raise CorruptError(f"{path} does not describe an array: {error}", path) from error
    if spec.name != name:
        raise CorruptError(f"{path} describes array {spec.name!r}; was it moved?", path)
    metadata = metadata_path(cache, spec)
    try:
        data = read_file(metadata)
    except FileNotFoundError as error:
        raise CorruptError(f"{metadata} is gone; restore it from a copy", metadata) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise CorruptError(f"{metadata} differs from what was written; restore it from a copy", metadata)
    return spec


def restore_array(cache: Path, name: str, *, n_rows: int, unit_rows: int, format: str) -> list[Path]:  # noqa: A002
    """Write an array's damaged record, or its damaged metadata file, again from what the other says.

    Parameters
    ----------
    cache : Path
        The cache's folder.
    name : str
        The array.
    n_rows, unit_rows : int
    format : str
        Of the cache: what a metadata file must say to be believed.

    Returns
    -------
    list of Path
        The files written; none if neither tells what the array is.
    """
    record, metadata = record_path(cache, name), cache / name / format_of(format).METADATA
    try:
        values = unseal(ARRAY_KIND, read_file(record), record)
        spec = ArraySpec(**values["spec"])
    except (StoreError, FileNotFoundError, KeyError, TypeError, InputError):
        return _restore_record(cache, name, n_rows=n_rows, unit_rows=unit_rows, format=format)
    if (spec.name, spec.format) != (name, format):
        return []
    data = format_of(format).metadata(spec)
    place_at(metadata).replace(data)
    # Another version of the library may have written other bytes for the same array.
    place_at(record).replace(_render(spec, data, values.get("measured")))
    return [metadata]


def _restore_record(cache: Path, name: str, *, n_rows: int, unit_rows: int, format: str) -> list[Path]:  # noqa: A002
    """Write ``array.json`` again if the metadata describes an array that this cache could have made."""
    record, metadata = record_path(cache, name), cache / name / format_of(format).METADATA
    try:
        data = read_file(metadata)
        dim, dtype = format_of(format).describe_metadata(data)
        spec = ArraySpec(
            name=name,
            dim=dim,
            dtype=dtype,
            format=format,
            unit_rows=unit_rows,
            chunk_rows=choose_chunk_rows(unit_rows),
            n_rows=n_rows,
        )
    except (StoreError, FileNotFoundError, ValueError, KeyError, TypeError, IndexError):
        return []
    if not format_of(format).is_same_array(data, spec):
        return []
    place_at(record).replace(_render(spec, data))
    return [record]


def _render(spec: ArraySpec, metadata: bytes, measured: Mapping[str, float] | None = None) -> bytes:
    values = {"spec": spec.to_dict(), "metadata_sha256": hashlib.sha256(metadata).hexdigest()}
    return seal(ARRAY_KIND, values | ({"measured": dict(measured)} if measured else {}))


def _digest(values: dict[str, Any]) -> str:
    """Return the metadata's digest; stores of version 1 know Zarr only and call it so."""
    return str(values["metadata_sha256"] if "metadata_sha256" in values else values["zarr_sha256"])
