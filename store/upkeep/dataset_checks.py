"""Checks of data sets for `verify`: manifests, versions, and the parts that versions name."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from toptune.errors import CorruptError, StoreError, StoreNotFoundError
from toptune.store.datasets import dataset_records
from toptune.store.datasets.versions import (
    read_dataset_version,
    rows_path,
    version_numbers,
    version_path,
    version_record,
)


def dataset_files(root: Path, name: str) -> list[Path]:
    """List the files that a data set or part must have."""
    folder = root / "datasets" / name
    files = [folder / "dataset.json", folder / "manifest.parquet"]
    for number in version_numbers(root, name)[1:]:
        files.append(version_path(root, name, number))
        try:
            files.append(rows_path(root, name, version_record(root, name, number).rows_sha256))
        except StoreError:
            continue  # The record is blamed elsewhere; until it is repaired, nothing names its rows.
    return files


def dataset_damage(root: Path, name: str) -> Iterator[tuple[Path, object]]:
    """Yield the files of a data set or part that are damaged, each with the reason."""
    folder = root / "datasets" / name
    for number in version_numbers(root, name)[1:]:
        yield from _version_damage(root, name, number)
    try:
        record = dataset_records.read_record(root, name)
    except StoreError as error:
        yield folder / "dataset.json", error
        return
    try:
        manifest = dataset_records.read_dataset(root, name)
        if (manifest.n_rows, manifest.pictures_digest) != (record.n_rows, record.pictures_sha256):
            raise CorruptError("rows do not match dataset.json")
    except StoreError as error:
        yield folder / "manifest.parquet", error


def _version_damage(root: Path, name: str, number: int) -> Iterator[tuple[Path, object]]:
    """Check a version's record and rows, and that its parts hold the images that the version names."""
    path = version_path(root, name, number)
    try:
        rows = rows_path(root, name, version_record(root, name, number).rows_sha256)
    except StoreError as error:
        yield path, error
        return
    try:
        version = read_dataset_version(root, name, number)
    except StoreError as error:
        yield rows, error
        return
    for part in version.parts:
        mine = version.rows_of(part)
        try:
            manifest = dataset_records.read_dataset(root, part)
        except StoreNotFoundError as error:
            yield dataset_records.dataset_folder(root, part), error
            continue
        except StoreError:
            continue  # The check of the part blames its file.
        there = version.part_row[mine]
        # Sizes are compared and not ids, because an image that was moved has had another id since.
        if there.max(initial=-1) >= manifest.n_rows or not np.array_equal(
            manifest.sizes[there], version.manifest.sizes[mine]
        ):
            yield rows, f"names other images than part {part} holds"


def rows_needed(root: Path, part: str) -> npt.NDArray[np.intp] | None:
    """Return the rows of a data set or part that the latest version has; None for all rows."""
    base = dataset_records.base_of(root, part) or part
    try:
        if version_numbers(root, base)[-1] == 1:
            return None
        version = read_dataset_version(root, base)
    except StoreError:
        return None
    return version.part_row[version.rows_of(part)]
