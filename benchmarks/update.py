"""Bring a run up to date with 1 % new images, against training again on all of them.

Usage::

    python benchmarks/update.py [--rows 100000] [--size 512,1000,100] [--repeats 3]

Synthetic features of ``d,M,classes`` are written into a store as a data set that then grows by 1 %. Both ways
are timed as whole commands: reading the store, standardizing, testing and writing the run.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from solver_fits import Size, made_rows

from toptune.store import CONTENT_ARRAY, FeatureStore, Manifest, Recipe, choose_unit_rows, grow
from toptune.train import train
from toptune.train.fusion.update import update_run

NAME, MODEL, DATASET = "last.none", "made-up", "rows"


def manifest_of(labels: npt.NDArray[np.int64]) -> Manifest:
    """Make a manifest that names one image per row."""
    return Manifest.from_columns(
        ids=[f"{row:09}.png" for row in range(len(labels))],
        labels=[f"class {label:03}" for label in labels],
        sizes=np.ones(len(labels), dtype=np.int64),
    )


def fill(store: FeatureStore, part: str, rows: Iterator[npt.NDArray[np.float32]], n: int, d: int) -> None:
    """Commit the units of a part as extraction does."""
    recipe = Recipe(
        architecture=MODEL, model_kwargs={}, weights="0" * 64, transform={}, decode="none", precision="fp32"
    )
    cache = store.create_cache(
        MODEL, part, recipe, unit_rows=choose_unit_rows(n, 4 * d, 32), batch_size=32, backbone={}
    )
    cache.ensure_array(NAME, dim=d, dtype="float32")
    cache.ensure_array(CONTENT_ARRAY, dim=32, dtype="uint8")
    for unit in range(cache.n_units):
        where = cache.unit_slice(unit)
        values = next(rows)[: where.stop - where.start]
        digests = np.zeros((len(values), 32), dtype=np.uint8)
        cache.commit_unit(unit, {NAME: values, CONTENT_ARRAY: digests})


def in_steps(values: npt.NDArray[np.float32], step: int) -> Iterator[npt.NDArray[np.float32]]:
    """Cut rows into units."""
    for start in range(0, len(values), step):
        yield values[start : start + step]


def main() -> None:
    """Build the store, time both ways, and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--size", default="512,1000,100", help="d,M,classes")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    n, n_all = options.rows, options.rows + options.rows // 100
    size = Size.read(f"{n_all},{options.size}")
    chunks = list(made_rows(size, n_all, seed=1))
    values, labels = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    with tempfile.TemporaryDirectory() as scratch:
        store = FeatureStore.create(Path(scratch) / "store")
        store.register(DATASET, manifest_of(labels[:n]))
        fill(store, DATASET, in_steps(values[:n], choose_unit_rows(n, 4 * size.d, 32)), n, size.d)
        common: dict[str, Any] = {"dataset": DATASET, "model": MODEL, "n_centers": size.m}
        train(store, out=Path(scratch) / "before", **common)
        part = grow(store, DATASET, manifest_of(labels)).after.parts[-1]
        n_new = n_all - n
        fill(store, part, in_steps(values[n:], choose_unit_rows(n_new, 4 * size.d, 32)), n_new, size.d)
        seconds: dict[str, list[float]] = {"train again": [], "update": []}
        accuracy: dict[str, float] = {}
        rng = np.random.default_rng(0)
        for repeat in range(options.repeats):
            for way in rng.permutation(list(seconds)):
                out = Path(scratch) / f"{way} {repeat}"
                start = time.perf_counter()
                if way == "update":
                    run = update_run(Path(scratch) / "before", out=out, store=store)
                else:
                    run = train(store, out=out, **common)
                seconds[way].append(time.perf_counter() - start)
                accuracy[way] = float(run.metrics["accuracy"])
    medians = {way: float(np.median(found)) for way, found in seconds.items()}
    print(json.dumps({"size": str(size), "new": n_new, "seconds": seconds, "accuracy": accuracy}))
    print(
        f"update with {n_new} of {n_all} rows {medians['update']:.2f} s, training again "
        f"{medians['train again']:.2f} s: {medians['update'] / medians['train again']:.1%}; accuracy "
        f"{accuracy['update']:.4f} against {accuracy['train again']:.4f}"
    )


if __name__ == "__main__":
    main()
