"""Versions of a data set that grew: which row of which part holds each image.

Version 1 is the data set as it was first registered, without a file of its own. Every later version is
``versions/000002.json`` beside its rows, ``versions/<sha256>.parquet``: a manifest with two more columns.
A version is never changed, and its features stay where they were computed.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from toptune.errors import CorruptError, InputError, StoreNotFoundError
from toptune.store.datasets import dataset_records
from toptune.store.datasets.manifest import Manifest
from toptune.store.files.json_records import record_to_json
from toptune.store.files.json_values import parse_json
from toptune.store.files.local_place import HeldFolder
from toptune.store.files.place import place_at
from toptune.store.files.provenance import provenance
from toptune.store.files.publish import publish
from toptune.store.files.reading import list_entries, read_file, read_matching
from toptune.store.files.sealed import seal, unseal_record

VERSION_KIND = "toptune-dataset-version"
PART_COLUMN, ROW_COLUMN = "~part", "~row"
_METADATA = b"toptune"


@dataclass(frozen=True, kw_only=True)
class VersionRecord:
    """Content of a version's record, such as ``versions/000002.json``; the fields have the names of its keys.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    number : int
        Number of the version, from 2.
    n_rows : int
        Number of images.
    parts : tuple of str
        Names of the parts that hold the images.
    rows_sha256, pictures_sha256 : str
        Digest of the file of the rows, and digest over the ids and sizes of the images.
    created : mapping
        Who made the version, when and where.
    """

    dataset: str
    number: int
    n_rows: int
    parts: tuple[str, ...]
    rows_sha256: str
    pictures_sha256: str
    created: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetVersion:
    """The rows of one version of a data set, and where the features of each row are stored.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    number : int
        From 1.
    manifest : Manifest
        The rows in their order, with labels and splits as they were in this version.
    parts : tuple of str
        Names of the parts, by their position.
    part : array (n,) of int
        Position in `parts` of each row's part.
    part_row : array (n,) of int
        Row of that part.
    created : dict
        Who made the version, when and where.
    """

    dataset: str
    number: int
    manifest: Manifest
    parts: tuple[str, ...]
    part: npt.NDArray[np.intp]
    part_row: npt.NDArray[np.intp]
    created: dict[str, str] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """Number of images."""
        return self.manifest.n_rows

    def rows_of(self, part: str) -> npt.NDArray[np.intp]:
        """Return the rows of this version that a part holds, ascending; none for an unknown part."""
        if part not in self.parts:
            return np.zeros(0, dtype=np.intp)
        return np.flatnonzero(self.part == self.parts.index(part))

    def is_same(self, other: "DatasetVersion") -> bool:
        """Whether both hold the same rows in the same places, modification times aside."""
        mine, theirs = np.array(self.parts), np.array(other.parts)
        return (
            not self.manifest.differences(other.manifest, exact=True)
            and bool(np.array_equal(mine[self.part], theirs[other.part]))
            and bool(np.array_equal(self.part_row, other.part_row))
        )


def version_numbers(root: Path, dataset: str) -> list[int]:
    """List the versions of a data set, ascending: 1 and every number with a record, sound or damaged."""
    stems = [path.stem for path in list_entries(_folder(root, dataset)) if path.suffix == ".json"]
    return [1, *sorted(int(stem) for stem in stems if stem.isdecimal() and int(stem) > 1)]


def read_dataset_version(root: Path, dataset: str, number: int | None = None) -> DatasetVersion:
    """Read a version, by default the latest.

    Raises
    ------
    StoreNotFoundError
        If there is no such data set or version; lists those there are.
    CorruptError
        If a file of it is damaged.
    """
    name = dataset_records.dataset_folder(root, dataset).name
    numbers = version_numbers(root, dataset)
    if numbers == [1]:
        dataset_records.read_record(root, dataset)  # says that there is none, and which there are
    number = numbers[-1] if number is None else number
    if number not in numbers:
        raise StoreNotFoundError(
            f"data set {dataset!r} of {root} has no version {number} (there are: "
            f"{', '.join(map(str, numbers))}); give one of these",
            option="dataset_version",
        )
    if number > 1:
        return _read_later(root, name, number)
    manifest = dataset_records.read_dataset(root, dataset)
    n = manifest.n_rows
    return DatasetVersion(
        dataset=name,
        number=1,
        manifest=manifest,
        parts=(name,),
        part=np.zeros(n, dtype=np.intp),
        part_row=np.arange(n, dtype=np.intp),
        created=dict(dataset_records.read_record(root, dataset).created),
    )


def version_record(root: Path, dataset: str, number: int) -> VersionRecord:
    """Read the record of a version above 1.

    Raises
    ------
    CorruptError
        If it is damaged, or of another data set or version.
    """
    path = version_path(root, dataset, number)
    try:
        record = unseal_record(VERSION_KIND, VersionRecord, read_file(path), path)
    except FileNotFoundError as error:
        raise CorruptError(f"{path} is gone; restore it from a copy", path) from error
    if (record.dataset, record.number) != (_folder(root, dataset).parent.name, number):
        raise CorruptError(f"{path} is version {record.number} of {record.dataset}; was it moved?", path)
    return record


def publish_version(root: Path, version: DatasetVersion, *, held: HeldFolder | None = None) -> bool:
    """Publish a version, the rows first and the record last, unless the number is taken.

    `held` is the folder of the data set from before the version was worked out: the version lands in that
    data set, and not in one that was made in its place.

    Returns
    -------
    bool
        Whether this call published it.

    Raises
    ------
    InputError
        If a column has a name that versions need for themselves.
    StoreError
        If the system refuses.
    """
    data = render_rows(version)
    digest = hashlib.sha256(data).hexdigest()
    record = seal(VERSION_KIND, record_to_json(_record(version, digest)))
    # The rows are named by their digest, so that two processes with equal rows write the same file and
    # others never collide.
    path = rows_path(root, version.dataset, digest)
    publish(path, data, lambda found: hashlib.sha256(found).hexdigest() == digest, held=held)
    # The record comes last and only if absent: of two processes that grow the data set, one gets the
    # number.
    if not place_at(version_path(root, version.dataset, version.number), held).put_if_absent(record):
        return False
    # The rows may have lain there unnamed since an interrupted growth, and garbage collection may have taken
    # them away between the two steps above.
    publish(path, data, lambda found: hashlib.sha256(found).hexdigest() == digest, held=held)
    return True


def rebuild_record(root: Path, dataset: str, number: int) -> bool:
    """Rebuild the damaged record of a version from the rows, if one file of rows alone fits."""
    others = set()
    for other in version_numbers(root, dataset):
        if other not in (1, number):
            try:
                others.add(version_record(root, dataset, other).rows_sha256)
            except CorruptError:
                continue
    found = []
    for path in sorted(_folder(root, dataset).glob("*.parquet")):
        data = None if path.stem in others else read_matching(path, path.stem)
        if data is not None:
            version = parse_rows(data, path)
            if (version.dataset, version.number) == (_folder(root, dataset).parent.name, number):
                found.append((version, path.stem))
    # Two files that claim the number cannot be told apart, and a guess could name other labels.
    if len(found) != 1:
        return False
    place_at(version_path(root, dataset, number)).replace(
        seal(VERSION_KIND, record_to_json(_record(*found[0])))
    )
    return True


def version_path(root: Path, dataset: str, number: int) -> Path:
    """Return the file of a version's record."""
    return _folder(root, dataset) / f"{number:06d}.json"


def rows_path(root: Path, dataset: str, digest: str) -> Path:
    """Return the file of a version's rows."""
    return _folder(root, dataset) / f"{digest}.parquet"


def render_rows(version: DatasetVersion) -> bytes:
    """Render a version's rows as Parquet; equal versions give equal bytes with one pyarrow."""
    taken = {PART_COLUMN, ROW_COLUMN} & set(version.manifest.table.column_names)
    if taken:
        raise InputError(f"column {min(taken)!r} is one of toptune's own; rename it in the manifest")
    # The rows repeat the facts of the record, so that a damaged record can be made again.
    facts = {"dataset": version.dataset, "number": version.number, "parts": list(version.parts)}
    table = (
        version.manifest.table.append_column(PART_COLUMN, pa.array(version.part.astype(np.int32)))
        .append_column(ROW_COLUMN, pa.array(version.part_row.astype(np.int64)))
        .replace_schema_metadata({_METADATA: json.dumps(facts, sort_keys=True).encode()})
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, compression="zstd", version="2.6")
    return bytes(sink.getvalue())


def parse_rows(data: bytes, path: Path) -> DatasetVersion:
    """Read what `render_rows` rendered; `path` is named in messages.

    Raises
    ------
    CorruptError
        If it does not hold the rows of a version.
    """
    table = Manifest.from_parquet(data).table
    try:
        facts = parse_json(table.schema.metadata[_METADATA])
        parts = tuple(facts["parts"])
        part, part_row = (
            np.asarray(table[name].to_numpy(), dtype=np.intp) for name in (PART_COLUMN, ROW_COLUMN)
        )
        dataset, number = str(facts["dataset"]), int(facts["number"])
        known = np.isin(part, np.arange(len(parts)))
        if not known.all() or (part_row < 0).any() or not all(isinstance(each, str) for each in parts):
            raise ValueError("a row is of none of its parts")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptError(f"{path} holds no version's rows: {type(error).__name__} {error}", path) from error
    manifest = Manifest(table.drop_columns([PART_COLUMN, ROW_COLUMN]).replace_schema_metadata(None))
    return DatasetVersion(
        dataset=dataset, number=number, manifest=manifest, parts=parts, part=part, part_row=part_row
    )


def _read_later(root: Path, dataset: str, number: int) -> DatasetVersion:
    record = version_record(root, dataset, number)
    path = rows_path(root, dataset, record.rows_sha256)
    try:
        # The rows decide which features belong to which label; a changed bit must not pass.
        data = read_matching(path, record.rows_sha256)
    except FileNotFoundError as error:
        raise CorruptError(f"{path} is gone; restore it from a copy, or run store repair", path) from error
    if data is None:
        raise CorruptError(
            f"{path} differs from what was registered; restore it from a copy, or run repair", path
        )
    version = parse_rows(data, path)
    found = (version.dataset, version.number, version.n_rows, version.parts)
    if found != (dataset, number, record.n_rows, record.parts):
        raise CorruptError(f"{path} does not match {version_path(root, dataset, number)}", path)
    version.created.update(record.created)
    return version


def _record(version: DatasetVersion, digest: str) -> VersionRecord:
    return VersionRecord(
        dataset=version.dataset,
        number=version.number,
        n_rows=version.n_rows,
        parts=version.parts,
        rows_sha256=digest,
        pictures_sha256=version.manifest.pictures_digest,
        created=provenance(),
    )


def _folder(root: Path, dataset: str) -> Path:
    return dataset_records.dataset_folder(root, dataset) / "versions"
