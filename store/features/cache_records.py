"""Records of a cache: ``recipe.json`` and ``cache.json`` in ``features/<model>@<digest8>/<dataset>``."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from toptune.errors import CorruptError, StoreError, StoreNotFoundError
from toptune.store.arrays.ledger import recorded_units
from toptune.store.arrays.spec import FORMATS
from toptune.store.datasets import dataset_records
from toptune.store.datasets.dataset_records import DatasetRecord
from toptune.store.features.feature_cache import FeatureCache, read_identity
from toptune.store.features.recipe import Recipe
from toptune.store.files.json_records import record_to_json
from toptune.store.files.json_values import canonical_json
from toptune.store.files.place import check_inside
from toptune.store.files.provenance import provenance
from toptune.store.files.reading import list_entries, read_file
from toptune.store.files.sealed import seal, unseal_record

CACHE_KIND = "toptune-cache"
# A hundred million images make some 200,000 units.
MOST_UNITS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class CacheRecord:
    """Content of ``cache.json``; the fields have the names of its keys.

    Attributes
    ----------
    model, dataset : str
        Plain model name, and name of the data set.
    recipe_sha256, pictures_sha256 : str
        Digest of the recipe, and digest over the ids and sizes of the images.
    n_rows, unit_rows, batch_size : int
        Rows of the data set, of a unit, and of the forward passes in a unit.
    format_of_arrays : str
        ``"zarr"`` or ``"hdf5"``.
    backbone : mapping
        JSON values that load the backbone again.
    created : mapping
        Who made the cache, when and where.
    others : mapping
        Keys that this toptune does not know.
    """

    model: str
    dataset: str
    recipe_sha256: str
    pictures_sha256: str
    n_rows: int
    unit_rows: int
    batch_size: int
    format_of_arrays: str = "zarr"
    backbone: Mapping[str, object]
    created: Mapping[str, str]
    others: Mapping[str, object] = field(default_factory=dict)


def cache_files(
    model: str,
    dataset: DatasetRecord,
    recipe: Recipe,
    *,
    unit_rows: int,
    batch_size: int,
    backbone: Mapping[str, object],
    format: str,  # noqa: A002
) -> dict[str, bytes]:
    """Render the records of a new cache over the data set with record `dataset`, by file name."""
    record = CacheRecord(
        model=model,
        dataset=dataset.name,
        recipe_sha256=recipe.digest,
        pictures_sha256=dataset.pictures_sha256,
        n_rows=dataset.n_rows,
        unit_rows=unit_rows,
        batch_size=batch_size,
        format_of_arrays=format,
        backbone=json.loads(canonical_json(dict(backbone))),
        created=provenance(),
    )
    # `cache.json` comes last, because the last file decides whether the folder is there.
    files = {"recipe.json": recipe.to_json().encode()}
    return files | {"cache.json": seal(CACHE_KIND, record_to_json(record))}


def open_cache(root: Path, folder: Path) -> FeatureCache:
    """Open the cache in a folder.

    Raises
    ------
    CorruptError
        If a record is damaged, or does not match the folder's name or the data set; the error names the file.
    FormatVersionError
        If a newer toptune wrote it.
    StoreNotFoundError
        If the cache's data set is not in the store.
    """
    check_inside(root, folder)
    name, digest8 = split_folder(folder)
    path, written = folder / "cache.json", folder / "recipe.json"
    # The identity is read before the content, so that a cache made anew in between is noticed.
    identity = read_identity(folder)
    text, data = _read(written), _read(path)
    found = unseal_record(CACHE_KIND, CacheRecord, data, path)
    digest = hashlib.sha256(text).hexdigest()
    # The digest of the recipe is the identity of the features. It must agree in the path, in the record and
    # in the recipe itself.
    if digest != found.recipe_sha256 or digest[:8] != digest8:
        raise CorruptError(f"{written} does not match the digest in {path} or in the path", written)
    if (found.model, found.dataset) != (name, folder.name):
        raise CorruptError(f"{path} belongs to {found.model} over {found.dataset}; was it moved?", path)
    record = dataset_records.read_record(root, folder.name)
    # Rows count by position. Over other images every row would be the features of a wrong image.
    if record.pictures_sha256 != found.pictures_sha256:
        raise CorruptError(
            f"{folder} was made from other images than data set {folder.name!r} now holds; "
            "remove the cache and run extract again",
            path,
        )
    if found.n_rows != record.n_rows:
        raise CorruptError(
            f"{path} says {found.n_rows} rows, and data set {folder.name!r} {record.n_rows}", path
        )
    _check_sizes(found, path)
    return FeatureCache(
        root=root,
        path=folder,
        images_sha256=found.pictures_sha256,
        model=name,
        digest=digest,
        dataset=folder.name,
        recipe=Recipe.from_json(text.decode(), written),
        backbone=found.backbone,
        n_rows=found.n_rows,
        unit_rows=found.unit_rows,
        batch_size=found.batch_size,
        created=found.created,
        identity=identity,
        format=found.format_of_arrays,
    )


def is_orphan(root: Path, folder: Path) -> bool:
    """Whether a cache is over other images than its data set holds, or over a data set that is not there."""
    path = folder / "cache.json"
    try:
        found = unseal_record(CACHE_KIND, CacheRecord, read_file(path), path)
        return dataset_records.read_record(root, folder.name).pictures_sha256 != found.pictures_sha256
    except StoreNotFoundError:
        return True
    except (FileNotFoundError, StoreError):
        return False  # What is damaged is for `repair` to judge.


def is_forsaken(root: Path, folder: Path) -> bool:
    """Whether a cache is an orphan without a single unit: its maker stood still while the data set went."""
    return is_orphan(root, folder) and not any(
        recorded_units(ledger, 1) for ledger in list_entries(folder / "ledger")
    )


def _check_sizes(record: CacheRecord, path: Path) -> None:
    """Refuse a record of sizes that no cache has: whoever goes over its units would never come to an end."""
    if min(record.n_rows, record.unit_rows, record.batch_size) < 1 or record.format_of_arrays not in FORMATS:
        raise CorruptError(
            f"{path} says {record.n_rows} rows in units of {record.unit_rows} and batches of "
            f"{record.batch_size} in format {record.format_of_arrays!r:.60}, which no cache has",
            path,
        )
    if record.n_rows > MOST_UNITS * record.unit_rows:
        raise CorruptError(
            f"{path} says {record.n_rows} rows in units of {record.unit_rows}: more than {MOST_UNITS} units",
            path,
        )


def split_folder(folder: Path) -> tuple[str, str]:
    """Split ``.../<model>@<digest8>/<dataset>`` into model and digest8."""
    name, _, digest8 = folder.parent.name.rpartition("@")
    return name, digest8


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except FileNotFoundError as error:
        raise CorruptError(f"{path} is gone; restore it from a copy, or remove its folder", path) from error
