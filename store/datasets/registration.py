"""Registering a manifest under a name: made, adopted, or refused with what differs."""

import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from toptune.errors import ConflictError, InputError
from toptune.store.datasets import dataset_records
from toptune.store.datasets.manifest import Manifest
from toptune.store.datasets.outside_text import outside_column
from toptune.store.datasets.versions import (
    DatasetVersion,
    read_dataset_version,
    version_numbers,
    version_record,
)
from toptune.store.files.names import split_part_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How many images differ between two versions of a data set; JSON values only.

    Attributes
    ----------
    added, removed : int
        Number of ids that are new, and of ids that are gone.
    relabelled : int
        Images with another label, split or further column.
    changed : int
        Number of ids that now stand for other bytes.
    shared : int
        Number of images that both versions have unchanged.
    moved : int
        Number of images that have another id now and the same bytes.
    """

    added: int = 0
    removed: int = 0
    relabelled: int = 0
    changed: int = 0
    shared: int = 0
    moved: int = 0

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        figures = (self.added, self.removed, self.relabelled, self.changed)
        words = ("added", "removed", "relabeled", "changed")
        text = ", ".join(f"{figure} {word}" for figure, word in zip(figures, words, strict=True))
        return f"{text}, {self.moved} moved" if self.moved else text


def compare(
    before: Manifest, after: Manifest, *, changed: Collection[int] = (), n_moved: int = 0
) -> Difference:
    """Count what differs between two manifests, told apart by ids and sizes.

    Parameters
    ----------
    before, after : Manifest
    changed : collection of int
        Rows of `after` whose bytes are known to differ although id and size are those of `before`.
    n_moved : int
        Images known to have another id and the same bytes.
    """
    old_ids = outside_column(before.ids, keeps_blanks=True)
    old_row = {name: row for row, name in enumerate(old_ids)}
    names = sorted({"label", "split", *before.extra_names, *after.extra_names})
    old = [before.column(name) if name in before.table.column_names else None for name in names]
    new = [after.column(name) if name in after.table.column_names else None for name in names]
    # If the ids are the same in the same order, columns that are equal as a whole need no comparison row by
    # row.
    is_in_order = old_ids == after.ids
    columns = [pair for pair in zip(old, new, strict=True) if not is_in_order or pair[0] != pair[1]]
    sizes, new_sizes, known = before.sizes.tolist(), after.sizes.tolist(), set(changed)
    n_added = n_changed = n_relabelled = 0
    for row, name in enumerate(after.ids):
        place = old_row.get(name)
        if place is None:
            n_added += 1
        elif sizes[place] != new_sizes[row] or row in known:
            n_changed += 1
        elif any((a and a[place]) != (b and b[row]) for a, b in columns):
            n_relabelled += 1
    n_common = after.n_rows - n_added
    return Difference(
        added=max(0, n_added - n_moved),
        removed=max(0, before.n_rows - n_common - n_moved),
        relabelled=n_relabelled,
        changed=n_changed,
        shared=n_common - n_changed + n_moved,
        moved=n_moved,
    )


def register(root: Path, dataset: str, manifest: Manifest) -> DatasetVersion:
    """Register a manifest as the first version of a data set, or adopt the same that is there.

    Raises
    ------
    InputError
        If the name is that of a part.
    ConflictError
        If the name is taken by other content, or these are a later version of it; says so.
    """
    name = dataset_records.dataset_folder(root, dataset).name
    refuse_part(root, name)
    if split_part_name(name):
        raise InputError(f"data set name {name!r} looks like a part of one that grew; choose another name")
    # The data set is put and then read again: of two processes with other images, the second sees what the
    # first registered.
    dataset_records.put_dataset(root, name, manifest)
    first = read_dataset_version(root, name, 1)
    if not first.manifest.differences(manifest):
        _note_older_text(first, manifest)
        return first
    found = find_version(root, name, manifest)
    raise ConflictError(
        f"data set {dataset!r} of {root} has grown, and these are the images of its version "
        f"{found.number}; extract again, which adds to every part of it, or give another --dataset"
    )


def refuse_part(root: Path, dataset: str) -> None:
    """Refuse a part where a data set is meant."""
    base = dataset_records.base_of(root, dataset)
    if base is not None:
        raise InputError(f"{dataset!r} is a part of data set {base!r} of {root}; give {base!r} instead")


def find_version(root: Path, dataset: str, manifest: Manifest) -> DatasetVersion:
    """Return the latest version with the same content; modification times are no content.

    Raises
    ------
    ConflictError
        If there is none; says how the latest differs, and what an update would do.
    """
    latest = read_dataset_version(root, dataset)
    # Columns that the store does not have yet are no reason to refuse the images, whose features are there.
    there = [name for name in manifest.extra_names if name in latest.manifest.extra_names]
    differences = latest.manifest.differences(manifest.select(there))
    if not differences:
        _note_older_text(latest, manifest)
        return latest
    for number in reversed(version_numbers(root, dataset)[:-1]):
        record = (
            dataset_records.read_record(root, dataset)
            if number == 1
            else version_record(root, dataset, number)
        )
        # The digest in the record is compared first, so that manifests of other versions are not read.
        if record.pictures_sha256 == manifest.pictures_digest:
            version = read_dataset_version(root, dataset, number)
            if not version.manifest.differences(manifest):
                return version
    raise ConflictError(
        f"data set {dataset!r} is in the store {root} with other content (there against now): "
        f"{'; '.join(differences)}. In all {compare(latest.manifest, manifest)}: give --update to make this "
        f"version {latest.number + 1} of it, or another --dataset"
    )


def _note_older_text(version: DatasetVersion, manifest: Manifest) -> None:
    """Say what an adopted data set has otherwise than it would be stored today."""
    if differences := version.manifest.differences(manifest, exact=True):
        logger.warning(
            "data set %r keeps what was read when it was stored (there against now): %s; extract with "
            "--update makes what is read now its next version, and computes no feature again [TT210]",
            version.dataset,
            "; ".join(differences),
        )
