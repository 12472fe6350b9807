"""Copy a data set from store to store: its manifest, its parts and its versions, byte for byte."""

from pathlib import Path

from toptune.errors import ConflictError, CorruptError
from toptune.store.datasets import dataset_records
from toptune.store.datasets.versions import (
    read_dataset_version,
    rows_path,
    version_numbers,
    version_path,
    version_record,
)
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.place import place_at
from toptune.store.files.publish import publish
from toptune.store.files.reading import read_file


def copy_dataset(source: FeatureStore, target: FeatureStore, name: str) -> None:
    """Copy the records of a data set, or adopt the same content that is there.

    The parts come first and the versions last, in their order: an interrupted copy has fewer versions.

    Raises
    ------
    CorruptError
        If the source is damaged; the message names the file.
    ConflictError
        If the target holds something else under the same name.
    """
    for part in dataset_records.part_names(source.root, name):
        _copy_part(source.root, target.root, part)
    for number in version_numbers(source.root, name)[1:]:
        read_dataset_version(source.root, name, number)  # This refuses a damaged version.
        record = version_record(source.root, name, number)
        path = version_path(target.root, name, number)
        rows = read_file(rows_path(source.root, name, record.rows_sha256))
        # The name is the digest of the rows, so that a file with other bytes is damaged and written again.
        publish(rows_path(target.root, name, record.rows_sha256), rows, lambda _: False)
        if not place_at(path).put_if_absent(read_file(version_path(source.root, name, number))):
            there = version_record(target.root, name, number)
            if there.rows_sha256 != record.rows_sha256:
                raise ConflictError(
                    f"version {number} of data set {name!r} in {target.root} has other rows than in "
                    f"{source.root}; copy to another store"
                )


def _copy_part(source: Path, target: Path, part: str) -> None:
    manifest = dataset_records.read_dataset(source, part)
    folder = dataset_records.dataset_folder(source, part)
    files = {name: read_file(folder / name) for name in ("manifest.parquet", "dataset.json")}
    if place_at(dataset_records.dataset_folder(target, part)).put_folder_if_absent(files):
        return
    try:
        differences = dataset_records.read_dataset(target, part).differences(manifest)
    except CorruptError as error:
        raise CorruptError(f"{error}; run store repair on {target} first", error.path) from error
    if differences or dataset_records.base_of(source, part) != dataset_records.base_of(target, part):
        raise ConflictError(
            f"data set {part!r} is in the store {target} with other content (there against now): "
            f"{'; '.join(differences)}; copy to another store, or remove it there first"
        )
