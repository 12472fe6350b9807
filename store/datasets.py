"""Data sets of a store: reading and registering manifests."""

import hashlib
from pathlib import Path
from typing import Any

from toptune.store import commit
from toptune.store.errors import ConflictError, CorruptError, StoreNotFoundError
from toptune.store.manifest import Manifest
from toptune.store.names import check_inside, check_name
from toptune.store.provenance import provenance
from toptune.store.reading import read_file
from toptune.store.sealed import seal, unseal

DATASET_KIND = "toptune-dataset"


def dataset_folder(root: Path, dataset: str) -> Path:
    """Return the folder of a data set, which may not exist."""
    return check_inside(root, root / "datasets" / check_name(dataset, what="data set"))


def dataset_names(root: Path) -> list[str]:
    """List the data sets, sorted."""
    folder = root / "datasets"
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not commit.is_temporary(p.name))


def read_record(root: Path, dataset: str) -> dict[str, Any]:
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
        return unseal(DATASET_KIND, read_file(path), path)
    except FileNotFoundError:
        if folder.is_dir():
            raise CorruptError(f"{path} is gone; remove {folder} and run extract again") from None
        there = ", ".join(dataset_names(root)) or "none"
        raise StoreNotFoundError(
            f"the store {root} has no data set {dataset!r} (there are: {there}); run extract first"
        ) from None


def read_dataset(root: Path, dataset: str) -> Manifest:
    """Read a data set's manifest, checked against its digest.

    Raises
    ------
    StoreNotFoundError
        If there is no such data set.
    CorruptError
        If manifest or record are damaged.
    """
    record = read_record(root, dataset)
    path = dataset_folder(root, dataset) / "manifest.parquet"
    try:
        data = read_file(path)
    except FileNotFoundError as error:
        raise CorruptError(f"{path} is gone; restore it from a copy") from error
    if hashlib.sha256(data).hexdigest() != record["manifest_sha256"]:
        raise CorruptError(f"{path} differs from what was registered; restore it from a copy")
    return Manifest.from_parquet(data)


def register_dataset(root: Path, dataset: str, manifest: Manifest) -> Manifest:
    """Register a manifest under a name, or adopt the same content that is there.

    Raises
    ------
    ConflictError
        If the name is taken by other content; says what differs.
    """
    folder = dataset_folder(root, dataset)
    if not all((folder / part).exists() for part in ("dataset.json", "manifest.parquet")):
        data = manifest.to_parquet()
        record = {
            "name": folder.name,
            "n_rows": manifest.n_rows,
            "manifest_sha256": hashlib.sha256(data).hexdigest(),
            "pictures_sha256": manifest.pictures_digest,
            "created": provenance(),
        }
        files = {"manifest.parquet": data, "dataset.json": seal(DATASET_KIND, record)}
        if commit.put_folder_if_absent(folder, files):
            return manifest
    found = read_dataset(root, dataset)
    differences = found.differences(manifest)
    if differences:
        raise ConflictError(
            f"data set {dataset!r} is in the store {root} with other content (there against now): "
            f"{'; '.join(differences)}; give this one another name with --dataset"
        )
    return found
