"""Records of a cache's arrays: ``ledger/<name>/array.json``, which covers the array's metadata file."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from toptune.errors import CorruptError, FormatVersionError
from toptune.store.arrays.formats import format_of
from toptune.store.arrays.spec import ArraySpec
from toptune.store.arrays.units import choose_chunk_rows
from toptune.store.files.json_records import record_to_json
from toptune.store.files.local_place import HeldFolder
from toptune.store.files.place import check_inside, place_at
from toptune.store.files.publish import publish
from toptune.store.files.reading import MAX_RECORD_BYTES, list_entries, may_exist, read_file
from toptune.store.files.sealed import record_of, seal, unseal

ARRAY_KIND = "toptune-array"


@dataclass(frozen=True, kw_only=True)
class ArrayRecord:
    """Content of ``array.json``; the fields have the names of its keys.

    Attributes
    ----------
    spec : ArraySpec
        Shape and cut of the array.
    metadata_sha256 : str, optional
        Digest of the array's metadata file.
    zarr_sha256 : str, optional
        The same digest, as stores of version 1 call it: they know Zarr only.
    measured : mapping of str to float, optional
        What was measured of the array when it was made.
    """

    spec: ArraySpec
    metadata_sha256: str | None = None
    zarr_sha256: str | None = None
    measured: Mapping[str, float] | None = None

    @property
    def digest(self) -> str | None:
        """Digest of the metadata file, under either key."""
        return self.metadata_sha256 or self.zarr_sha256


def record_path(cache: Path, name: str) -> Path:
    """Return the file of an array's record."""
    return cache / "ledger" / name / "array.json"


def metadata_path(cache: Path, spec: ArraySpec) -> Path:
    """Return an array's metadata file: ``zarr.json`` or ``all.h5``."""
    return cache / spec.name / format_of(spec.format).METADATA


def recorded_names(cache: Path) -> list[str]:
    """List the arrays that have a record, sorted."""
    return [folder.name for folder in list_entries(cache / "ledger") if may_exist(folder / "array.json")]


def make_array(
    root: Path,
    cache: Path,
    spec: ArraySpec,
    measured: Mapping[str, float] | None = None,
    *,
    held: HeldFolder | None = None,
) -> None:
    """Write the metadata file of an array and then the record, unless both exist.

    `held` is the cache's folder, through which the files are written.
    """
    made = format_of(spec.format)
    metadata = check_inside(root, metadata_path(cache, spec))
    # The metadata come before the record, which carries their digest. Metadata that another version of the
    # format's library wrote are adopted if they describe the same array.
    data = publish(metadata, made.metadata(spec), lambda found: made.is_same_array(found, spec), held=held)
    record = check_inside(root, record_path(cache, spec.name))
    if place_at(record, held).put_if_absent(_render(spec, data, measured)):
        # A removal takes the record first and the metadata last. One that began before this record may have
        # taken the metadata between the two steps above.
        publish(metadata, data, lambda found: found == data, held=held)


def read_measured(cache: Path, name: str) -> dict[str, float]:
    """Read the measurements that were made with an array; empty if the record has none."""
    return dict(_read_record(record_path(cache, name)).measured or {})


def read_array(cache: Path, name: str) -> ArraySpec:
    """Read the record of an array and check the metadata file.

    Raises
    ------
    FileNotFoundError
        If there is no record.
    CorruptError
        If the record or the metadata file is damaged; the error names the file.
    """
    path = record_path(cache, name)
    record = _read_record(path)
    spec = record.spec
    if spec.name != name:
        raise CorruptError(f"{path} describes array {spec.name!r}; was it moved?", path)
    metadata = metadata_path(cache, spec)
    try:
        data = read_file(metadata, max_bytes=MAX_RECORD_BYTES)
    except FileNotFoundError as error:
        raise CorruptError(f"{metadata} is gone; restore it from a copy", metadata) from error
    # A changed shape or type would decode every unit to wrong numbers without breaking a checksum.
    if hashlib.sha256(data).hexdigest() != record.digest:
        raise CorruptError(f"{metadata} differs from what was written; restore it from a copy", metadata)
    return spec


def restore_array(cache: Path, name: str, *, n_rows: int, unit_rows: int, format: str) -> list[Path]:  # noqa: A002
    """Rebuild the damaged record of an array from the metadata file, or the file from the record.

    Parameters
    ----------
    cache : Path
        Folder of the cache.
    name : str
        Name of the array.
    n_rows, unit_rows : int
        Rows of the data set and of a unit.
    format : str
        Format of the cache: what a metadata file must say to be believed.

    Returns
    -------
    list of Path
        The files written; empty if neither file tells what the array is.

    Raises
    ------
    StoreError
        If the system refuses to read one of them, which may tell what the array is.
    """
    record, metadata = record_path(cache, name), cache / name / format_of(format).METADATA
    try:
        found = _read_record(record)
    except (CorruptError, FormatVersionError, FileNotFoundError):
        return _restore_record(cache, name, n_rows=n_rows, unit_rows=unit_rows, format=format)
    spec = found.spec
    # A record that was moved here from elsewhere must not make the metadata of another array.
    if (spec.name, spec.format) != (name, format):
        return []
    data = format_of(format).metadata(spec)
    place_at(metadata).replace(data)
    # Another version of the library may have written other bytes for the same array.
    place_at(record).replace(_render(spec, data, found.measured))
    return [metadata]


def _restore_record(cache: Path, name: str, *, n_rows: int, unit_rows: int, format: str) -> list[Path]:  # noqa: A002
    """Write ``array.json`` again if the metadata describes an array that this cache could have made."""
    record, metadata = record_path(cache, name), cache / name / format_of(format).METADATA
    try:
        data = read_file(metadata, max_bytes=MAX_RECORD_BYTES)
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
    # Damaged bytes can raise anything in a parser; whatever it is, the file tells nothing.
    except (CorruptError, FileNotFoundError, ValueError, KeyError, TypeError, IndexError):
        return []
    # Metadata that survived damage may parse and still describe another array. Only an exact match is
    # believed.
    if not format_of(format).is_same_array(data, spec):
        return []
    place_at(record).replace(_render(spec, data))
    return [record]


def _render(spec: ArraySpec, metadata: bytes, measured: Mapping[str, float] | None = None) -> bytes:
    digest = hashlib.sha256(metadata).hexdigest()
    record = ArrayRecord(spec=spec, metadata_sha256=digest, measured=measured or None)
    return seal(ARRAY_KIND, record_to_json(record))


def _read_record(path: Path) -> ArrayRecord:
    content = unseal(ARRAY_KIND, read_file(path), path)
    record = record_of(ArrayRecord, content, path)
    if record.digest is None:
        raise CorruptError(f"{path} lacks metadata_sha256", path)
    # Records elsewhere may hold keys that only a newer toptune knows. Here such a key may change how units
    # decode, and wrong numbers would follow.
    unknown = sorted(set(content["spec"]) - {field.name for field in fields(ArraySpec)})
    if unknown:
        raise CorruptError(
            f"{path} describes the array by {unknown[0]!r}, which this toptune does not know; upgrade "
            "toptune, or use another --store",
            path,
        )
    return record
