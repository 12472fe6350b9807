"""Repair of data sets that grew: parts and versions are made again from each other where no doubt remains."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from toptune.errors import StoreError
from toptune.store.datasets import dataset_records
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.versions import (
    read_dataset_version,
    rebuild_record,
    rows_path,
    version_numbers,
    version_path,
    version_record,
)
from toptune.store.features.cache_records import CACHE_KIND, CacheRecord
from toptune.store.files.place import place_at
from toptune.store.files.reading import read_file
from toptune.store.files.sealed import unseal_record
from toptune.store.files.system_errors import is_refusal


def is_grown(root: Path, name: str) -> bool:
    """Whether a data set has versions, or is a part of one."""
    return version_numbers(root, name)[-1] > 1 or dataset_records.base_of(root, name) is not None


def rebuild_part(root: Path, part: str) -> bool:
    """Write a part's manifest and record again from the versions that name its rows.

    Returns
    -------
    bool
        Whether the part was rebuilt: the versions name every row of the part, and the images are those of the
        part's features.
    """
    base = dataset_records.base_of(root, part) or part
    rows: dict[int, tuple[int, int]] = {}
    tables: list[pa.Table] = []
    for number in version_numbers(root, base)[1:]:
        try:
            version = read_dataset_version(root, base, number)
        except StoreError as error:
            if is_refusal(error):
                raise
            continue
        for row in version.rows_of(part).tolist():
            # The oldest version with an image has the label with which the image was registered.
            rows.setdefault(int(version.part_row[row]), (len(tables), row))
        tables.append(version.manifest.table)
    digests = _known_images(root, part)
    # A gap would shift all rows behind it to the features of other images.
    if not rows or sorted(rows) != list(range(len(rows))):
        return False
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    order = [int(starts[table]) + row for _, (table, row) in sorted(rows.items())]
    whole = pa.concat_tables(tables, promote_options="default")
    manifest = Manifest(whole).take(np.array(order, dtype=np.intp))
    # Rows at the end may be missing without a gap; the digest of the images tells.
    if digests and manifest.pictures_digest not in digests:
        return False
    folder = dataset_records.dataset_folder(root, part)
    files = dataset_records.dataset_files(part, manifest, part_of=None if part == base else base)
    for name, data in files.items():
        place_at(folder / name).replace(data)
    return True


def _known_images(root: Path, part: str) -> set[str]:
    """Collect the digests of the part's images, from the part's record or else from the caches over it."""
    try:
        return {dataset_records.read_record(root, part).pictures_sha256}
    except StoreError as error:
        if is_refusal(error):
            raise
    found: set[str] = set()
    for path in sorted((root / "features").glob("*/*/cache.json")):
        if path.parent.name == part:
            try:
                found.add(unseal_record(CACHE_KIND, CacheRecord, read_file(path), path).pictures_sha256)
            except (StoreError, FileNotFoundError) as error:
                if is_refusal(error):
                    raise
    return found


def mend_version(root: Path, dataset: str, file: Path) -> str:
    """Repair a file of a version, or set the version aside if it is the latest.

    Returns
    -------
    str
        ``"rebuilt"``, ``"dropped"`` (the same update makes it again), or ``"left"`` where an older version is
        damaged that cannot be made again.
    """
    numbers = version_numbers(root, dataset)
    if file.suffix == ".json":
        number = int(file.stem)
        if rebuild_record(root, dataset, number):
            return "rebuilt"
    else:
        number = next((each for each in numbers[1:] if _rows_of(root, dataset, each) == file), 0)
    if number != numbers[-1]:
        return "left"
    # The files stay as leftovers for a while, because they may be the only copy of somebody's labels.
    for path in (version_path(root, dataset, number), file):
        if path.exists():
            place_at(path).hide()
    return "dropped"


def _rows_of(root: Path, dataset: str, number: int) -> Path | None:
    try:
        return rows_path(root, dataset, version_record(root, dataset, number).rows_sha256)
    except StoreError:
        return None
