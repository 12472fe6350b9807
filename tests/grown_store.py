"""A small store whose data set has grown, for tests of the store and in processes of their own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from small_store import make_recipe

from toptune.store import CONTENT_ARRAY, FeatureCache, FeatureStore, Growth, Manifest, grow

NAME, DIM, UNIT_ROWS = "last.cls", 3, 4


def make_images(
    ids: Sequence[str],
    *,
    labels: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
    times: Mapping[str, int] | None = None,
    extra: Mapping[str, Sequence[str | None]] | None = None,
) -> Manifest:
    """Make a manifest: every id has its own size, label and time unless told otherwise."""
    numbers = {name: sum(name.encode()) for name in ids}
    return Manifest.from_columns(
        ids=list(ids),
        labels=[(labels or {}).get(name, f"class {numbers[name] % 2}") for name in ids],
        sizes=[(sizes or {}).get(name, numbers[name]) for name in ids],
        modified_ns=[(times or {}).get(name, 10**18) for name in ids],
        extra=extra,
    )


def names(*spans: tuple[int, int]) -> list[str]:
    return [f"{number:03}.png" for start, stop in spans for number in range(start, stop)]


def feature(name: str, size: int) -> npt.NDArray[np.float32]:
    """The features of an image: of its id and size only, and float16 holds them."""
    return np.array([int(name[:3]), size % 500, -1], dtype=np.float32)


def fill(
    store: FeatureStore, part: str, *, dtype: str = "float16", failed: Mapping[int, str] | None = None,
    format: str = "zarr", recipe: Any = None,  # noqa: A002
) -> FeatureCache:  # fmt: skip
    """Do what extract does with a part, as far as it is not done."""
    from toptune.store.datasets.dataset_records import read_dataset

    manifest = read_dataset(store.root, part)
    cache = store.create_cache(
        "tiny.demo", part, recipe or make_recipe(), unit_rows=UNIT_ROWS, batch_size=2,
        backbone={"name": "tiny.demo"}, format=format,
    )  # fmt: skip
    cache.ensure_array(NAME, dim=DIM, dtype=dtype)
    cache.ensure_array(CONTENT_ARRAY, dim=32, dtype="uint8")
    values = np.stack([feature(*pair) for pair in zip(manifest.ids, manifest.sizes.tolist(), strict=True)])
    for unit in cache.missing_units(NAME):
        rows = cache.unit_slice(unit)
        mine = {row: why for row, why in (failed or {}).items() if rows.start <= row < rows.stop}
        content = np.repeat(manifest.sizes[rows][:, None] % 251, 32, axis=1).astype(np.uint8)
        cache.commit_unit(unit, {NAME: values[rows], CONTENT_ARRAY: content}, failed=mine)
    return cache


def start(root: Path, manifest: Manifest) -> FeatureStore:
    store = FeatureStore.create(root)
    store.register("pets", manifest)
    fill(store, "pets")
    return store


def extend(store: FeatureStore, manifest: Manifest, **options: Any) -> Growth:
    """Grow and fill what is missing."""
    growth = grow(store, "pets", manifest, **options)
    for part in growth.after.parts:
        fill(store, part)
    return growth


def make_grown(root: Path) -> FeatureStore:
    """Three versions: 10 images; 2 gone and 7 more between them; one relabeled."""
    store = start(root, make_images(names((0, 20))[::2]))
    extend(store, make_images(names((4, 17))))
    extend(store, make_images(names((4, 17)), labels={"005.png": "other"}))
    return store
