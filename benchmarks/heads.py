"""Heads on real images: every head from one store, and `falkon` against scikit-learn.

Usage::

    python benchmarks/heads.py ASSETS [--store ROOT] [--seeds 5] [--datasets a,b] [--out FILE.jsonl]

ASSETS holds ``weights/<model>`` (timm local-dir folders) and ``datasets/<name>``. All layers are extracted
once; every head is then trained from the same store on the last layer. For each seed a new stratified split
of all rows is drawn. On the same standardized features, scikit-learn's LogisticRegression (C cross-validated)
and RBF SVC (C and gamma cross-validated) are fitted for comparison. Results are appended line by line, so
that a stopped run resumes.
"""

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from toptune.extract import extract
from toptune.store import FeatureStore
from toptune.train import train

HEADS = ("falkon", "ridge", "logistic", "svm", "knn", "forest")
MODELS = ("deit_tiny_patch16_224.in1k", "mobilenetv2_100.tf2_in1k")
DATASETS = ("clothing_small", "grocery_store", "trashnet", "bccd_cells", "omniglot_50")
# Cells of one slide stay on one side of the split; in the other data sets images are independent.
GROUPS = {"bccd_cells": r"(BloodImage_\d+)"}
FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)


def peers() -> dict[str, Any]:
    """Return scikit-learn's two heads, which choose parameters by cross-validation on training rows."""
    logistic = LogisticRegressionCV(
        Cs=np.logspace(-4, 2, 7),
        cv=FOLDS,
        max_iter=2000,
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
        scoring="accuracy",
    )
    grid = {"svc__C": [0.1, 1.0, 10.0, 100.0], "svc__gamma": ["scale", 1e-4, 1e-3]}
    return {
        "sklearn LogisticRegressionCV": make_pipeline(StandardScaler(), logistic),
        "sklearn SVC (CV)": GridSearchCV(make_pipeline(StandardScaler(), SVC()), grid, cv=FOLDS),
    }


def extract_all(assets: Path, root: Path, models: tuple[str, ...], datasets: tuple[str, ...]) -> None:
    """Fill the store; features that are in it already are not computed again."""
    for name in datasets:
        folder = assets / "datasets" / name
        data = folder / "images" if (folder / "images").exists() else folder
        for model in models:
            start = time.perf_counter()
            summary = extract(
                data, model=f"local-dir:{assets / 'weights' / model}", store=root, dataset=name, layers="all"
            )
            print(f"{name} {model}: {time.perf_counter() - start:.1f} s; {summary}", flush=True)


def resplit_rows(root: Path, name: str, model: str, seed: int, out: Path) -> Iterator[dict[str, Any]]:
    """Fit every head and both peers on one split, which is the split that toptune records."""
    cache = FeatureStore.open(root).cache(model, name)
    features = np.asarray(zarr.open_array(cache.path / "last.none", mode="r")[:], dtype=np.float32)
    labels = np.array(cache.manifest.labels)
    runs = {}
    for head in HEADS:
        start = time.perf_counter()
        runs[head] = train(
            root,
            dataset=name,
            model=model,
            head=head,
            out=out / f"{name}-{model}-{head}-{seed}",
            seed=seed,
            resplit=True,
            group_by=GROUPS.get(name),
        )
        seconds = time.perf_counter() - start
        yield {"fit": head, "accuracy": runs[head].metrics["accuracy"], "seconds": seconds}
    run = runs["falkon"]
    for fit, estimator in peers().items():
        start = time.perf_counter()
        estimator.fit(features[run.train_rows], labels[run.train_rows])
        accuracy = estimator.score(features[run.test_rows], labels[run.test_rows])
        yield {"fit": fit, "accuracy": accuracy, "seconds": time.perf_counter() - start}


def print_tables(rows: list[dict[str, Any]]) -> None:
    """Print mean accuracy and seconds per fit, then `falkon` minus the better peer."""
    settings = sorted({(row["dataset"], row["model"]) for row in rows})
    fits = list(dict.fromkeys(row["fit"] for row in rows))
    print("| data set | backbone | " + " | ".join(fits) + " |\n" + "|---" * (2 + len(fits)) + "|")
    for name, model in settings:
        cells = []
        for fit in fits:
            mine = [row for row in rows if (row["dataset"], row["model"], row["fit"]) == (name, model, fit)]
            accuracy = np.mean([row["accuracy"] for row in mine])
            cells.append(f"{100 * accuracy:.1f} / {np.median([row['seconds'] for row in mine]):.1f} s")
        print(f"| {name} | {model} | " + " | ".join(cells) + " |")
    print(
        "\n| data set | backbone | falkon minus better peer (points) | standard error | below 2 SE |\n"
        "|---|---|---|---|---|"
    )
    means = []
    for name, model in settings:
        here = [row for row in rows if (row["dataset"], row["model"]) == (name, model)]
        by_fit = {
            fit: np.array([r["accuracy"] for r in sorted(here, key=lambda r: r["seed"]) if r["fit"] == fit])
            for fit in fits
        }
        peer = max((fit for fit in fits if fit.startswith("sklearn")), key=lambda fit: by_fit[fit].mean())
        difference = 100 * (by_fit["falkon"] - by_fit[peer])
        error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else float("nan")
        means.append(difference.mean())
        verdict = "yes" if difference.mean() < -2 * error else "no"
        print(f"| {name} | {model} | {difference.mean():+.2f} ({peer}) | {error:.2f} | {verdict} |")
    print(f"\nmean over settings: {np.mean(means):+.2f} points")


def main() -> None:
    """Read the options, extract, fit, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("assets", type=Path)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--out", type=Path, default=Path("heads.jsonl"))
    options = parser.parse_args()
    datasets, models = tuple(options.datasets.split(",")), tuple(options.models.split(","))
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(row["dataset"], row["model"], row["seed"]) for row in rows}
    warnings.simplefilter("default")
    with tempfile.TemporaryDirectory() as scratch:
        root = options.store or Path(scratch) / "store"
        extract_all(options.assets, root, models, datasets)
        for seed in range(options.seeds):
            for name in datasets:
                for model in models:
                    if (name, model, seed) in done:
                        continue
                    fresh = [
                        {"dataset": name, "model": model, "seed": seed} | row
                        for row in resplit_rows(root, name, model, seed, Path(scratch))
                    ]
                    with options.out.open("a") as stream:
                        stream.writelines(json.dumps(row) + "\n" for row in fresh)
                    rows += fresh
                    print(
                        seed,
                        name,
                        model,
                        {row["fit"]: round(row["accuracy"], 3) for row in fresh},
                        flush=True,
                    )
    print_tables(rows)


if __name__ == "__main__":
    main()
