"""Data sets of a store, and the parts of those that grew: reading and registering manifests."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from toptune.errors import CorruptError, StoreNotFoundError
from toptune.options import choices
from toptune.store.datasets.manifest import Manifest
from toptune.store.files.json_records import record_to_json
from toptune.store.files.names import check_name, part_name, split_part_name
from toptune.store.files.place import check_inside, place_at
from toptune.store.files.provenance import provenance
from toptune.store.files.reading import (
    leave_alone,
    list_entries,
    list_folder,
    may_exist,
    read_file,
    read_matching,
)
from toptune.store.files.sealed import seal, unseal_record

DATASET_KIND = "toptune-dataset"


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """Content of ``dataset.json``; the fields have the names of its keys.

    Attributes
    ----------
    name : str
        Name of the data set or part.
    n_rows : int
        Number of images.
    manifest_sha256 : str
        Digest of ``manifest.parquet``.
    pictures_sha256 : str
        Digest over the ids and sizes of the images, in their order.
    created : mapping
        Who registered the images, when and where.
    part_of : str, optional
        The data set that this is a part of.
    """

    name: str
    n_rows: int
    manifest_sha256: str
    pictures_sha256: str
    created: Mapping[str, str]
    part_of: str | None = None


def dataset_folder(root: Path, dataset: str) -> Path:
    """Return the folder of a data set, which may not exist."""
    return check_inside(root, root / "datasets" / check_name(dataset, what="data set"))


def dataset_names(root: Path) -> list[str]:
    """List the data sets and their parts, sorted."""
    return [path.name for path in list_entries(root / "datasets") if _is_dataset(path)]


def _is_dataset(folder: Path) -> bool:
    """Whether a folder holds something of a data set, sound or damaged; what else there is is left alone."""
    if any(may_exist(folder / part) for part in ("dataset.json", "manifest.parquet")):
        return True
    if folder.is_dir() and (list_entries(folder / "versions") or not list_folder(folder)):
        return True
    leave_alone(folder)
    return False


def whole_names(root: Path) -> list[str]:
    """List the data sets without their parts, sorted."""
    return [name for name in dataset_names(root) if base_of(root, name) is None]


def base_of(root: Path, name: str) -> str | None:
    """Return the data set that `name` is a part of; None for a whole data set or an unknown name."""
    split = split_part_name(name)
    if split is None or not dataset_folder(root, name).is_dir():
        return None
    try:
        return read_record(root, name).part_of
    # A part whose record is damaged is still a part by its name if the data set is there; `repair` can then
    # rebuild it.
    except CorruptError:
        return split[0] if dataset_folder(root, split[0]).is_dir() else None


def part_names(root: Path, dataset: str) -> list[str]:
    """List the parts of a data set that are in the store, by number; the first is the data set itself."""
    base = dataset_folder(root, dataset).name
    splits = [(name, split_part_name(name)) for name in dataset_names(root)]
    numbers = [
        split[1] for name, split in splits if split and split[0] == base and base_of(root, name) == base
    ]
    return [part_name(base, number) for number in [1, *sorted(numbers)]]


def read_record(root: Path, dataset: str) -> DatasetRecord:
    """Read ``dataset.json``.

    Raises
    ------
    StoreNotFoundError
        If there is no such data set; lists those there are.
    CorruptError
        If it is damaged.
    """
    folder = dataset_folder(root, dataset)
    path = folder / "dataset.json"
    try:
        record = unseal_record(DATASET_KIND, DatasetRecord, read_file(path), path)
    except FileNotFoundError:
        if folder.is_dir():
            raise CorruptError(f"{path} is gone; remove {folder} and run extract again", path) from None
        there = whole_names(root)
        raise StoreNotFoundError(
            f"the store {root} has no data set {dataset!r}; {choices(dataset, there)}; toptune extract "
            "adds one",
            option="dataset",
        ) from None
    # Labels of other images would be as sound as the right ones.
    if record.name != folder.name:
        raise CorruptError(f"{path} describes data set {record.name!r}; was it moved?", path)
    return record


def read_dataset(root: Path, dataset: str) -> Manifest:
    """Read the manifest of a data set and compare the digest.

    Raises
    ------
    StoreNotFoundError
        If there is no such data set.
    CorruptError
        If the manifest or the record is damaged.
    """
    record = read_record(root, dataset)
    path = dataset_folder(root, dataset) / "manifest.parquet"
    try:
        data = read_matching(path, record.manifest_sha256)
    except FileNotFoundError as error:
        raise CorruptError(f"{path} is gone; restore it from a copy", path) from error
    if data is None:
        raise CorruptError(f"{path} differs from what was registered; restore it from a copy", path)
    try:
        manifest = Manifest.from_parquet(data)
    except CorruptError as error:
        raise CorruptError(f"{path} is no manifest: {error}", path) from error
    if manifest.n_rows != record.n_rows:
        raise CorruptError(f"{path} has {manifest.n_rows} rows, and its record {record.n_rows}", path)
    return manifest


def put_dataset(root: Path, dataset: str, manifest: Manifest, *, part_of: str | None = None) -> bool:
    """Put a data set into the store unless its name is taken, whatever stands there.

    Parameters
    ----------
    root : Path
        Root folder of the store.
    dataset : str
        Name of the data set or part.
    manifest : Manifest
        Its images.
    part_of : str, optional
        The data set that this is a part of.

    Returns
    -------
    bool
        Whether this call put it there.
    """
    folder = dataset_folder(root, dataset)
    # In a bucket a half written folder is completed by `put_folder_if_absent`, so that both files must be
    # there.
    if all((folder / part).exists() for part in ("dataset.json", "manifest.parquet")):
        return False
    return place_at(folder).put_folder_if_absent(dataset_files(folder.name, manifest, part_of=part_of))


def dataset_files(name: str, manifest: Manifest, *, part_of: str | None) -> dict[str, bytes]:
    """Render a data set's files, by name."""
    data = manifest.to_parquet()
    record = DatasetRecord(
        name=name,
        n_rows=manifest.n_rows,
        manifest_sha256=hashlib.sha256(data).hexdigest(),
        pictures_sha256=manifest.pictures_digest,
        created=provenance(),
        part_of=part_of,
    )
    return {"manifest.parquet": data, "dataset.json": seal(DATASET_KIND, record_to_json(record))}
