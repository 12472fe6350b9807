"""Ways to choose the centers of the head `falkon`, on real images and on long-tailed samples of them.

    python benchmarks/centers.py ASSETS [--store ROOT] [--seeds 10] [--out centers.jsonl]

ASSETS holds ``weights/<model>`` (timm local-dir folders) and ``datasets/<name>``; scikit-learn's digits are
the sixth data set. Last-layer features are extracted once and standardized by the training rows. For each
seed a new stratified split is drawn. The long-tailed version keeps, of each class of training rows, a number
that falls geometrically from the largest class to 1/50 of it (at least 2 rows), the classes being in random
order; the test rows stay as they are. Accuracy is the mean of the classes' recalls weighted by the shares of
the training rows, balanced accuracy is the plain mean. Numbers of centers above half of the rows are skipped.
Results are appended line by line, so that a stopped run resumes.
"""

import argparse
import itertools
import json
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from toptune.extract import extract
from toptune.store import FeatureCache, FeatureStore
from toptune.train import (
    FalkonClassifier,
    FoldsReducedWarning,
    PreprocessedBlocks,
    choose_arrays,
    fit_preprocessing,
    split_manifest,
)
from toptune.train.kernels.centers import CENTERS
from toptune.train.reports.statistics import spread_of

MODELS = ("deit_tiny_patch16_224.in1k", "mobilenetv2_100.tf2_in1k")
DATASETS = ("clothing_small", "grocery_store", "trashnet", "bccd_cells", "omniglot_50", "digits")
# Cells of one slide stay on one side of the split; in the other data sets images are independent.
GROUPS = {"bccd_cells": r"(BloodImage_\d+)"}
# Every other way is compared with the better of these two.
BASELINES = ("uniform", "class-balanced")
NUMBERS = (50, 100, 300)
VERSIONS = ("all rows", "long-tailed")
RATIO = 50
LEAST_ROWS = 2
METRICS = ("accuracy", "balanced")
Rows = npt.NDArray[np.int64]


def extract_all(assets: Path, root: Path) -> None:
    """Fill the store; features that are in it already are not computed again."""
    for name, model in itertools.product(DATASETS, MODELS):
        folder = assets / "datasets" / name
        data = "digits" if name == "digits" else folder / "images" if (folder / "images").exists() else folder
        extract(data, model=f"local-dir:{assets / 'weights' / model}", store=root, dataset=name)


def long_tail(codes: Rows, rng: np.random.Generator) -> Rows:
    """Choose rows, sorted, so that class sizes fall geometrically from the largest to 1 / `RATIO` of it."""
    sizes = np.bincount(codes)
    wanted = sizes.max() * RATIO ** -np.linspace(0, 1, len(sizes))
    kept = [
        rng.permutation(np.flatnonzero(codes == k))[: max(LEAST_ROWS, round(number))]
        for k, number in zip(rng.permutation(len(sizes)), wanted, strict=True)
    ]
    return np.sort(np.concatenate(kept))


def fits_of_split(cache: FeatureCache, seed: int) -> Iterator[dict[str, Any]]:
    """Fit every way and number of centers to both versions of one split, and yield the results."""
    array = choose_arrays(cache.arrays(), None, None)[0]
    split = split_manifest(cache.manifest, seed=seed, resplit=True, group_by=GROUPS.get(cache.dataset))
    _, codes = np.unique([str(label) for label in cache.manifest.labels], return_inverse=True)
    rare = split.train[long_tail(codes[split.train], np.random.default_rng(seed))]
    for version, train in zip(VERSIONS, (split.train, rare), strict=True):
        preprocessing, _ = fit_preprocessing("standardise", cache.blocks([array.name], train), (array.dim,))
        X, X_test = (
            PreprocessedBlocks(cache.blocks([array.name], rows), preprocessing).take(np.arange(len(rows)))
            for rows in (train, split.test)
        )
        for number, way in itertools.product((m for m in NUMBERS if 2 * m <= len(train)), CENTERS):
            start = time.perf_counter()
            head = FalkonClassifier(n_centers=number, centers=way, random_state=seed)
            head.fit(X, codes[train])
            seconds = time.perf_counter() - start
            is_right = head.predict(X_test) == codes[split.test]
            tested, counts = np.unique(codes[split.test], return_counts=True)
            recalls = np.bincount(codes[split.test], is_right)[tested] / counts
            shares = np.bincount(codes[train])[tested]
            yield {
                "version": version, "n_train": len(train), "n_centers": number, "centers": way,
                "accuracy": float(np.average(recalls, weights=shares)), "balanced": float(recalls.mean()),
                "seconds": seconds,
            }  # fmt: skip


def print_tables(rows: list[dict[str, Any]]) -> None:
    """Print means over data sets, and paired differences to the better baseline with 95 % intervals.

    A data set is one observation (its splits and backbones are averaged), so that an interval speaks of
    further data sets.
    """
    figures: dict[tuple[Any, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for metric, number in itertools.product(METRICS, (row["n_centers"], "all")):
            figures[metric, row["version"], number, row["centers"]][row["dataset"]].append(row[metric])
    others = [way for way in CENTERS if way not in BASELINES]
    heads = [*CENTERS, *(f"{way} - better of {' and '.join(BASELINES)}" for way in others)]
    print("| metric | rows | centers | data sets | " + " | ".join(heads) + " |")
    print("|---" * (4 + len(heads)) + "|")
    for metric, version, number in itertools.product(METRICS, VERSIONS, (*NUMBERS, "all")):
        if (metric, version, number, CENTERS[0]) not in figures:
            continue
        by_way = {
            way: {name: 100 * float(np.mean(v)) for name, v in figures[metric, version, number, way].items()}
            for way in CENTERS
        }
        means = {way: float(np.mean(list(by_way[way].values()))) for way in CENTERS}
        better = max(BASELINES, key=means.__getitem__)
        cells = [f"{means[way]:.2f}" for way in CENTERS]
        for way in others:
            spread = spread_of([by_way[way][name] - value for name, value in by_way[better].items()])
            cells.append(f"{spread.mean:+.2f} ({spread.low:+.2f} to {spread.high:+.2f})")
        print(f"| {metric} | {version} | {number} | {len(by_way[better])} | " + " | ".join(cells) + " |")
    seconds = {way: np.median([row["seconds"] for row in rows if row["centers"] == way]) for way in CENTERS}
    print("\nmedian seconds a fit: " + ", ".join(f"{way} {value:.2f}" for way, value in seconds.items()))


def main() -> None:
    """Read the options, extract, fit what is not in the file yet, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assets", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("centers.jsonl"))
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(row["dataset"], row["model"], row["seed"]) for row in rows}
    # Rare classes have fewer rows than folds on purpose.
    warnings.simplefilter("ignore", FoldsReducedWarning)
    with tempfile.TemporaryDirectory() as scratch:
        root = options.store or Path(scratch) / "store"
        extract_all(options.assets, root)
        for seed, name, model in itertools.product(range(options.seeds), DATASETS, MODELS):
            if (name, model, seed) in done:
                continue
            cache = FeatureStore.open(root).cache(model, name)
            setting: dict[str, Any] = {"dataset": name, "model": model, "seed": seed}
            fresh = [setting | row for row in fits_of_split(cache, seed)]
            with options.out.open("a") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in fresh)
            rows += fresh
            print(seed, name, model, f"{sum(row['seconds'] for row in fresh):.1f} s", flush=True)
    print_tables(rows)


if __name__ == "__main__":
    main()
