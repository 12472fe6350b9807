"""Records of a cache: ``recipe.json`` and ``cache.json`` in ``features/<model>@<digest8>/<dataset>``."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toptune.errors import CorruptError
from toptune.store.datasets import dataset_records
from toptune.store.features.feature_cache import FeatureCache, read_identity
from toptune.store.features.recipe import Recipe
from toptune.store.files.json_values import canonical_json
from toptune.store.files.place import check_inside
from toptune.store.files.provenance import provenance
from toptune.store.files.reading import read_file
from toptune.store.files.sealed import seal, unseal

CACHE_KIND = "toptune-cache"


def cache_files(
    model: str,
    dataset: Mapping[str, Any],
    recipe: Recipe,
    *,
    unit_rows: int,
    batch_size: int,
    backbone: Mapping[str, Any],
    format: str,  # noqa: A002
) -> dict[str, bytes]:
    """Render the records of a new cache over the data set with record `dataset`, by file name."""
    values = {
        "model": model,
        "dataset": dataset["name"],
        "recipe_sha256": recipe.digest,
        "pictures_sha256": dataset["pictures_sha256"],
        "n_rows": dataset["n_rows"],
        "unit_rows": unit_rows,
        "batch_size": batch_size,
        "format_of_arrays": format,
        "backbone": json.loads(canonical_json(dict(backbone))),
        "created": provenance(),
    }
    return {"recipe.json": recipe.to_json().encode(), "cache.json": seal(CACHE_KIND, values)}


def open_cache(root: Path, folder: Path) -> FeatureCache:
    """Open the cache in a folder.

    Raises
    ------
    CorruptError
        If a record is damaged, or does not match the folder's name or the data set; names the file.
    FormatVersionError
        If a newer toptune wrote it.
    StoreNotFoundError
        If its data set is not in the store.
    """
    check_inside(root, folder)
    name, digest8 = split_folder(folder)
    path, written = folder / "cache.json", folder / "recipe.json"
    identity = read_identity(folder)  # before its content, so that a newer one is told from it
    text, data = _read(written), _read(path)
    values = unseal(CACHE_KIND, data, path)
    digest = hashlib.sha256(text).hexdigest()
    if digest != values["recipe_sha256"] or digest[:8] != digest8:
        raise CorruptError(f"{written} does not match the digest in {path} or in the path", written)
    if (values["model"], values["dataset"]) != (name, folder.name):
        raise CorruptError(
            f"{path} belongs to {values['model']} over {values['dataset']}; was it moved?", path
        )
    record = dataset_records.read_record(root, folder.name)
    if record["pictures_sha256"] != values["pictures_sha256"]:
        raise CorruptError(
            f"{folder} was made from other images than data set {folder.name!r} now holds; "
            "remove the cache and run extract again",
            path,
        )
    return FeatureCache(
        root=root,
        path=folder,
        model=name,
        digest=digest,
        dataset=folder.name,
        recipe=Recipe.from_json(text.decode(), written),
        backbone=values["backbone"],
        n_rows=values["n_rows"],
        unit_rows=values["unit_rows"],
        batch_size=values["batch_size"],
        created=values["created"],
        identity=identity,
        format=values["format_of_arrays"],
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
