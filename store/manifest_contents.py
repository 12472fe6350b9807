"""What a manifest holds, counted: classes, splits, and pictures without a label."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow.compute as pc

from toptune.store.manifest import LABELS_COLUMN, Manifest


@dataclass(frozen=True, kw_only=True)
class ManifestContents:
    """Counts of a manifest.

    Attributes
    ----------
    n_classes : int
        Different labels.
    splits : mapping of str to int
        Pictures of each split, by name; of none under ``""``.
    n_unlabelled : int
        Pictures with neither a label nor several.
    """

    n_classes: int
    splits: Mapping[str, int]
    n_unlabelled: int

    def __str__(self) -> str:
        parts = [f"{self.n_classes} {'class' if self.n_classes == 1 else 'classes'}"]
        if set(self.splits) != {""}:
            names = (f"{name or 'no split'} {count}" for name, count in self.splits.items())
            parts.append(", ".join(names))
        if self.n_unlabelled:
            parts.append(f"{self.n_unlabelled} without a label")
        return "; ".join(parts)


def count_contents(manifest: Manifest) -> ManifestContents:
    """Count what a manifest holds, in Arrow's own buffers: a hundred million rows make no Python objects."""
    labels, table = manifest.table["label"], manifest.table
    is_unlabelled = pc.is_null(labels)
    if LABELS_COLUMN in manifest.extra_names:
        is_unlabelled = pc.and_(is_unlabelled, pc.is_null(table[LABELS_COLUMN]))
    counts = pc.value_counts(table["split"]).to_pylist()
    splits = {each["values"] or "": each["counts"] for each in counts}
    return ManifestContents(
        n_classes=pc.count_distinct(labels).as_py(),
        splits=dict(sorted(splits.items(), key=lambda item: (item[0] == "", item[0]))),
        n_unlabelled=pc.sum(is_unlabelled).as_py() or 0,
    )
