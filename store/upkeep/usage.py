"""How many bytes each part of a store takes."""

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from toptune.store.arrays.array_records import recorded_names
from toptune.store.datasets.dataset_records import base_of, dataset_names
from toptune.store.features.feature_store import FeatureStore
from toptune.store.files.names import is_temporary, stray_depth
from toptune.store.files.place import place_at
from toptune.store.files.reading import leave_alone

BOOKKEEPING, MANIFEST, LEFTOVERS = "(bookkeeping)", "(manifest)", "(leftovers)"
STRAYS = "(not of the store)"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """One row of ``store du``; JSON values only.

    Attributes
    ----------
    dataset, cache : str
        Owner of the files, a data set's parts included; empty where the files belong to the store itself, or
        to the data set as such.
    part : str
        An array's name, or ``(manifest)``, ``(bookkeeping)`` (records, ledger, hints), ``(leftovers)``,
        ``(not of the store)``.
    n_files, n_bytes : int
        Number of files, and the sum of their sizes.
    """

    dataset: str
    cache: str
    part: str
    n_files: int
    n_bytes: int

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return asdict(self)


def measure(store: FeatureStore) -> list[Usage]:
    """Add up the files of a store; together the rows are every byte in its folder.

    Parameters
    ----------
    store : FeatureStore

    Returns
    -------
    list of Usage
        Sorted by data set, cache and part.
    """
    files: Counter[tuple[str, str, str]] = Counter()
    sizes: Counter[tuple[str, str, str]] = Counter()
    arrays: dict[tuple[str, str], set[str]] = {}
    bases = {name: base_of(store.root, name) or name for name in dataset_names(store.root)}
    for parts, size in place_at(store.root).walk_files():
        dataset, cache, part = _owner(store.root, parts, bases, arrays)
        key = (bases.get(dataset, dataset), cache, part)
        sizes[key] += size
        files[key] += 1
    return [
        Usage(dataset=key[0], cache=key[1], part=key[2], n_files=files[key], n_bytes=sizes[key])
        for key in sorted(sizes)
    ]


def _owner(
    root: Path,
    parts: tuple[str, ...],
    datasets: Collection[str],
    arrays: dict[tuple[str, str], set[str]],
) -> tuple[str, str, str]:
    """Return data set, cache and part of a file."""
    depth = stray_depth(parts, datasets)
    if depth is not None:
        leave_alone(root.joinpath(*parts[: depth + 1]))
        return "", "", STRAYS
    is_left = any(is_temporary(part) for part in parts)
    if parts[0] == "datasets" and len(parts) > 2:
        return (parts[1], "", MANIFEST) if not is_left else ("", "", LEFTOVERS)
    if parts[0] == "features" and len(parts) > 3 and not is_temporary(parts[1]):
        cache, dataset, part = parts[1:4]
        if is_left:
            return dataset, cache, LEFTOVERS
        if (cache, dataset) not in arrays:
            # A store may have millions of files and few caches, so that the records of a cache are listed
            # once.
            arrays[cache, dataset] = set(recorded_names(root / "features" / cache / dataset))
        if part in arrays[cache, dataset]:
            return dataset, cache, part
        is_record = len(parts) == 4 or part in ("ledger", "requests")
        return dataset, cache, BOOKKEEPING if is_record else LEFTOVERS
    return "", "", BOOKKEEPING if parts == ("toptune.json",) else LEFTOVERS
